"""The target forgets old tombstones and scopes; then it refuses each write below the horizon."""

from uuid import uuid4

import pytest

from mirror.sync.targets.writing import TooOld
from tests.faults.tools import DirectWriter, Running, rewrite, waiting
from tests.support.databases import TestDatabase
from tests.support.rest import both_transports
from tests.support.waiting import until

pytestmark = both_transports


USER, TRIP = str(uuid4()), str(uuid4())
MEMBER = (TRIP, USER)
ROW = (TRIP, USER, "OWNER", "ACTIVE")
PAUSE = 42
"""An advisory lock; a write can wait for it after it is admitted and before it is checked."""


@pytest.fixture(autouse=True)
def parents(writer: DirectWriter) -> None:
    """A trip and a user exist before each test."""
    writer.apply(1, users={USER: (USER, "e", "n")}, trips={TRIP: (TRIP, "t", USER)})


def forget_at_20(writer: DirectWriter, target: TestDatabase) -> None:
    """Remove a member at 20, then purge the tombstone much later."""
    writer.apply(20, trip_memberships={MEMBER: None})
    target.query("update mirror.ledger_trip_memberships set applied_at = now() - interval '8 days'")
    assert writer.target.purge(7) == 1


def members(target: TestDatabase) -> int:
    """Return the number of members in the target."""
    return int(target.value("select count(*) from trip_memberships"))


