"""A write is in force before it is on disk; its event is acknowledged when it is there."""

from collections.abc import Iterator

import psycopg
import pytest

from mirror.devstack import PostgresCluster
from mirror.errors import NotMigrated, Transient
from mirror.sync.drain import Drain
from tests.faults.tools import Running, record, waiting
from tests.support.databases import TestDatabase
from tests.support.waiting import until

Member = tuple[str, str]

SLOW_FLUSH = """
create or replace function public.mirror_flush() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$ begin perform pg_advisory_xact_lock(4711); perform mirror.flush(); end $$
"""


@pytest.fixture
def slow_disk(target: TestDatabase, members: list[Member]) -> Iterator[psycopg.Connection]:
    """Hold each flush of the target back until this connection ends its transaction."""
    target.query(SLOW_FLUSH)
    holding = psycopg.connect(target.url)
    holding.execute("select pg_advisory_xact_lock(4711)")
    yield holding
    holding.close()


def is_member(target: TestDatabase, member: Member) -> bool:
    """Return whether the target lets somebody in."""
    found = "select count(*) from trip_memberships where trip_id = %s and user_id = %s"
    return bool(target.value(found, *member))


def remove(primary: TestDatabase, member: Member) -> None:
    """Remove a member from a trip, with an event."""
    primary.query("delete from trip_memberships where trip_id = %s and user_id = %s", *member)
    record(primary, "trip_memberships", *member)


@pytest.fixture
def running(
    primary: TestDatabase,
    target: TestDatabase,
    drain: Drain,
    members: list[Member],
    slow_disk: psycopg.Connection,
) -> Running:
    """A drain whose revocation is in force, and not on disk yet."""
    remove(primary, members[0])
    running = Running(drain.run)
    until(lambda: not is_member(target, members[0]))
    return running


def waiting_events(primary: TestDatabase) -> int:
    """Return the number of events that are not acknowledged."""
    return int(primary.value("select count(*) from mirror.outbox"))


def test_a_revocation_is_in_force_before_it_is_on_disk(
    primary: TestDatabase, target: TestDatabase, slow_disk: psycopg.Connection, running: Running
) -> None:
    """Its event waits until it is there."""
    until(lambda: waiting(target))
    assert waiting_events(primary) == 1
    slow_disk.rollback()
    assert running.wait().failed == 0
    assert waiting_events(primary) == 0


def test_a_crash_of_the_target_before_the_flush_loses_no_event(
    primary: TestDatabase,
    target: TestDatabase,
    target_cluster: PostgresCluster,
    drain: Drain,
    members: list[Member],
    running: Running,
) -> None:
    """Whether the crash undoes the write or not, its event is delivered again."""
    target_cluster.kill()
    with pytest.raises(Transient):
        running.wait()
    assert waiting_events(primary) == 1
    target_cluster.restart()
    assert drain.run().failed == 0
    assert waiting_events(primary) == 0
    assert not is_member(target, members[0])


def test_without_the_function_a_worker_names_the_migration(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member]
) -> None:
    """The worker is newer than the target, or somebody has dropped a part; its events wait."""
    for missing in ("function public.mirror_flush()", "sequence mirror.flushes"):
        remove(primary, members[0])
        target.query(f"drop {missing}")
        with pytest.raises(NotMigrated, match="mirror migrate supabase"):
            drain.run()
        assert waiting_events(primary) >= 1


def test_a_call_that_changes_nothing_waits_for_what_another_wrote(target: TestDatabase) -> None:
    """A worker over REST may find a row that one over PostgreSQL has just written."""
    target.query("begin; set local synchronous_commit = off; create table other (); commit")
    written = target.value("select pg_current_wal_insert_lsn()")
    target.query("select mirror.lock(false)")
    assert target.value("select pg_current_wal_flush_lsn() >= %s", written)
