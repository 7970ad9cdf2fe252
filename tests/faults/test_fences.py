"""The target refuses a write for a key if, and only if, it has a newer read of that key."""

import random
from contextlib import closing
from uuid import uuid4

import pytest

from mirror.sync.connections import Database
from tests.faults.tools import DirectWriter, Running, Uncommitted, rewrite, waiting
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
    """Return the member's role in the target, or None without a row."""
    rows = target.query("select role from trip_memberships")
    return str(rows[0][0]) if rows else None


@pytest.fixture(autouse=True)
def parents(writer: DirectWriter) -> None:
    """A trip and a user exist before each test."""
    writer.apply(1, users={USER: (USER, "e", "n")}, trips={TRIP: (TRIP, "t", USER)})


def test_a_hung_older_write_is_refused(writer: DirectWriter, target: TestDatabase) -> None:
    """It was read before a demotion and arrives after it."""
    writer.apply(20, trip_memberships={MEMBER: member("MEMBER")})
    answer = writer.apply(10, trip_memberships={MEMBER: member("OWNER")})["trip_memberships"]
    assert (answer.stale, answer.newest_fence) == ([MEMBER], 20)
    assert role_of(target) == "MEMBER"


def test_a_hung_older_write_wins_without_the_rule(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """The last writer wins: the demoted member is an owner again."""
    rewrite(target, FUNCTION, "coalesce(k.newest > p_fence, false) as stale", "false as stale")
    rewrite(target, FUNCTION, "where (l.epoch, l.fence) <= (excluded.epoch, excluded.fence)", "")
    writer.apply(20, trip_memberships={MEMBER: member("MEMBER")})
    writer.apply(10, trip_memberships={MEMBER: member("OWNER")})
    assert role_of(target) == "OWNER"


def the_ledger_meets_an_unchanged_row(writer: DirectWriter) -> None:
    """Write MEMBER at 10 and at 30; a hung worker then writes OWNER, read at 20."""
    writer.apply(10, trip_memberships={MEMBER: member("MEMBER")})
    writer.apply(30, trip_memberships={MEMBER: member("MEMBER")})
    writer.apply(20, trip_memberships={MEMBER: member("OWNER")})


def test_the_ledger_advances_though_the_row_stays_as_it_is(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """The write at 30 changed no value, but it was newer."""
    the_ledger_meets_an_unchanged_row(writer)
    assert role_of(target) == "MEMBER"


def test_a_ledger_that_stands_still_lets_a_hung_write_in(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """The same steps without the rule."""
    rewrite(target, FUNCTION, "fence = excluded.fence", "fence = l.fence")
    the_ledger_meets_an_unchanged_row(writer)
    assert role_of(target) == "OWNER"


def test_deleting_an_absent_row_leaves_a_tombstone(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """An older insert of the row may still arrive."""
    writer.apply(20, trip_memberships={MEMBER: None})
    answer = writer.apply(10, trip_memberships={MEMBER: member("OWNER")})["trip_memberships"]
    assert answer.stale == [MEMBER]
    assert role_of(target) is None


def test_without_that_tombstone_the_deleted_row_comes_back(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """The same steps without the rule."""
    rewrite(
        target,
        FUNCTION,
        "where not j.stale and not j.orphan",
        "where not j.stale and not j.orphan and (j.present or exists (select from"
        " mirror.ledger_trip_memberships as s where s.user_id = j.user_id and s.present))",
    )
    writer.apply(20, trip_memberships={MEMBER: None})
    writer.apply(10, trip_memberships={MEMBER: member("OWNER")})
    assert role_of(target) == "OWNER"


def test_a_row_edited_by_hand_is_repaired_at_an_equal_fence(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """On a primary without writes the fence does not rise."""
    writer.apply(10, trip_memberships={MEMBER: member("MEMBER")})
    target.query("update trip_memberships set role = 'OWNER'")
    answer = writer.apply(10, trip_memberships={MEMBER: member("MEMBER")})["trip_memberships"]
    assert answer.stale == []
    assert role_of(target) == "MEMBER"


def test_if_equal_fences_were_refused_the_edited_row_would_stay(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """The same steps without the rule."""
    rewrite(target, FUNCTION, "(l.epoch, l.fence) <=", "(l.epoch, l.fence) <")
    writer.apply(10, trip_memberships={MEMBER: member("MEMBER")})
    target.query("update trip_memberships set role = 'OWNER'")
    writer.apply(10, trip_memberships={MEMBER: member("MEMBER")})
    assert role_of(target) == "OWNER"


def test_a_row_deleted_by_hand_is_repaired_at_an_equal_fence(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """The ledger says that the row is present; the write checks the table, too."""
    writer.apply(10, trip_memberships={MEMBER: member("MEMBER")})
    target.query("delete from trip_memberships")
    writer.apply(10, trip_memberships={MEMBER: member("MEMBER")})
    assert role_of(target) == "MEMBER"


def test_an_unchanged_row_is_not_touched(writer: DirectWriter, target: TestDatabase) -> None:
    """There is no new row version, so WAL and Realtime carry nothing."""
    writer.apply(10, trip_memberships={MEMBER: member("MEMBER")})
    before = target.query("select ctid, xmin, xmax from trip_memberships")
    writer.apply(20, trip_memberships={MEMBER: member("MEMBER")})
    assert target.query("select ctid, xmin, xmax from trip_memberships")[0][:2] == before[0][:2]


def test_an_older_write_that_waited_for_a_newer_one_is_refused(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """It began when the newer write was not committed yet, then waited for its lock."""
    writer.apply(5, trip_memberships={MEMBER: member("OWNER")})
    with closing(Database(target.url, role="target")) as database, database.transaction():
        DirectWriter(Uncommitted(database), writer.registry).apply(
            20, trip_memberships={MEMBER: None}
        )
        second = Running(lambda: writer.apply(10, trip_memberships={MEMBER: member("OWNER")}))
        until(lambda: waiting(target))
    answer = second.wait()["trip_memberships"]
    assert answer.stale == [MEMBER]
    assert answer.newest_fence is None, (
        "a worker that was just overtaken has no reason to suspect the primary"
    )
    assert role_of(target) is None


def test_the_newest_read_wins_in_any_order_of_arrival(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """Four workers write forty keys, each in its own order, without a deadlock."""
    users = [str(uuid4()) for _ in range(40)]
    writer.apply(2, users={user: (user, "e", "n") for user in users})

    def write(seed: int) -> None:
        chance = random.Random(seed)
        worker = DirectWriter.at(target.url, writer.registry)
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