def test_a_write_that_hung_for_longer_than_tombstones_are_kept_is_refused(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """Only the horizon still knows of the removal."""
    forget_at_20(writer, target)
    with pytest.raises(TooOld) as refused:
        writer.apply(10, trip_memberships={MEMBER: ROW})
    assert refused.value.horizon == 20
    assert members(target) == 0


def test_without_a_horizon_the_removed_member_comes_back(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """The same steps without the rule."""
    rewrite(target, "apply", "if fence < horizon then", "if false then")
    forget_at_20(writer, target)
    writer.apply(10, trip_memberships={MEMBER: ROW})
    assert members(target) == 1


def test_a_scope_opened_by_a_read_older_than_the_horizon_is_refused(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """It would close the scope at a fence that the target has forgotten."""
    forget_at_20(writer, target)
    with pytest.raises(TooOld):
        writer.open(10, "trip_memberships", "trip_id", TRIP)


def purge_a_scope_read_later(writer: DirectWriter, target: TestDatabase) -> str:
    """Mirror a member at 5, read another trip as empty at 20, and purge that scope.

    A hung worker has read the member before. The ledger knows the key at 5, and no row knows of
    20.
    """
    other = str(uuid4())
    writer.apply(5, trips={other: (other, "u", USER)}, trip_memberships={MEMBER: ROW})
    writer.open(20, "trip_memberships", "trip_id", other)
    target.query("update mirror.scopes set read_at = now() - interval '8 days'")
    writer.target.purge(7)
    return other


def test_a_write_below_the_horizon_is_refused_for_a_known_key_too(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """The ledger's fence alone would accept the write; the closed scope is forgotten."""
    purge_a_scope_read_later(writer, target)
    with pytest.raises(TooOld):
        writer.apply(10, trip_memberships={MEMBER: ROW})


def test_a_write_at_the_horizon_goes_through(writer: DirectWriter, target: TestDatabase) -> None:
    """Reads with equal fences saw the same data."""
    forget_at_20(writer, target)
    writer.apply(20, trip_memberships={MEMBER: ROW})
    assert members(target) == 1


def test_a_tombstone_younger_than_the_limit_is_kept(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """A tombstone of today is not purged, and the horizon does not rise."""
    writer.apply(20, trip_memberships={MEMBER: None})
    assert writer.target.purge(7) == 0
    assert writer.target.describe().horizon == 0


def test_purging_does_not_forget_rows_that_are_present(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """Only tombstones and scopes are purged."""
    writer.apply(10, trip_memberships={MEMBER: ROW})
    target.query("update mirror.ledger_trip_memberships set applied_at = now() - interval '8 days'")
    writer.target.purge(7)
    assert writer.open(30, "trip_memberships", "trip_id", TRIP) == [MEMBER]


def purge_before_the_write_checks(
    writer: DirectWriter, target: TestDatabase, *, purge_waits: bool
) -> None:
    """Admit a write, purge the tombstone, and only then let the write look for it."""
    rewrite(
        target,
        "apply",
        "if fence < horizon then",
        f"perform pg_catalog.pg_advisory_xact_lock_shared({PAUSE}); if fence < horizon then",
    )
    writer.apply(20, trip_memberships={MEMBER: None})
    target.query("update mirror.ledger_trip_memberships set applied_at = now() - interval '8 days'")
    with target.connect() as gate:
        gate.execute("select pg_advisory_lock(%s)", [PAUSE])
        writing = Running(lambda: writer.apply(10, trip_memberships={MEMBER: ROW}))
        until(lambda: waiting(target))
        other = DirectWriter.at(target.url, writer.registry)
        purging = Running(lambda: other.target.purge(7))
        if purge_waits:
            two_waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
            until(lambda: target.value(two_waiting) == 2)
        else:
            purging.wait()
    writing.wait()
    purging.wait()
    other.target.close()


def test_purging_waits_for_writes_that_were_admitted(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """The write still finds the tombstone."""
    purge_before_the_write_checks(writer, target, purge_waits=True)
    assert members(target) == 0


def test_without_the_lock_purging_removes_the_tombstone_that_a_write_needs(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """The same steps without the rule."""
    rewrite(target, "purge", "perform mirror.lock(true);", "")
    purge_before_the_write_checks(writer, target, purge_waits=False)
    assert members(target) == 1


def test_purging_deletes_in_pieces_and_without_the_lock(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """However many tombstones are purged, a write waits only while the horizon rises."""
    rewrite(target, "purge", "piece constant bigint := 10000", "piece constant bigint := 2")
    writer.apply(20, trip_memberships={(TRIP, str(uuid4())): None for _ in range(5)})
    target.query("update mirror.ledger_trip_memberships set applied_at = now() - interval '8 days'")
    purge = "select public.mirror_purge('7 days')"
    moved = target.value(purge)
    assert moved == {"horizon": 20, "purged": 0, "more": True}
    with target.connect(autocommit=False) as writing:
        writing.execute("select mirror.lock(false)")
        assert [target.value(purge)["purged"] for _ in range(3)] == [2, 2, 1]
        assert target.value(purge) == {"horizon": 20, "purged": 0, "more": False}


def test_purging_goes_on_until_nothing_is_left(writer: DirectWriter, target: TestDatabase) -> None:
    """Scopes are purged, too, in several pieces; the answer counts all of them."""
    rewrite(target, "purge", "piece constant bigint := 10000", "piece constant bigint := 2")
    writer.apply(20, trip_memberships={(TRIP, str(uuid4())): None for _ in range(3)})
    writer.open(21, "trip_memberships", "trip_id", TRIP)
    target.query("update mirror.ledger_trip_memberships set applied_at = now() - interval '8 days'")
    target.query("update mirror.scopes set read_at = now() - interval '8 days'")
    assert writer.target.purge(7) == 4
    assert writer.target.describe().horizon == 21
    assert writer.target.purge(7) == 0


def test_a_tombstone_that_a_write_holds_is_left_for_the_next_purge(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """The purge and the write do not wait for each other."""
    writer.apply(20, trip_memberships={MEMBER: None, (TRIP, str(uuid4())): None})
    target.query("update mirror.ledger_trip_memberships set applied_at = now() - interval '8 days'")
    target.query("update mirror.state set horizon = 20")
    with target.connect(autocommit=False) as writing:
        writing.execute(
            "select from mirror.ledger_trip_memberships where user_id = %s for update", [USER]
        )
        assert writer.target.purge(7) == 1
    assert writer.target.purge(7) == 1
