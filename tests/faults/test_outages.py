"""While a server is down all events wait; when it is back, work continues."""

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session

from mirror.devstack import PostgresCluster
from mirror.errors import MirrorError, TooSlow, Transient
from mirror.sync.drain import Drain
from tests.faults.tools import record
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory


@pytest.fixture
def backlog(session: Session, primary: TestDatabase) -> None:
    """Ten members whose events wait."""
    members = [MembershipFactory.create() for _ in range(10)]
    session.commit()
    session.close()
    for member in members:
        record(primary, "trip_memberships", member.trip_id, member.user_id)


@pytest.fixture
def stopped_target(
    target_cluster: PostgresCluster, target: TestDatabase, drain: Drain
) -> Iterator[PostgresCluster]:
    """The target's server, stopped while a worker has open connections to it."""
    drain.target.describe()
    target_cluster.stop()
    yield target_cluster
    target_cluster.restart()


def waiting_events(primary: TestDatabase) -> tuple[int, int]:
    """Return the number of events in the outbox, and of those set apart."""
    return (
        primary.value("select count(*) from mirror.outbox"),
        primary.value("select count(*) from mirror.retries"),
    )


def test_while_the_target_is_down_nothing_is_buried(
    primary: TestDatabase,
    target: TestDatabase,
    drain: Drain,
    backlog: None,
    stopped_target: PostgresCluster,
) -> None:
    """However often it is tried; the first attempt after the restart succeeds."""
    for _ in range(8):
        with pytest.raises(Transient):
            drain.run()
    assert waiting_events(primary) == (10, 0)
    stopped_target.restart()
    assert drain.run().failed == 0
    assert target.value("select count(*) from trip_memberships") == 10


def test_a_run_survives_connections_that_died_before_it(
    primary_cluster: PostgresCluster,
    primary: TestDatabase,
    target: TestDatabase,
    drain: Drain,
    backlog: None,
) -> None:
    """After a restart, a pooler's timeout or a suspended server, the run reconnects."""
    drain.run()
    record(primary, "trip_memberships", reference="*")
    primary_cluster.restart()
    assert drain.run().failed == 0
    assert waiting_events(primary) == (0, 0)


def test_events_of_a_claim_that_the_primarys_restart_broke_off_are_not_suspected(
    primary_cluster: PostgresCluster, primary: TestDatabase, drain: Drain, backlog: None
) -> None:
    """Their worker is alive, and withdraws its note once the primary is back."""
    claim = drain.queue.claim(100)
    assert claim is not None
    primary_cluster.stop()
    claim.release()
    primary_cluster.restart()
    drain.close()
    again = drain.queue.claim(100)
    assert again is not None
    assert len(again.events) == 10
    again.release()


def test_a_target_that_does_not_answer_in_time_is_too_slow(
    primary: TestDatabase, target: TestDatabase, drain: Drain, backlog: None
) -> None:
    """Another session holds a lock in the target; the worker stops waiting first."""
    drain.target.database.statement_seconds = 0.2  # type: ignore[attr-defined]
    with target.connect(autocommit=False) as holding:
        holding.execute("select pg_advisory_xact_lock(1835627122, 1)")
        claim = drain.queue.claim(100)
        assert claim is not None
        with pytest.raises(TooSlow):
            drain.sync(claim.events)
        claim.release()
    assert drain.run().failed == 0


def test_a_worker_whose_claim_was_ended_by_the_primary_gives_up_its_batch(
    primary: TestDatabase, target: TestDatabase, drain: Drain, backlog: None
) -> None:
    """Its claim was idle for too long. Its writes are fenced; its events are delivered again."""
    claim = drain.queue.claim(100)
    assert claim is not None
    drain.sync(claim.events)
    primary.query(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and state = 'idle in transaction'"
    )
    with pytest.raises(MirrorError):
        claim.acknowledge()
    claim.release()
    assert waiting_events(primary) == (10, 0)
    assert drain.run().failed == 0
    assert waiting_events(primary) == (0, 0)
