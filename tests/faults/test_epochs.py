"""A primary that was restored from a backup, was moved, or is another database."""

from collections.abc import Callable

import pytest
from sqlalchemy.orm import Session

from mappings.trips import registry
from mirror.devstack import PostgresCluster
from mirror.errors import NotPaired, WentBack
from mirror.hooks import Hooks
from mirror.settings import load_settings
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_drain
from tests.faults.tools import HungWorker, Intercepted, record, rewrite
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory
from tests.support.rest import both_transports

pytestmark = both_transports


FAR = 1 << 60


@pytest.fixture
def member(session: Session, recorder: Hooks, drain: Drain) -> tuple[str, str]:
    """A mirrored member: the ids of the trip and of the user."""
    membership = MembershipFactory.create()
    session.flush()
    recorder.changed(session, "trip_memberships", (membership.trip_id, membership.user_id))
    session.commit()
    drain.run()
    return str(membership.trip_id), str(membership.user_id)


def members(target: TestDatabase) -> int:
    """Return the number of members in the target."""
    return int(target.value("select count(*) from trip_memberships"))


def waiting_events(primary: TestDatabase) -> int:
    """Return the number of events in the outbox and in the retries."""
    return int(
        primary.value(
            "select (select count(*) from mirror.outbox) + (select count(*) from mirror.retries)"
        )
    )


def test_a_worker_that_was_overtaken_reads_again(
    primary: TestDatabase,
    target: TestDatabase,
    member: tuple[str, str],
    make_drain: Callable[..., Drain],
) -> None:
    """Another worker writes a newer read while the first one is on its way to the target."""
    slow, fast = make_drain(), make_drain()

    def overtake() -> None:
        primary.query("delete from trip_memberships")
        record(primary, "trip_memberships", *member)
        fast.run()
        primary.query(
            "insert into trip_memberships values (%s, %s, 'ADMIN', 'ACTIVE', null)", *member
        )

    slow.target = Intercepted(slow.target, before=overtake)
    record(primary, "trip_memberships", *member)
    slow.run()
    assert target.query("select role from trip_memberships") == [("ADMIN",)]
    assert waiting_events(primary) == 0


def test_a_primary_older_than_the_targets_newest_read_stops_the_drain(
    primary: TestDatabase, target: TestDatabase, member: tuple[str, str], drain: Drain
) -> None:
    """The drain raises an error, keeps the events, and writes nothing."""
    target.query("update mirror.ledger_trip_memberships set fence = %s", FAR)
    primary.query("delete from trip_memberships")
    record(primary, "trip_memberships", *member)
    with pytest.raises(WentBack, match="mirror rebase"):
        drain.run()
    assert members(target) == 1
    assert waiting_events(primary) == 1


def test_a_primary_older_than_a_scope_that_was_read_stops_the_drain(
    primary: TestDatabase, target: TestDatabase, member: tuple[str, str], drain: Drain
) -> None:
    """Scopes keep the fence of their last read, as the ledger does."""
    record(primary, "trip_memberships", member[0], reference="trip_id")
    drain.run()
    target.query("update mirror.scopes set fence = %s", FAR)
    record(primary, "trip_memberships", *member)
    with pytest.raises(WentBack):
        drain.run()
    assert waiting_events(primary) == 1


def test_a_primary_older_than_the_horizon_stops_the_drain(
    primary: TestDatabase, target: TestDatabase, member: tuple[str, str], drain: Drain
) -> None:
    """The horizon keeps the newest fence that was purged."""
    target.query("update mirror.state set horizon = %s", FAR)
    record(primary, "trip_memberships", *member)
    with pytest.raises(WentBack):
        drain.run()
    assert waiting_events(primary) == 1


def rebase(primary: TestDatabase, drain: Drain) -> None:
    """Do the same as `mirror rebase`."""
    with drain.source.snapshot() as snapshot:
        identity = snapshot.stamp.identity
    epoch = drain.target.describe().epoch + 1
    drain.target.rebase(identity, epoch)
    primary.query("update mirror.state set epoch = %s", epoch)


def test_after_a_rebase_the_kept_events_go_through(
    primary: TestDatabase, target: TestDatabase, member: tuple[str, str], drain: Drain
) -> None:
    """The restored primary is now the truth, although its fences are small."""
    target.query("update mirror.ledger_trip_memberships set fence = %s", FAR)
    target.query("insert into mirror.scopes values ('trip_memberships', '*', '', 0, %s)", FAR)
    primary.query("update trip_memberships set role = 'OWNER'")
    record(primary, "trip_memberships", *member)
    with pytest.raises(WentBack):
        drain.run()
    rebase(primary, drain)
    drain.run()
    assert target.query("select role from trip_memberships") == [("OWNER",)]
    assert waiting_events(primary) == 0


def test_a_read_from_before_a_rebase_is_refused(
    primary: TestDatabase, target: TestDatabase, member: tuple[str, str], drain: Drain
) -> None:
    """Its fence may be larger than every fence of the new epoch."""
    worker = HungWorker(drain.source, drain.target, registry, "trip_memberships", [member])
    rebase(primary, drain)
    primary.query("delete from trip_memberships")
    record(primary, "trip_memberships", *member)
    drain.run()
    with pytest.raises(WentBack):
        worker.wake()
    assert members(target) == 0


