"""What could contradict an old write is forgotten some day; from then on its age alone counts."""

from uuid import uuid4

import pytest

from mirror.sync.targets.writing import TooOld
from tests.faults.tools import Hand, Running, rewrite, waiting
from tests.support.databases import TestDatabase
from tests.support.rest import both_transports
from tests.support.waiting import until

pytestmark = both_transports


USER, TRIP = str(uuid4()), str(uuid4())
MEMBER = (TRIP, USER)
ROW = (TRIP, USER, "OWNER", "ACTIVE")
PAUSE = 42
"""An advisory lock at which a write can be made to wait, between being admitted and judged."""


@pytest.fixture(autouse=True)
def parents(hand: Hand) -> None:
    """A trip and a user are there before anything else."""
    hand.apply(1, users={USER: (USER, "e", "n")}, trips={TRIP: (TRIP, "t", USER)})


def forget_at_20(hand: Hand, target: TestDatabase) -> None:
    """A member is removed at 20; much later the tombstone is purged."""
    hand.apply(20, trip_memberships={MEMBER: None})
    target.query("update mirror.ledger_trip_memberships set applied_at = now() - interval '8 days'")
    assert hand.target.purge(7) == 1


def members(target: TestDatabase) -> int:
    """Return how many members there are."""
    return int(target.value("select count(*) from trip_memberships"))


def test_a_write_hung_for_longer_than_tombstones_last_is_refused(
    hand: Hand, target: TestDatabase
) -> None:
    """Nothing is left that knows of the removal, except the horizon."""
    forget_at_20(hand, target)
    with pytest.raises(TooOld) as refused:
        hand.apply(10, trip_memberships={MEMBER: ROW})
    assert refused.value.horizon == 20
    assert members(target) == 0


def test_without_a_horizon_the_removed_member_comes_back(hand: Hand, target: TestDatabase) -> None:
    """The same without the rule."""
    rewrite(target, "apply", "if fence < horizon then", "if false then")
    forget_at_20(hand, target)
    hand.apply(10, trip_memberships={MEMBER: ROW})
    assert members(target) == 1


def test_a_scope_opened_by_a_read_older_than_the_horizon_is_refused(
    hand: Hand, target: TestDatabase
) -> None:
    """It would close the scope at a moment that is forgotten."""
    forget_at_20(hand, target)
    with pytest.raises(TooOld):
        hand.open(10, "trip_memberships", "trip_id", TRIP)


def a_hung_write_of_a_known_key(hand: Hand, target: TestDatabase) -> str:
    """A known member's row is written by a worker that read it before its trip was emptied.

    The ledger knows the key at 5; that the trip was read as empty at 20 is purged.
    """
    other = str(uuid4())
    hand.apply(5, trips={other: (other, "u", USER)}, trip_memberships={MEMBER: ROW})
    hand.open(20, "trip_memberships", "trip_id", other)
    target.query("update mirror.scopes set read_at = now() - interval '8 days'")
    hand.target.purge(7)
    return other


def test_older_than_the_horizon_is_refused_also_for_a_key_that_is_known(
    hand: Hand, target: TestDatabase
) -> None:
    """The ledger's fence alone would let it pass; the scope that closed is forgotten."""
    a_hung_write_of_a_known_key(hand, target)
    with pytest.raises(TooOld):
        hand.apply(10, trip_memberships={MEMBER: ROW})


def test_a_write_at_the_horizon_goes_through(hand: Hand, target: TestDatabase) -> None:
    """Equal fences saw the same data."""
    forget_at_20(hand, target)
    hand.apply(20, trip_memberships={MEMBER: ROW})
    assert members(target) == 1


def test_what_is_younger_than_asked_is_remembered(hand: Hand, target: TestDatabase) -> None:
    """A tombstone of today is not purged, and the horizon stays."""
    hand.apply(20, trip_memberships={MEMBER: None})
    assert hand.target.purge(7) == 0
    assert hand.target.describe().horizon == 0


