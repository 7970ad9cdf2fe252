"""A write is refused for a key if, and only if, something fresher is known of it."""

import random
from contextlib import closing
from uuid import uuid4

import pytest

from mirror.sync.connections import Database
from mirror.sync.targets.postgres import PostgresTarget
from tests.faults.tools import Hand, Running, rewrite, waiting
from tests.support.databases import TestDatabase
from tests.support.rest import both_transports
from tests.support.waiting import until

pytestmark = both_transports


USER, TRIP = str(uuid4()), str(uuid4())
MEMBER = (TRIP, USER)
FUNCTION = "apply_trip_memberships"


def member(role: str) -> tuple[str, str, str, str]:
    """Return the row of a member."""
    return (TRIP, USER, role, "ACTIVE")


def role_of(target: TestDatabase) -> str | None:
    """Return the member's role in the target, or None."""
    rows = target.query("select role from trip_memberships")
    return str(rows[0][0]) if rows else None


@pytest.fixture(autouse=True)
def parents(hand: Hand) -> None:
    """A trip and a user are there before anything else."""
    hand.apply(1, users={USER: (USER, "e", "n")}, trips={TRIP: (TRIP, "t", USER)})


def test_a_hung_older_write_is_refused(hand: Hand, target: TestDatabase) -> None:
    """It was read before a demotion and arrives after it."""
    hand.apply(20, trip_memberships={MEMBER: member("MEMBER")})
    answer = hand.apply(10, trip_memberships={MEMBER: member("OWNER")})["trip_memberships"]
    assert (answer.stale, answer.newest_fence) == ([MEMBER], 20)
    assert role_of(target) == "MEMBER"


def test_a_hung_older_write_wins_without_the_rule(hand: Hand, target: TestDatabase) -> None:
    """Last writer wins: the demoted member is an owner again."""
    rewrite(target, FUNCTION, "coalesce(k.newest > p_fence, false) as stale", "false as stale")
    rewrite(target, FUNCTION, "where (l.epoch, l.fence) <= (excluded.epoch, excluded.fence)", "")
    hand.apply(20, trip_memberships={MEMBER: member("MEMBER")})
    hand.apply(10, trip_memberships={MEMBER: member("OWNER")})
    assert role_of(target) == "OWNER"


def the_ledger_meets_an_unchanged_row(hand: Hand) -> None:
    """Member at 10, something else at 20 while a worker hangs, member again at 30."""
    hand.apply(10, trip_memberships={MEMBER: member("MEMBER")})
    hand.apply(30, trip_memberships={MEMBER: member("MEMBER")})
    hand.apply(20, trip_memberships={MEMBER: member("OWNER")})


def test_the_ledger_advances_though_the_row_stays_as_it_is(
    hand: Hand, target: TestDatabase
) -> None:
    """The write that changed nothing was fresher all the same."""
    the_ledger_meets_an_unchanged_row(hand)
    assert role_of(target) == "MEMBER"


def test_a_ledger_that_stands_still_lets_a_hung_write_in(hand: Hand, target: TestDatabase) -> None:
    """The same without the rule."""
    rewrite(target, FUNCTION, "fence = excluded.fence", "fence = l.fence")
    the_ledger_meets_an_unchanged_row(hand)
    assert role_of(target) == "OWNER"


def test_deleting_an_absent_row_leaves_a_tombstone(hand: Hand, target: TestDatabase) -> None:
    """The row's insert still hangs somewhere."""
    hand.apply(20, trip_memberships={MEMBER: None})
    answer = hand.apply(10, trip_memberships={MEMBER: member("OWNER")})["trip_memberships"]
    assert answer.stale == [MEMBER]
    assert role_of(target) is None


def test_without_that_tombstone_the_deleted_row_comes_back(
    hand: Hand, target: TestDatabase
) -> None:
    """The same without the rule."""
    rewrite(
        target,
        FUNCTION,
        "where not j.stale and not j.orphan",
        "where not j.stale and not j.orphan and (j.present or j.was_present)",
    )
    hand.apply(20, trip_memberships={MEMBER: None})
    hand.apply(10, trip_memberships={MEMBER: member("OWNER")})
    assert role_of(target) == "OWNER"