def test_without_epochs_a_read_from_before_a_rebase_wins(
    primary: TestDatabase, target: TestDatabase, member: tuple[str, str], drain: Drain
) -> None:
    """The same steps without the rule: no event is left that undoes the write."""
    rewrite(
        target,
        "admit",
        "elsif state.epoch > (request ->> 'epoch')::integer then",
        "elsif false then",
    )
    rewrite(target, "apply_trip_memberships", "(l.epoch, l.fence) <=", "(0, l.fence) <=")
    worker = HungWorker(drain.source, drain.target, registry, "trip_memberships", [member])
    rebase(primary, drain)
    target.query("update mirror.ledger_trip_memberships set fence = 1")
    primary.query("delete from trip_memberships")
    target.query("delete from trip_memberships")
    worker.wake()
    assert members(target) == 1


def test_a_worker_on_its_way_during_a_rebase_reads_again(
    primary: TestDatabase,
    target: TestDatabase,
    member: tuple[str, str],
    make_drain: Callable[..., Drain],
) -> None:
    """The worker need not stop: its next read belongs to the new epoch."""
    slow, other = make_drain(), make_drain()
    slow.target = Intercepted(slow.target, before=lambda: rebase(primary, other))
    primary.query("delete from trip_memberships")
    record(primary, "trip_memberships", *member)
    slow.run()
    assert members(target) == 0


def test_a_primary_restored_to_before_a_rebase_stops_the_drain(
    primary: TestDatabase, target: TestDatabase, member: tuple[str, str], drain: Drain
) -> None:
    """The primary's epoch is lower than the target's."""
    rebase(primary, drain)
    primary.query("update mirror.state set epoch = 0")
    record(primary, "trip_memberships", *member)
    with pytest.raises(WentBack, match="rebase"):
        drain.run()
    assert waiting_events(primary) == 1


def test_rebasing_to_the_same_epoch_twice_is_no_error(
    primary: TestDatabase, member: tuple[str, str], drain: Drain
) -> None:
    """A worker with the new epoch may reach the target before the command does."""
    rebase(primary, drain)
    with drain.source.snapshot() as snapshot:
        stamp = snapshot.stamp
    drain.target.rebase(stamp.identity, stamp.epoch)
    assert drain.target.describe().epoch == stamp.epoch


def test_rebasing_to_an_epoch_that_is_over_is_refused(
    primary: TestDatabase, member: tuple[str, str], drain: Drain
) -> None:
    """Of two commands for two primaries at the same time, one must fail."""
    rebase(primary, drain)
    with pytest.raises(WentBack):
        drain.target.rebase("another primary", 1)


@pytest.fixture
def copy_of_the_primary(
    primary_cluster: PostgresCluster,
    primary: TestDatabase,
    member: tuple[str, str],
    session: Session,
    drain: Drain,
) -> TestDatabase:
    """A staging copy that has no members."""
    # PostgreSQL copies a database only while no session is connected to it.
    session.close()
    drain.close()
    primary.disconnect()
    primary_cluster.create_database("staging_copy", template=primary.url.rpartition("/")[2])
    copy = TestDatabase(primary_cluster.url("staging_copy"))
    copy.query("delete from trip_memberships")
    record(copy, "trip_memberships", *member)
    return copy


def run_the_copy(copy: TestDatabase, target: TestDatabase) -> None:
    """Run a worker with the copy's address and the production target's."""
    drain = build_drain(
        load_settings(primary_database_url=copy.url, supabase_db_url=target.url), registry
    )
    try:
        drain.run()
    finally:
        drain.close()


@pytest.fixture(autouse=True)
def drop_the_copy(primary_cluster: PostgresCluster) -> object:
    """Drop the copy after each test."""
    yield
    primary_cluster.drop_database("staging_copy")


def take_a_step(primary: TestDatabase, drain: Drain, member: tuple[str, str]) -> None:
    """Let the primary and its target take a step together."""
    primary.query("update mirror.pairing set stepped_at = stepped_at - interval '2 seconds'")
    record(primary, "trip_memberships", *member)
    drain.run()


@pytest.fixture
def left_behind(
    copy_of_the_primary: TestDatabase,
    primary: TestDatabase,
    make_drain: Callable[..., Drain],
    member: tuple[str, str],
) -> TestDatabase:
    """The copy, after the primary has taken a step without it."""
    take_a_step(primary, make_drain(), member)
    return copy_of_the_primary


def test_a_copy_with_production_settings_is_refused(
    left_behind: TestDatabase, target: TestDatabase
) -> None:
    """Until an operator rebases on purpose; the copy's events stay."""
    with pytest.raises(NotPaired, match="rebase"):
        run_the_copy(left_behind, target)
    assert members(target) == 1
    assert waiting_events(left_behind) == 1


def test_without_the_pair_a_copy_writes_into_production(
    left_behind: TestDatabase, target: TestDatabase
) -> None:
    """The same steps without the rule."""
    rewrite(
        target,
        "check_pair",
        "if check_pair.token is distinct from",
        "if false and check_pair.token <>",
    )
    rewrite(target, "step", "if not exists", "if false and not exists")
    run_the_copy(left_behind, target)
    assert members(target) == 0
