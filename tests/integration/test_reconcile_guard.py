"""A reconcile deletes nothing if the primary may be at fault."""

from collections.abc import Callable

import pytest
from sqlalchemy import DateTime, Text, column, select, table
from sqlalchemy.orm import Session

from mirror.devstack import PostgresCluster
from mirror.errors import MappingError
from mirror.model.mapping import Column, Mapping
from mirror.model.registry import Registry
from mirror.reconcile import Options, Throttle
from mirror.reconcile import reconcile as run
from mirror.reconcile.delete_limit import refuse_deletes
from mirror.reconcile.report import MappingReport
from mirror.schema.migrate import upgrade
from mirror.settings import load_settings
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_drain
from tests.support.databases import TestDatabase
from tests.support.factories import UserFactory
from tests.support.reconciling import EQUAL, Reconciling, differing

FILL = """
insert into users (id, email, username)
select gen_random_uuid(), n || '@example.com', 'user' || n from generate_series(1, 150) as n;
insert into trips (id, name, created_by)
select gen_random_uuid(), 'trip', (select id from users limit 1) from generate_series(1, 3);
insert into trip_memberships (trip_id, user_id, role, status)
select t.id, u.id, 'MEMBER', 'ACTIVE' from trips as t cross join users as u
"""


@pytest.fixture
def filled(primary: TestDatabase, reconcile: Reconciling) -> None:
    """150 users, each in all three trips, mirrored."""
    for statement in FILL.split(";"):
        primary.query(statement)
    assert reconcile().outcome == "repaired"


def test_too_many_deletes_stop_the_deletes_of_that_mapping_alone(
    filled: None, primary: TestDatabase, target: TestDatabase, reconcile: Reconciling
) -> None:
    """It stops nothing else: a raised role and the other mappings are repaired."""
    gone = "(select user_id from trip_memberships order by user_id limit 120)"
    primary.query(f"delete from trip_memberships where user_id in {gone}")
    last = target.value("select max(user_id::text)::uuid from trip_memberships")
    target.query("update trip_memberships set role = 'OWNER' where user_id = %s", last)
    target.query("update trips set name = 'mine'")
    target.query("insert into users (id) values (gen_random_uuid())")
    report = reconcile()
    users, trips, members = report.mappings
    assert report.exit_code == 3
    assert members.held is not None
    assert "--max-deletes 120" in members.held
    assert (members.extra, members.changed_over, members.repaired) == (120, 3, 3)
    assert trips.repaired == 3
    # The deletes of the parents would delete these rows by cascade.
    assert (users.extra, users.repaired, users.held) == (1, 0, members.held)
    assert target.value("select count(*) from trip_memberships") == 450

    report = reconcile(max_deletes=120)
    assert report.outcome == "repaired"
    assert differing(primary, target) == EQUAL


def test_a_bound_given_by_the_user_counts(
    filled: None, primary: TestDatabase, target: TestDatabase, reconcile: Reconciling
) -> None:
    """Three deletes are too many for a user who allows two."""
    user = primary.value("select id from users limit 1")
    primary.query("delete from trip_memberships where user_id = %s", user)
    assert reconcile(max_deletes=2).exit_code == 3
    assert target.value("select count(*) from trip_memberships") == 450
    assert reconcile(max_deletes=3).exit_code == 0


def test_a_parent_stays_while_its_children_are_held_back(
    filled: None, primary: TestDatabase, target: TestDatabase, reconcile: Reconciling
) -> None:
    """A trip is one row, but its removal deletes 150 memberships by cascade."""
    primary.query("delete from trips where id = (select id from trips limit 1)")
    report = reconcile()
    assert [part.held is not None for part in report.mappings] == [False, True, True]
    assert target.value("select count(*) from trips") == 3
    # This also holds for a reconcile of trips alone.
    report = reconcile(mappings=("trips",))
    assert report.exit_code == 3
    assert "trip_memberships" in str(report.mappings[0].held)
    assert target.value("select count(*) from trip_memberships") == 450
    assert reconcile(max_deletes=150).outcome == "repaired"
    assert differing(primary, target) == EQUAL


def test_orphans_stay_while_their_parents_are_held_back(
    filled: None, primary: TestDatabase, target: TestDatabase, reconcile: Reconciling
) -> None:
    """All users are hidden by mistake: their memberships must not delete them by another way."""
    primary.query(
        "update users set deleted_at = now() where id <> (select created_by from trips limit 1)"
    )
    primary.query("delete from trip_memberships where trip_id <> (select id from trips limit 1)")
    before = target.value("select count(*) from users")
    assert reconcile(confirm=frozenset({"trip_memberships"})).exit_code == 3
    assert target.value("select count(*) from users") == before


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("alter table trip_memberships rename to elsewhere", "does not exist"),
        ("alter table trip_memberships drop column role", "does not exist"),
    ],
)
def test_a_table_that_cannot_be_read_changes_nothing(
    filled: None,
    primary: TestDatabase,
    target: TestDatabase,
    reconcile: Reconciling,
    fault: str,
    message: str,
) -> None:
    """The other mappings are repaired all the same."""
    primary.query(fault)
    target.query("update trips set name = 'mine'")
    report = reconcile()
    assert report.exit_code == 3
    assert message in str(report.mappings[2].held)
    assert report.mappings[1].repaired == 3
    assert target.value("select count(*) from trip_memberships") == 450


