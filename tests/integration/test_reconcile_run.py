"""A reconcile run: changes under way, one run at a time, dry runs, interrupts and records."""

import json
from typing import Any

import pytest
from sqlalchemy.orm import Session

from examples.trip_chat.models import Membership
from mappings.trips import registry
from mirror.diagnostics.figures import read_figures
from mirror.diagnostics.primary_figures import PrimaryFigures
from mirror.diagnostics.status import exit_code, find_faults
from mirror.errors import MappingError, NotPaired, Transient, UsageError
from mirror.reconcile import AlreadyRunning, Options, Throttle, sample, sync
from mirror.reconcile import reconcile as run
from mirror.reconcile.judge import Judge
from mirror.reconcile.lease import Lease
from mirror.settings import Settings, load_settings
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_drain
from tests.faults.tools import record, rewrite
from tests.support.databases import TestDatabase
from tests.support.reconciling import EQUAL, Reconciling, differing
from tests.support.transaction_pooler import TransactionPooler

Members = list[Membership]


def unpaced(drain: Drain) -> Throttle:
    """Return a throttle that never pauses."""
    return Throttle(drain.queue.beside, backlog=10**9, latency_seconds=60)


def key(member: Membership) -> tuple[str, str]:
    """Return a member's key."""
    return str(member.trip_id), str(member.user_id)


def remove(primary: TestDatabase, *members: Membership) -> None:
    """Delete members in the primary without an event."""
    for member in members:
        primary.query(
            "delete from trip_memberships where (trip_id, user_id) = (%s, %s)", *key(member)
        )


# A change under way is no drift


@pytest.mark.parametrize("where", ["outbox", "retries"])
@pytest.mark.parametrize(
    "event",
    [
        ("trip_memberships", "{trip},{user}", None),
        ("trip_memberships", "{trip}", "trip_id"),
        ("trip_memberships", "{user}", "user_id"),
        ("trip_memberships", "", "*"),
        ("trips", "{trip}", None),
        ("users", "{user}", None),
        ("trips", "", "*"),
    ],
)
def test_a_row_with_a_change_under_way_is_left_to_the_drain(
    event: tuple[str, str, str | None],
    where: str,
    primary: TestDatabase,
    members: Members,
    reconcile: Reconciling,
) -> None:
    """The event names its key, a scope or a parent; it waits in the outbox or in the retries."""
    mapping, values, reference = event
    trip, user = key(members[0])
    remove(primary, members[0])
    named = [part for part in values.format(trip=trip, user=user).split(",") if part]
    record(primary, mapping, *named, reference=reference)
    if where == "retries":
        set_apart(primary)
    report = reconcile()
    assert (report.mappings[2].in_flight, report.mappings[2].drifted) == (1, 0)
    assert report.outcome == "in line"


def set_apart(primary: TestDatabase, *, buried: bool = False) -> None:
    """Move the waiting events to the retries."""
    primary.query(
        "with gone as (delete from mirror.outbox returning *)"
        " insert into mirror.retries (id, lane, recorded_at, mapping, reference, key, attempts,"
        " due_at, error, buried_at)"
        " select id, lane, recorded_at, mapping, reference, key, 1, now() + interval '1 hour', 'x',"
        " case when %s then now() end from gone",
        buried,
    )


def test_a_waiting_event_of_another_row_is_no_reason_to_skip_a_row(
    primary: TestDatabase, members: Members, reconcile: Reconciling
) -> None:
    """The event names another key, another trip, or another mapping."""
    remove(primary, members[0])
    record(primary, "trip_memberships", *key(members[1]))
    record(primary, "trip_memberships", members[9].trip_id, reference="trip_id")
    record(primary, "trips", members[9].trip_id)
    assert reconcile().mappings[2].extra == 1


def test_a_claimed_event_is_still_under_way(
    primary: TestDatabase, members: Members, reconcile: Reconciling, drain: Drain
) -> None:
    """A worker has taken it from the outbox and has not written the row yet."""
    remove(primary, members[0])
    record(primary, "trip_memberships", *key(members[0]))
    claim = drain.queue.claim(10)
    assert claim is not None
    assert reconcile().mappings[2].in_flight == 1
    claim.release()


def test_a_buried_event_is_named_as_the_cause(
    primary: TestDatabase, target: TestDatabase, members: Members, reconcile: Reconciling
) -> None:
    """No worker will apply the event any more; the row is repaired all the same."""
    remove(primary, members[0])
    record(primary, "trip_memberships", *key(members[0]))
    set_apart(primary, buried=True)
    report = reconcile()
    assert report.mappings[2].causes == {"buried": 1}
    assert differing(primary, target) == EQUAL