def test_a_row_edited_by_hand_is_repaired_at_an_equal_fence(
    hand: Hand, target: TestDatabase
) -> None:
    """On a quiet primary the fence stands still."""
    hand.apply(10, trip_memberships={MEMBER: member("MEMBER")})
    target.query("update trip_memberships set role = 'OWNER'")
    answer = hand.apply(10, trip_memberships={MEMBER: member("MEMBER")})["trip_memberships"]
    assert answer.stale == []
    assert role_of(target) == "MEMBER"


def test_if_equal_fences_were_refused_the_edited_row_would_stay(
    hand: Hand, target: TestDatabase
) -> None:
    """The same without the rule."""
    rewrite(target, FUNCTION, "coalesce(k.newest > p_fence", "coalesce(k.newest >= p_fence")
    hand.apply(10, trip_memberships={MEMBER: member("MEMBER")})
    target.query("update trip_memberships set role = 'OWNER'")
    hand.apply(10, trip_memberships={MEMBER: member("MEMBER")})
    assert role_of(target) == "OWNER"


def test_a_row_deleted_by_hand_is_repaired_at_an_equal_fence(
    hand: Hand, target: TestDatabase
) -> None:
    """The ledger says it is there; the table is asked all the same."""
    hand.apply(10, trip_memberships={MEMBER: member("MEMBER")})
    target.query("delete from trip_memberships")
    hand.apply(10, trip_memberships={MEMBER: member("MEMBER")})
    assert role_of(target) == "MEMBER"


def test_an_unchanged_row_is_not_touched(hand: Hand, target: TestDatabase) -> None:
    """No new row version: nothing for WAL or Realtime to tell."""
    hand.apply(10, trip_memberships={MEMBER: member("MEMBER")})
    before = target.query("select ctid, xmin, xmax from trip_memberships")
    hand.apply(20, trip_memberships={MEMBER: member("MEMBER")})
    assert target.query("select ctid, xmin, xmax from trip_memberships")[0][:2] == before[0][:2]


def test_an_older_write_that_waited_for_a_newer_one_is_refused(
    hand: Hand, target: TestDatabase
) -> None:
    """It judged by a ledger in which the newer one was not committed yet."""
    hand.apply(5, trip_memberships={MEMBER: member("OWNER")})
    with closing(Database(target.url, role="target")) as database, database.transaction():
        Hand(PostgresTarget(database), hand.registry).apply(20, trip_memberships={MEMBER: None})
        second = Running(lambda: hand.apply(10, trip_memberships={MEMBER: member("OWNER")}))
        until(lambda: waiting(target))
    answer = second.wait()["trip_memberships"]
    assert answer.stale == [MEMBER]
    assert answer.newest_fence is None, (
        "who was just overtaken has no reason to suspect the primary"
    )
    assert role_of(target) is None


def test_whatever_the_order_of_arrival_the_freshest_read_stands(
    hand: Hand, target: TestDatabase
) -> None:
    """Four workers write forty keys in orders of their own, without a deadlock."""
    users = [str(uuid4()) for _ in range(40)]
    hand.apply(2, users={user: (user, "e", "n") for user in users})

    def write(seed: int) -> None:
        chance = random.Random(seed)
        worker = Hand.at(target.url, hand.registry)
        for _ in range(25):
            fence = chance.randrange(10, 1000)
            chosen = chance.sample(users, 12)
            rows = {
                (TRIP, user): None if fence % 3 == 0 else (TRIP, user, str(fence), "ACTIVE")
                for user in chosen
            }
            worker.apply(fence, trip_memberships=rows)
        worker.target.close()

    for worker in [Running(lambda seed=seed: write(seed)) for seed in range(4)]:  # type: ignore[misc]
        worker.wait()
    wrong = target.value(
        "select count(*) from mirror.ledger_trip_memberships as l"
        " left join trip_memberships as t using (trip_id, user_id)"
        " where t.role is distinct from case when l.fence %% 3 <> 0 then l.fence::text end".replace(
            "%%", "%"
        )
    )
    assert wrong == 0
    newest: dict[str, int] = {}
    for seed in range(4):
        chance = random.Random(seed)
        for _ in range(25):
            fence = chance.randrange(10, 1000)
            for user in chance.sample(users, 12):
                newest[user] = max(newest.get(user, 0), fence)
    ledger = target.query("select user_id::text, fence from mirror.ledger_trip_memberships")
    assert dict(ledger) == newest