def test_deletes_that_the_guard_stops_are_not_counted_as_repaired(
    filled: None, primary: TestDatabase, reconcile: Reconciling
) -> None:
    """The report counts only repairs that were made."""
    primary.query("delete from trip_memberships")
    part = reconcile().mappings[2]
    assert (part.extra, part.repaired, part.rows, part.target_rows) == (450, 0, 0, 450)


@pytest.mark.parametrize(
    ("rows", "target_rows", "extra", "max_deletes", "stops"),
    [
        (1_000, 1_050, 50, None, False),
        (1_000, 1_101, 101, None, True),
        (100_000, 100_900, 900, None, False),
        (100_000, 102_000, 2_000, None, True),
        (100_000, 102_000, 2_000, 2_000, False),
        # More than half is gone: a schedule's own limit does not help, a user must act.
        (400, 1_000, 600, 10_000, True),
        (0, 5, 5, 10_000, True),
        (0, 0, 0, None, False),
        (10, 10, 0, 0, False),
    ],
)
def test_the_bound_is_a_hundred_rows_or_one_percent(
    *, rows: int, target_rows: int, extra: int, max_deletes: int | None, stops: bool
) -> None:
    """The larger bound counts; an empty or shrunken primary stops deletes in any case."""
    part = MappingReport("seats", rows=rows, target_rows=target_rows, extra=extra)
    assert (refuse_deletes(part, max_deletes=max_deletes, confirmed=False) is not None) == stops
    assert refuse_deletes(part, max_deletes=max_deletes, confirmed=True) is None


_passes = table("passes", column("id", Text), column("until", DateTime(timezone=True)))
PASSES = Mapping(
    name="passes",
    table="passes",
    key=("id",),
    columns=(Column("id", "text"), Column("until", "timestamptz")),
    query=select(_passes.c.id, _passes.c.until),
    expires="until",
)


@pytest.fixture
def passes(
    primary: TestDatabase, target_cluster: PostgresCluster, project: TestDatabase
) -> Callable[[], Drain]:
    """A model whose rows expire, and the drain between its databases."""
    registry = Registry("passes", [PASSES])
    primary.query("create table passes (id text primary key, until timestamptz)")
    with project.migrating() as connection:
        upgrade(connection, "supabase", registry)
    settings = load_settings(primary_database_url=primary.url, supabase_db_url=project.url)
    return lambda: build_drain(settings, registry)


def test_expired_rows_do_not_count_as_deletes(
    passes: Callable[[], Drain], primary: TestDatabase, project: TestDatabase
) -> None:
    """They grant nothing any more, so any number may be deleted, and some may exist still."""
    primary.query(
        "insert into passes select 'old ' || n, now() + interval '1 hour'"
        " from generate_series(1, 300) as n"
    )
    primary.query(
        "insert into passes select 'new ' || n, now() + interval '1 day'"
        " from generate_series(1, 300) as n"
    )
    drain = passes()
    throttle = Throttle(drain.queue.beside, backlog=10**9, latency_seconds=60)
    assert run(drain, Options(grace_seconds=0), throttle).outcome == "repaired"
    # Time passes: the rows 1, 10 to 19 and 100 to 199 expire.
    for side in (primary, project):
        side.query("update passes set until = now() where id like 'old 1%'")
    primary.query("delete from passes where id in ('new 1', 'new 2')")
    report = run(drain, Options(grace_seconds=0), throttle)
    assert report.outcome == "repaired"
    assert (report.mappings[0].expired, report.mappings[0].extra) == (111, 2)
    assert project.value("select count(*) from passes") == 487
    assert primary.value("select count(*) from passes") == 598

    # This also holds while other deletes are held back.
    for side in (primary, project):
        side.query("update passes set until = now() where id like 'old%'")
    primary.query("delete from passes where id not in ('new 298', 'new 299')")
    assert run(drain, Options(grace_seconds=0), throttle).exit_code == 3
    assert project.query("select left(id, 3), count(*) from passes group by 1") == [("new", 298)]
    drain.close()


def test_rows_that_expired_are_no_sign_of_a_primary_that_lost_its_rows(
    passes: Callable[[], Drain], primary: TestDatabase, project: TestDatabase
) -> None:
    """Most of the target's rows have expired and few others are gone: less than half in all."""
    drain = passes()
    throttle = Throttle(drain.queue.beside, backlog=10**9, latency_seconds=60)
    primary.query(
        "insert into passes select n::text, now() + interval '1 day' from generate_series(1, 700) n"
    )
    assert run(drain, Options(grace_seconds=0), throttle).outcome == "repaired"
    for side in (primary, project):
        side.query("update passes set until = now() where id::int <= 400")
    primary.query("delete from passes where id::int > 590")
    report = run(drain, Options(grace_seconds=0, max_deletes=110), throttle)
    assert (report.outcome, report.mappings[0].expired, report.mappings[0].extra) == (
        "repaired",
        400,
        110,
    )
    drain.close()


def test_an_expiry_is_a_timestamp() -> None:
    """The policy compares it with now()."""
    with pytest.raises(MappingError, match="'until', which is text"):
        Registry(
            "passes",
            [
                Mapping(
                    name="passes",
                    table="passes",
                    key=("id",),
                    columns=(Column("id", "text"), Column("until", "text")),
                    query=PASSES.query,
                    expires="until",
                )
            ],
        )


def test_rows_that_are_new_on_both_sides_are_no_reason_to_stop(
    session: Session, reconcile: Reconciling
) -> None:
    """The target is empty, the primary is empty, and the first row arrives."""
    assert reconcile().outcome == "in line"
    UserFactory()
    session.commit()
    assert reconcile().outcome == "repaired"
