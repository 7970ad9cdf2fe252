"""The history: how long events took until they were in force, and the last revocations."""

from collections.abc import Callable
from contextlib import closing
from uuid import uuid4

from structlog.testing import capture_logs

from mappings.trips import registry
from mirror.diagnostics.figures import read_figures
from mirror.diagnostics.primary_figures import PrimaryFigures
from mirror.settings import Settings
from mirror.sync.drain import Drain
from mirror.sync.history import Delivered, History
from mirror.sync.wiring import build_source, build_target, primary_database
from tests.support.databases import TestDatabase

RECORD = """
insert into mirror.outbox (recorded_at, lane, mapping, key)
values (now() - %s * interval '1 second', %s, %s, array[%s::text])
"""
BUCKETS = "select lane, bound::text, events from mirror.delays order by lane, bound"


def figures(settings: Settings) -> PrimaryFigures:
    """Return the primary's figures, which must be known."""
    with closing(build_source(settings)) as source, closing(build_target(settings)) as target:
        primary = read_figures(settings, registry, source, target).primary
    assert isinstance(primary, PrimaryFigures), primary
    return primary


def test_a_delay_begins_with_the_transaction_and_ends_when_the_event_is_in_force(
    drain: Drain, primary: TestDatabase, settings: Settings
) -> None:
    """Each lane is counted by itself; only revocations are listed, with their ids."""
    primary.query(RECORD, 20, 0, "users", str(uuid4()))
    primary.query(RECORD, 100, 1, "trips", str(uuid4()))
    primary.query(RECORD, 0, 1, "trips", str(uuid4()))
    (number,) = primary.query("select id from mirror.outbox where lane = 0")[0]
    drain.run()
    known = figures(settings)
    revocations, grants = known.delays
    assert (revocations.lane, revocations.events) == ("revocation", 1)
    assert list(revocations.buckets) == [(30, 1), (None, 1)]
    assert revocations.seconds > 20
    assert (grants.lane, grants.events) == ("grant", 2)
    assert list(grants.buckets[-2:]) == [(120, 2), (None, 2)]
    (listed,) = known.revocations
    assert (listed.id, listed.mapping) == (number, "users")
    assert 20 < listed.seconds < 30


def test_events_are_counted_by_mapping_and_by_how_they_ended(
    make_drain: Callable[..., Drain], primary: TestDatabase, settings: Settings
) -> None:
    """Set apart, in force and dead; an event may be counted as one after the other."""
    for mapping, key in (("users", "no uuid"), ("users", str(uuid4())), ("trips", str(uuid4()))):
        primary.query(RECORD, 0, 1, mapping, key)
    make_drain(max_attempts=2).run()
    first = [(each.mapping, each.outcome, each.events) for each in figures(settings).outcomes]
    while primary.value("select buried_at is null from mirror.retries"):
        primary.query("update mirror.retries set due_at = now()")
        make_drain(max_attempts=2).run()
    second = [(each.mapping, each.outcome, each.events) for each in figures(settings).outcomes]
    apart = [("users", "in_force", 1), ("users", "set_apart", 1)]
    assert first == [("trips", "in_force", 1), *apart]
    assert second == [("trips", "in_force", 1), ("users", "dead", 1), *apart]


def test_an_event_that_fails_counts_when_its_retry_succeeds_with_its_whole_delay(
    make_drain: Callable[..., Drain], primary: TestDatabase
) -> None:
    """Others of its batch count at once."""
    primary.query(RECORD, 20, 0, "users", "no uuid")
    primary.query(RECORD, 5, 0, "users", str(uuid4()))
    make_drain().run()
    assert primary.query(BUCKETS) == [(0, "10", 1)]
    primary.query("update mirror.retries set key = array[%s], due_at = now()", str(uuid4()))
    make_drain().run()
    assert primary.query(BUCKETS) == [(0, "10", 1), (0, "30", 1)]


def test_the_rest_of_a_large_scope_is_as_old_as_its_first_page(
    make_drain: Callable[..., Drain], primary: TestDatabase
) -> None:
    """A revocation that takes long does not look quick because it takes several passes."""
    primary.query(
        "insert into users select gen_random_uuid(), n || '@example.com', 'u' || n"
        " from generate_series(1, 30) as n"
    )
    primary.query(
        "insert into mirror.outbox (recorded_at, mapping, reference, key)"
        " values (now() - interval '50 s', 'users', '*', '{}')"
    )
    drain = make_drain(batch_size=3)
    drain.run()
    drain.queue.history.write(at_once=True)
    ((lane, bound, events),) = primary.query(BUCKETS)
    assert (lane, bound) == (0, "60")
    assert events > 1


def test_only_the_last_revocations_are_kept(
    make_drain: Callable[..., Drain], primary: TestDatabase, settings: Settings
) -> None:
    """MIRROR_HISTORY says how many; the delays of all are counted."""
    for _ in range(3):
        for _ in range(4):
            primary.query(RECORD, 0, 0, "users", str(uuid4()))
        last = primary.query("select id from mirror.outbox order by id desc limit 5")
        make_drain(history=5).run()
    known = figures(settings)
    assert len(known.revocations) == 5
    assert {each.id for each in known.revocations} > {id_ for (id_,) in last}
    assert known.delays[0].events == 12


def test_without_history_nothing_is_written(
    make_drain: Callable[..., Drain], primary: TestDatabase, settings: Settings
) -> None:
    """MIRROR_HISTORY=0."""
    primary.query(RECORD, 0, 0, "users", str(uuid4()))
    make_drain(history=0).run()
    known = figures(settings)
    assert (known.delays, known.revocations) == ((), ())
    assert primary.value("select count(*) from mirror.outbox") == 0


def test_a_history_that_cannot_be_written_delays_no_event(
    drain: Drain, primary: TestDatabase
) -> None:
    """A warning says so."""
    primary.query("drop table mirror.delays")
    primary.query(RECORD, 0, 0, "users", str(uuid4()))
    with capture_logs() as logs:
        done = drain.run()
    assert (done.events, done.failed) == (1, 0)
    assert primary.value("select count(*) from mirror.outbox") == 0
    assert "history not written" in [each["event"] for each in logs]


def test_a_worker_writes_once_a_second_and_loses_nothing(
    primary: TestDatabase, settings: Settings
) -> None:
    """Many workers share a few rows."""
    now = 0.0
    database = primary_database(settings)
    history = History(database, revocations=2, clock=lambda: now)
    written = []
    for number in range(4):
        history.add(Delivered("users", f"{{{number}}}", "{0.1}", 1, 0.1))
        history.write()
        written.append(primary.value("select sum(events)::int from mirror.delays"))
        now += 0.4
    database.close()
    assert written == [1, 1, 1, 4]
    assert primary.query("select id from mirror.revocations order by number") == [(2,), (3,)]