def test_a_change_between_the_two_reads_is_no_drift(
    primary: TestDatabase,
    members: Members,
    reconciler: Drain,
    drain: Drain,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The snapshot of the primary is older than a drain's write to the target.

    The event is gone by then; the fence in the ledger proves that the row is newer.
    """
    judge = Judge(reconciler.registry, reconciler.source, reconciler.target)
    mapping = reconciler.registry["trip_memberships"]
    ask = reconciler.target.rows

    def interrupted(*arguments: Any) -> Any:
        remove(primary, members[0])
        record(primary, "trip_memberships", *key(members[0]))
        assert drain.run().events == 1
        return ask(*arguments)

    monkeypatch.setattr(reconciler.target, "rows", interrupted)
    verdict = judge.judge(mapping, [key(members[0])])
    assert (verdict.drifts, verdict.in_flight) == ([], [key(members[0])])


def test_a_row_written_before_the_last_migration_is_reported_so(
    primary: TestDatabase, target: TestDatabase, members: Members, reconcile: Reconciling
) -> None:
    """This is the state after a changed mapping without a resync."""
    remove(primary, members[0])
    target.query("update mirror.migrations set applied_at = now() where name = 'model_trips'")
    assert reconcile().mappings[2].causes == {"outdated": 1}


def test_another_version_of_a_mapping_is_left_alone(
    target: TestDatabase, members: Members, reconcile: Reconciling
) -> None:
    """The other mappings are compared."""
    target.query("update mirror.mappings set digest = 'another' where name = 'trips'")
    report = reconcile()
    assert "another version" in str(report.mappings[1].error)
    assert [part.error is None for part in report.mappings] == [True, False, True]
    assert report.exit_code == 1


def test_a_target_of_another_primary_is_refused(
    target: TestDatabase, members: Members, reconcile: Reconciling
) -> None:
    """The run ends before it compares, because every row would differ."""
    target.query("update mirror.state set step = 9, token = gen_random_uuid()")
    with pytest.raises(NotPaired, match="mirror rebase"):
        reconcile(dry_run=True)


# Runs


def counters(database: TestDatabase) -> list[Any]:
    """Return the number of writes to each table so far."""
    with database.connect() as connection:
        if connection.info.server_version < 150_000:
            pytest.skip("before PostgreSQL 15, the counters lag behind what was written")
        connection.execute("select pg_stat_force_next_flush()")
        rows = connection.execute(
            "select schemaname, relname, n_tup_ins, n_tup_upd, n_tup_del from pg_stat_user_tables"
            " order by 1, 2"
        )
        return rows.fetchall()


def settle(*databases: TestDatabase) -> None:
    """End the idle sessions, because a session reports its last writes when it ends."""
    for database in databases:
        with database.connect() as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
                " and backend_type = 'client backend'"
            )


def test_a_dry_run_changes_nothing(
    primary: TestDatabase,
    target: TestDatabase,
    members: Members,
    session: Session,
    reconciler: Drain,
    reconcile: Reconciling,
) -> None:
    """The counters of both databases prove it; a real run afterwards finds every drift."""
    session.close()
    remove(primary, members[0])
    target.query("delete from trips where id = %s", members[5].trip_id)
    target.query("update trip_memberships set role = 'OWNER'")
    reconciler.close()
    settle(primary, target)
    before = counters(primary), counters(target)
    report = reconcile(dry_run=True)
    reconciler.close()
    settle(primary, target)
    assert (counters(primary), counters(target)) == before
    assert report.exit_code == 1
    again = reconcile()
    assert [part.drifted for part in again.mappings] == [part.drifted for part in report.mappings]
    reconciler.close()
    settle(primary, target)
    assert counters(primary) != before[0], "these counters would not have told"
    assert counters(target) != before[1], "these counters would not have told"


def test_only_the_requested_mappings_are_compared(
    target: TestDatabase, members: Members, reconcile: Reconciling
) -> None:
    """It begins at a key, if one is given."""
    target.query("update users set username = 'x'")
    target.query("update trips set name = 'x'")
    middle = target.value("select id::text from trips order by id offset 10 limit 1")
    report = reconcile(mappings=("trips",), since_key=(middle,))
    assert [part.mapping for part in report.mappings] == ["trips"]
    assert report.mappings[0].rows == 10
    assert target.value("select count(*) from trips where name = 'x'") == 10
    assert target.value("select count(*) from users where username = 'x'") == 80
    with pytest.raises(UsageError):
        reconcile(since_key=(middle,))
    with pytest.raises(MappingError):
        reconcile(mappings=("trip",))


def test_two_runs_at_once_are_one(
    primary: TestDatabase, members: Members, reconciler: Drain, reconcile: Reconciling
) -> None:
    """The second names the lease's holder, or waits for it; an expired lease stops no run."""
    first = Lease(reconciler.queue.beside)
    assert first.take()
    with pytest.raises(AlreadyRunning, match=first.holder):
        reconcile()
    waited: list[float] = []

    def released(seconds: float) -> None:
        waited.append(seconds)
        first.release()

    report = run(
        reconciler, Options(grace_seconds=0), unpaced(reconciler), wait=True, sleep=released
    )
    assert report.outcome == "in line"
    assert waited == [1.0]

    assert first.take()
    primary.query("update mirror.leases set expires_at = now() - interval '1 second'")
    assert reconcile().outcome == "in line"
    assert primary.value("select count(*) from mirror.leases") == 0


def test_a_run_that_lost_its_lease_stops(
    primary: TestDatabase, target: TestDatabase, members: Members, reconciler: Drain
) -> None:
    """It hung until another run took the lease; both must not run together."""
    lease = Lease(reconciler.queue.beside, seconds=0)
    assert lease.take()
    other = Lease(reconciler.queue.beside)
    assert not lease.held_by()
    assert other.take()
    with pytest.raises(Transient, match="reconciles now"):
        lease.renew()
    assert other.take()


def test_each_run_is_on_record(
    primary: TestDatabase,
    members: Members,
    reconciler: Drain,
    reconcile: Reconciling,
    settings: Settings,
) -> None:
    """The record has counts without keys, for `status` and for trends."""
    remove(primary, members[0])
    reconcile()
    outcome, report, ended = primary.query(
        "select outcome, report, finished_at is not null from mirror.runs order by id desc limit 1"
    )[0]
    assert (outcome, ended) == ("repaired", True)
    assert report["mappings"][2]["extra"] == 1
    assert str(members[0].trip_id) not in json.dumps(report)
    figures = read_figures(settings, registry, reconciler.source, reconciler.target)
    assert isinstance(figures.primary, PrimaryFigures)
    last_run = figures.primary.last_run
    assert last_run is not None
    assert (last_run.outcome, last_run.over_grants, last_run.under_grants) == ("repaired", 1, 0)
    assert exit_code(figures) == 0


def test_two_schedulers_are_reported(
    members: Members, reconciler: Drain, settings: Settings
) -> None:
    """The schedules are beat's and the platform's: one of them was forgotten."""
    options = Options(grace_seconds=0)
    for started_by in ("beat", "hand", "schedule"):
        figures = read_figures(settings, registry, reconciler.source, reconciler.target)
        assert find_faults(figures) == {}
        run(reconciler, options, unpaced(reconciler), started_by=started_by)
    figures = read_figures(settings, registry, reconciler.source, reconciler.target)
    assert list(find_faults(figures)) == ["two-schedulers"]


def test_a_run_that_is_interrupted_says_so_and_the_next_one_finishes(
    primary: TestDatabase, target: TestDatabase, members: Members, reconciler: Drain
) -> None:
    """A user presses Ctrl-C in the middle of the repairs."""
    target.query("update users set username = 'x'")
    target.query("update trips set name = 'x'")

    def interrupt(phase: str, mapping: str, _rows: int, _total: int) -> None:
        if (phase, mapping) == ("repair", "users"):
            raise KeyboardInterrupt

    options = Options(grace_seconds=0)
    with pytest.raises(KeyboardInterrupt):
        run(reconciler, options, unpaced(reconciler), progress=interrupt)
    assert primary.value("select outcome from mirror.runs order by id desc limit 1") == "stopped"
    assert run(reconciler, options, unpaced(reconciler)).outcome == "repaired"
    assert differing(primary, target) == EQUAL


def fill(primary: TestDatabase, users: int) -> None:
    """Insert users that are members of both trips."""
    primary.query(
        "insert into users (id, email, username)"
        " select gen_random_uuid(), n || '@example.com', 'user' || n from generate_series(1, %s) n",
        users,
    )
    primary.query(
        "insert into trips (id, name, created_by)"
        " select gen_random_uuid(), 'trip', (select id from users limit 1)"
        " from generate_series(1, 2)"
    )
    primary.query(
        "insert into trip_memberships (trip_id, user_id, role, status)"
        " select t.id, u.id, 'MEMBER', 'ACTIVE' from trips as t cross join users as u"
    )


def test_an_empty_target_is_loaded_in_bulk(
    primary: TestDatabase, target: TestDatabase, reconciler: Drain, reconcile: Reconciling
) -> None:
    """It has more rows than a page; the events in case of a crash are gone afterwards.

    No batch scans a whole table, which would make each batch slower than the one before.
    """
    fill(primary, 2500)
    report = reconcile()
    reconciler.close()
    settle(target)
    read = "select sum(seq_tup_read) from pg_stat_user_tables where relname like '%trip_member%'"
    assert target.value(read) == 0
    assert [part.missing for part in report.mappings] == [2500, 2, 5000]
    assert report.outcome == "repaired"
    assert differing(primary, target) == EQUAL
    assert target.value("select count(*) from mirror.ledger_trip_memberships where present") == 5000
    assert primary.value("select count(*) from mirror.retries") == 0
    assert reconcile().outcome == "in line"


@pytest.mark.parametrize("finisher", ["workers", "the next run"])
def test_a_load_that_dies_is_finished_by_another_process(
    finisher: str,
    primary: TestDatabase,
    target: TestDatabase,
    reconciler: Drain,
    drain: Drain,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The parents exist without their children then, and no other event names these."""
    fill(primary, 2500)

    def die(phase: str, mapping: str, _rows: int, _total: int) -> None:
        if (phase, mapping) == ("load", "users"):
            # As with kill -9, the run releases nothing.
            raise SystemExit

    monkeypatch.setattr(Lease, "release", lambda _: None)
    with pytest.raises(SystemExit):
        run(reconciler, Options(grace_seconds=0), unpaced(reconciler), progress=die)
    assert target.value("select count(*) from trip_memberships") == 0
    drain.run()
    assert target.value("select count(*) from trip_memberships") == 0, "the lease has not run out"
    primary.query("update mirror.leases set expires_at = now() - interval '1 second'")
    if finisher == "workers":
        primary.query("update mirror.retries set due_at = now()")
        drain.run()
    else:
        # The dead run's own events are no reason for this run to leave rows to the workers.
        monkeypatch.undo()
        options = Options(grace_seconds=0)
        assert run(reconciler, options, unpaced(reconciler)).outcome == "repaired"
    assert target.value("select count(*) from trip_memberships") == 5000
    assert primary.value("select count(*) from mirror.retries") == 0


def test_a_large_scope_that_waits_is_not_loaded_twice(
    primary: TestDatabase, target: TestDatabase, reconcile: Reconciling, drain: Drain
) -> None:
    """After `mirror resync`, the workers load it."""
    fill(primary, 1500)
    for mapping in ("users", "trips", "trip_memberships"):
        record(primary, mapping, reference="*")
    report = reconcile()
    assert [part.in_flight for part in report.mappings] == [1500, 2, 3000]
    assert report.outcome == "in line"
    assert target.value("select count(*) from users") == 0
    drain.run()
    assert reconcile().outcome == "in line"
    assert differing(primary, target) == EQUAL


def test_a_backlog_and_a_slow_target_pause_it(primary: TestDatabase, drain: Drain) -> None:
    """The pauses are limited; without workers a backlog would last for ever."""
    slept: list[float] = []
    throttle = Throttle(drain.queue.beside, backlog=2, latency_seconds=1.0, sleep=slept.append)
    throttle.tick(0.9)
    assert slept == []
    throttle.tick(3.0)
    assert slept == [3.0]
    for number in range(3):
        record(primary, "trips", number)
    late = Throttle(drain.queue.beside, backlog=2, latency_seconds=1.0, sleep=slept.append)
    late.tick()
    assert sum(slept) == pytest.approx(13.0)
    assert late.paused == pytest.approx(10.0)


def test_servers_that_hash_otherwise_are_compared_by_md5(
    primary: TestDatabase, target: TestDatabase, members: Members, reconcile: Reconciling
) -> None:
    """A probe finds it; without it, every row would look different."""
    rule = "hash_record_extended(probe, seed)"
    rewrite(target, "digest", rule, "hash_record_extended(probe, seed + 1)")
    rewrite(target, "row_hash", "hash_record_extended(%1$s, %2$s)", "1 + hash_record(%1$s)")
    report = reconcile(mappings=("trip_memberships",))
    assert (report.outcome, report.bytes_moved < 1000) == ("in line", True)
    target.query(
        "update trip_memberships set role = 'OWNER' where user_id = %s", key(members[0])[1]
    )
    assert reconcile().mappings[2].changed_over == 1


def test_it_works_behind_poolers(
    primary: TestDatabase, target: TestDatabase, members: Members
) -> None:
    """A pooler keeps no session beyond a transaction."""
    remove(primary, members[0])
    target.query("update trips set name = 'x'")
    with TransactionPooler(primary.url) as one, TransactionPooler(target.url) as other:
        settings = load_settings(primary_database_url=one.url, supabase_db_url=other.url)
        drain = build_drain(settings, registry)
        report = run(drain, Options(grace_seconds=0), unpaced(drain))
        drain.close()
    assert [part.repaired for part in report.mappings] == [0, 20, 1]


# Named and drawn keys


def test_named_keys_are_repaired_at_once(
    primary: TestDatabase, target: TestDatabase, members: Members, reconciler: Drain
) -> None:
    """No other key is repaired."""
    remove(primary, members[0], members[1])
    mapping = reconciler.registry["trip_memberships"]
    verdict = sync(reconciler, mapping, [key(members[0]), key(members[2])])
    assert [drift.key for drift in verdict.drifts] == [key(members[0])]
    assert target.value("select count(*) from trip_memberships") == 59


def test_a_sample_sees_what_either_side_has(
    primary: TestDatabase, target: TestDatabase, members: Members, reconciler: Drain
) -> None:
    """Also if the primary has no row at all."""
    mapping = reconciler.registry["trip_memberships"]
    drawn, verdict = sample(reconciler, mapping, 50)
    assert drawn >= 25
    assert verdict.drifts == []
    remove(primary, *members)
    drawn, verdict = sample(reconciler, mapping, 50)
    assert len(verdict.drifts) == drawn >= 25
    users = reconciler.registry["users"]
    target.query("update users set username = 'x'")
    drawn, verdict = sample(reconciler, users, 50)
    assert len(verdict.drifts) == drawn >= 25


def test_a_sample_of_one_is_never_empty(
    target: TestDatabase, members: Members, reconciler: Drain
) -> None:
    """Most buckets of so few rows are empty; the sample is drawn from larger ones then."""
    assert len(members) < 100
    target.query("update users set username = 'wrong'")
    for _ in range(5):
        drawn, verdict = sample(reconciler, reconciler.registry["users"], 1)
        assert len(verdict.drifts) == drawn >= 1


@pytest.mark.parametrize("stale_statistics", [False, True])
def test_keys_that_lie_close_together_are_drawn_as_any_others(
    primary: TestDatabase,
    target: TestDatabase,
    reconciler: Drain,
    stale_statistics: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """UUIDs of version 7 share their first digits; the planner may think there are many more."""
    primary.query(
        "insert into users (id, email, username)"
        " select ('01890000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, n::text, n::text"
        " from generate_series(1, 200) as n"
    )
    record(primary, "users", reference="*")
    reconciler.run()
    if stale_statistics:
        primary.query(
            "insert into users (id, email, username)"
            " select gen_random_uuid(), 'x' || n, n from generate_series(1, 20000) as n"
        )
        primary.query("analyze users")
        primary.query("delete from users where email like 'x%%'")
    target.query("update users set username = 'wrong'")
    drawn, verdict = sample(reconciler, reconciler.registry["users"], 50)
    assert len(verdict.drifts) == drawn >= 25


def test_a_row_that_a_foreign_key_keeps_is_no_drift(
    primary: TestDatabase, target: TestDatabase, members: Members, reconcile: Reconciling
) -> None:
    """A row with only its key stays and grants nothing, until the other table's row is gone."""
    target.query("create table notes (trip_id uuid references trips (id))")
    target.query("insert into notes values (%s)", members[0].trip_id)
    primary.query("delete from trips where id = %s", members[0].trip_id)
    assert reconcile().outcome == "repaired"
    assert target.value("select count(*) from trips where id = %s", members[0].trip_id) == 1
    assert reconcile().outcome == "in line"
    # A user fills it in by hand.
    target.query("update trips set name = 'mine' where id = %s", members[0].trip_id)
    assert reconcile().mappings[1].extra == 1
    assert reconcile().outcome == "in line"


def test_nothing_is_read_of_a_row_that_does_not_differ(
    members: Members, reconciler: Drain, reconcile: Reconciling
) -> None:
    """Equal sides exchange a few numbers, for any number of rows."""
    report = reconcile()
    assert report.outcome == "in line"
    assert report.bytes_moved < 4000