def test_purging_does_not_forget_rows_that_are_there(hand: Hand, target: TestDatabase) -> None:
    """Only tombstones and scopes go."""
    hand.apply(10, trip_memberships={MEMBER: ROW})
    target.query("update mirror.ledger_trip_memberships set applied_at = now() - interval '8 days'")
    hand.target.purge(7)
    assert hand.open(30, "trip_memberships", "trip_id", TRIP) == [MEMBER]


def a_write_in_between(hand: Hand, target: TestDatabase, *, purge_waits: bool) -> None:
    """A write is admitted, then the tombstone is purged, then the write looks for it."""
    rewrite(
        target,
        "apply",
        "if fence < horizon then",
        f"perform pg_catalog.pg_advisory_xact_lock_shared({PAUSE}); if fence < horizon then",
    )
    hand.apply(20, trip_memberships={MEMBER: None})
    target.query("update mirror.ledger_trip_memberships set applied_at = now() - interval '8 days'")
    with target.connect() as gate:
        gate.execute("select pg_advisory_lock(%s)", [PAUSE])
        writing = Running(lambda: hand.apply(10, trip_memberships={MEMBER: ROW}))
        until(lambda: waiting(target))
        other = Hand.at(target.url, hand.registry)
        purging = Running(lambda: other.target.purge(7))
        if purge_waits:
            both = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
            until(lambda: target.value(both) == 2)
        else:
            purging.wait()
    writing.wait()
    purging.wait()
    other.target.close()


def test_purging_waits_for_writes_that_were_admitted(hand: Hand, target: TestDatabase) -> None:
    """The write still finds the tombstone."""
    a_write_in_between(hand, target, purge_waits=True)
    assert members(target) == 0


def test_without_a_lock_purging_takes_the_tombstone_from_under_a_write(
    hand: Hand, target: TestDatabase
) -> None:
    """The same without the rule."""
    rewrite(target, "purge", "perform mirror.lock(true);", "")
    a_write_in_between(hand, target, purge_waits=False)
    assert members(target) == 1


def test_purging_deletes_in_pieces_and_without_the_lock(hand: Hand, target: TestDatabase) -> None:
    """However many tombstones there are, no write waits for longer than the horizon takes."""
    rewrite(target, "purge", "piece constant bigint := 10000", "piece constant bigint := 2")
    hand.apply(20, trip_memberships={(TRIP, str(uuid4())): None for _ in range(5)})
    target.query("update mirror.ledger_trip_memberships set applied_at = now() - interval '8 days'")
    purge = "select public.mirror_purge('7 days')"
    moved = target.value(purge)
    assert moved == {"horizon": 20, "purged": 0, "more": True}
    with target.connect(autocommit=False) as writing:
        writing.execute("select mirror.lock(false)")
        assert [target.value(purge)["purged"] for _ in range(3)] == [2, 2, 1]
        assert target.value(purge) == {"horizon": 20, "purged": 0, "more": False}


def test_purging_goes_on_until_nothing_is_left(hand: Hand, target: TestDatabase) -> None:
    """Also with scopes and several pieces; the answer counts all of them."""
    rewrite(target, "purge", "piece constant bigint := 10000", "piece constant bigint := 2")
    hand.apply(20, trip_memberships={(TRIP, str(uuid4())): None for _ in range(3)})
    hand.open(21, "trip_memberships", "trip_id", TRIP)
    target.query("update mirror.ledger_trip_memberships set applied_at = now() - interval '8 days'")
    target.query("update mirror.scopes set read_at = now() - interval '8 days'")
    assert hand.target.purge(7) == 4
    assert hand.target.describe().horizon == 21
    assert hand.target.purge(7) == 0


def test_a_tombstone_that_a_write_holds_is_left_for_the_next_purge(
    hand: Hand, target: TestDatabase
) -> None:
    """Neither waits for the other."""
    hand.apply(20, trip_memberships={MEMBER: None, (TRIP, str(uuid4())): None})
    target.query("update mirror.ledger_trip_memberships set applied_at = now() - interval '8 days'")
    target.query("update mirror.state set horizon = 20")
    with target.connect(autocommit=False) as writing:
        writing.execute(
            "select from mirror.ledger_trip_memberships where user_id = %s for update", [USER]
        )
        assert hand.target.purge(7) == 1
    assert hand.target.purge(7) == 1
