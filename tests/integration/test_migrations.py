"""Migrations on real databases: the state after an upgrade, repeated runs, and refusals."""

import asyncio
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pkgutil import iter_modules
from threading import Barrier
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, NullPool, create_engine
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

import mappings
from examples.trip_chat import models
from mappings.trips import registry
from mirror.devstack import PostgresCluster
from mirror.errors import NotInTransaction, NotMigrated
from mirror.model.registry import load_registry
from mirror.schema import guards_sql, model_sql, triggers_sql
from mirror.schema.migrate import migrations, pending, upgrade
from mirror.schema.uninstall import downgrade
from mirror.testing import Sandboxes
from tests.support.databases import TestDatabase
from tests.support.example_model import model

PRIMARY_STEPS = [
    "0001_outbox",
    "0002_runs",
    "0003_heartbeats",
    "0004_claims",
    "0005_outbox_rights",
    "0006_withheld",
    "0007_pairing",
    "0008_prepared_transactions",
    "0009_receipts",
    "0010_structures",
    "0011_history",
    "0012_read_ahead",
    "0013_add_history",
    "0014_claim_next",
]

_numbers = itertools.count(1)

# Every object of the library that a second run could change, as one text per object.
CATALOG = """
    with ours as (select oid from pg_namespace where nspname in ('mirror', 'public'))
    select concat_ws(' ', oid::regclass, relkind, relowner::regrole, relacl, relrowsecurity)
      from pg_class where relnamespace in (table ours)
    union all
    select concat_ws(' ', attrelid::regclass, attname, atttypid::regtype, attnotnull, attacl)
      from pg_attribute where attnum > 0 and attrelid in
        (select oid from pg_class where relnamespace in (table ours) and relkind = 'r')
    union all
    select concat_ws(' ', oid::regprocedure, md5(prosrc), prosecdef, proconfig, proacl)
      from pg_proc where pronamespace in (table ours)
    union all
    select concat_ws(' ', polrelid::regclass, polname, polroles, pg_get_expr(polqual, polrelid))
      from pg_policy
    union all
    select concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid))
      from pg_constraint where connamespace in (table ours)
    union all
    select concat_ws(' ', tgrelid::regclass, tgname, tgenabled, tgfoid::regproc)
      from pg_trigger where not tgisinternal
    order by 1
"""


@pytest.fixture
def backend(primary_cluster: PostgresCluster) -> Iterator[TestDatabase]:
    """A primary with the backend's tables and no object of the library."""
    name = f"backend_{next(_numbers)}"
    primary_cluster.create_database(name)
    database = TestDatabase(primary_cluster.url(name))
    with database.migrating() as connection:
        models.Base.metadata.create_all(connection)
    yield database
    primary_cluster.drop_database(name)


def test_an_upgrade_says_what_it_applied_and_the_next_one_applies_nothing(
    backend: TestDatabase, project: TestDatabase
) -> None:
    """This holds on both sides; afterwards no step is pending."""
    with backend.migrating() as connection:
        assert upgrade(connection) == PRIMARY_STEPS
    with backend.migrating() as connection:
        assert upgrade(connection) == []
        assert pending(connection, migrations("primary")) == []
    with project.migrating() as connection:
        assert upgrade(connection, "supabase", registry) == ["0001_engine", "model_trips"]
    with project.migrating() as connection:
        assert upgrade(connection, "supabase", registry) == []
        assert pending(connection, migrations("supabase", registry)) == []


def test_every_statement_can_run_again_and_changes_nothing(target: TestDatabase) -> None:
    """`supabase db push` can repeat applied steps: objects, grants and rows stay the same."""
    target.query("insert into users (id, username) values (gen_random_uuid(), 'ada')")
    target.query("update mirror.state set identity = 'kept', epoch = 3")
    before = target.query(CATALOG)
    target.query("delete from mirror.migrations")
    with target.migrating() as connection:
        assert upgrade(connection, "supabase", registry) == ["0001_engine", "model_trips"]
    assert target.query(CATALOG) == before
    assert target.query("select username from users") == [("ada",)]
    assert target.query("select identity, epoch from mirror.state") == [("kept", 3)]


def test_every_statement_on_the_primary_can_run_again(primary: TestDatabase) -> None:
    """Waiting events stay."""
    primary.query("insert into mirror.outbox (mapping, key) values ('users', '{x}')")
    before = primary.query(CATALOG)
    primary.query("delete from mirror.migrations")
    with primary.migrating() as connection:
        assert upgrade(connection) == PRIMARY_STEPS
    assert primary.query(CATALOG) == before
    assert primary.value("select count(*) from mirror.outbox") == 1


@pytest.mark.parametrize(
    "name", [found.name for found in iter_modules(mappings.__path__) if found.name != "trips"]
)
def test_the_sql_that_a_model_prints_installs_it_and_can_run_again(
    name: str, sandboxes: Sandboxes
) -> None:
    """Apply model, guards and triggers, as `mirror ddl` prints them; a second run changes nothing.

    The trips model is tested by its golden files and by the other tests of this module.
    """
    declared = load_registry(f"mappings.{name}")
    with model(sandboxes, declared) as installed:
        primary, target = installed.primary, installed.target
        before = primary.query(CATALOG), target.query(CATALOG)
        target.query(model_sql(declared))
        target.query(guards_sql(declared))
        primary.query(triggers_sql(declared))
        assert (primary.query(CATALOG), target.query(CATALOG)) == before
        assert {f"ledger_{mapping.name}" for mapping in declared} <= {
            row[0].removeprefix("mirror.").split()[0] for row in before[1]
        }


def test_a_claim_that_returned_other_columns_is_replaced(primary: TestDatabase) -> None:
    """An earlier draft of 0011 returned one more, and CREATE OR REPLACE refuses that."""
    drop = "drop function mirror.claim_groups(bigint, integer, integer, text[])"
    primary.query(drop)
    primary.query(
        "create function mirror.claim_groups(bigint, integer, integer, text[])"
        " returns table (mapping text, lanes text) language sql as 'select null::text, null::text'"
    )
    primary.query("update mirror.migrations set checksum = 'x' where name = '0011_history'")
    with primary.migrating() as connection:
        assert upgrade(connection) == ["0011_history"]
    assert primary.query("select * from mirror.claim_groups(0, 1, 1, null)") == []


def test_only_a_step_whose_text_changed_runs_again(target: TestDatabase) -> None:
    """A new release that changes only the model does not run the engine's step again."""
    target.query("update mirror.migrations set checksum = 'old' where name = 'model_trips'")
    with target.migrating() as connection:
        assert upgrade(connection, "supabase", registry) == ["model_trips"]


def test_the_target_is_migrated_by_a_role_that_is_no_superuser(target: TestDatabase) -> None:
    """Supabase gives no user a superuser; all objects belong to the migrating role."""
    assert target.query("select current_user, rolsuper from pg_roles where rolname = current_user")[
        0
    ] == ("postgres", False)
    owners = target.query(
        "select distinct relowner::regrole::text from pg_class"
        " where relnamespace = 'mirror'::regnamespace"
        " union select distinct proowner::regrole::text from pg_proc"
        " where pronamespace = 'mirror'::regnamespace"
    )
    assert owners == [("postgres",)]


def test_the_primary_needs_a_role_that_may_create_a_schema_and_no_more(
    primary_cluster: PostgresCluster, backend: TestDatabase
) -> None:
    """Managed databases give their users no more than this."""
    name = backend.url.rsplit("/", 1)[-1]
    backend.query("drop role if exists migrator")
    backend.query("create role migrator login password 'secret'")
    backend.query(f"grant create on database {name} to migrator")
    database = TestDatabase(primary_cluster.url(name, user="migrator", password="secret"))
    with database.migrating() as connection:
        assert upgrade(connection) == PRIMARY_STEPS


def test_a_role_that_may_not_create_a_schema_is_an_error(
    primary_cluster: PostgresCluster, backend: TestDatabase
) -> None:
    """The error is one of the library's, with every driver."""
    name = backend.url.rsplit("/", 1)[-1]
    backend.query("drop role if exists reader")
    backend.query("create role reader login password 'secret'")
    database = TestDatabase(primary_cluster.url(name, user="reader", password="secret"))
    with (
        pytest.raises(NotMigrated, match="permission denied for database"),
        database.migrating() as connection,
    ):
        upgrade(connection)


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_two_migrators_at_once_apply_every_step_once(project: TestDatabase, driver: str) -> None:
    """Two replicas of a deployment start together: one migrates, the other finds nothing to do."""
    barrier = Barrier(2)

    def migrate(_: int) -> list[str]:
        def steps(connection: Connection) -> list[str]:
            barrier.wait(10)
            return upgrade(connection, "supabase", registry)

        applied: list[str] = run_in_transaction(project, driver, steps)
        return applied

    with ThreadPoolExecutor(2) as pool:
        results = sorted(pool.map(migrate, range(2)))
    assert results == [[], ["0001_engine", "model_trips"]]


def run_in_transaction(database: TestDatabase, driver: str, job: Any) -> Any:
    """Run `job(connection)` in a transaction of SQLAlchemy over a driver; return its result."""
    if driver == "psycopg":
        with database.migrating() as connection:
            return job(connection)

    async def over_asyncpg() -> Any:
        url = database.url.replace("postgresql://", "postgresql+asyncpg://", 1)
        engine = create_async_engine(url, poolclass=NullPool)
        connection: AsyncConnection
        async with engine.begin() as connection:
            return await connection.run_sync(job)

    return asyncio.run(over_asyncpg())


def test_migrations_run_over_asyncpg(backend: TestDatabase, project: TestDatabase) -> None:
    """The driver asyncpg runs one statement at a time; upgrade and downgrade both work."""
    assert run_in_transaction(backend, "asyncpg", upgrade) == [
        "0001_outbox",
        "0002_runs",
        "0003_heartbeats",
        "0004_claims",
        "0005_outbox_rights",
        "0006_withheld",
        "0007_pairing",
        "0008_prepared_transactions",
        "0009_receipts",
        "0010_structures",
        "0011_history",
        "0012_read_ahead",
        "0013_add_history",
        "0014_claim_next",
    ]
    assert run_in_transaction(backend, "asyncpg", upgrade) == []
    run_in_transaction(backend, "asyncpg", downgrade)
    assert backend.value("select to_regnamespace('mirror')") is None
    applied = run_in_transaction(
        project, "asyncpg", lambda connection: upgrade(connection, "supabase", registry)
    )
    assert applied == ["0001_engine", "model_trips"]
    # No driver has changed the text on its way: a step with the same text is not pending.
    with project.migrating() as connection:
        assert pending(connection, migrations("supabase", registry)) == []


@pytest.mark.parametrize("side", ["primary", "supabase"])
def test_a_database_that_is_ahead_is_refused(
    primary: TestDatabase, target: TestDatabase, side: str
) -> None:
    """An old release must not replace newer SQL with its older SQL."""
    database = primary if side == "primary" else target
    database.query("insert into mirror.migrations values ('0009_later', 'abc')")
    database.query("update mirror.migrations set checksum = 'newer' where name <> '0009_later'")
    before = database.query("select * from mirror.migrations order by name")
    with (
        pytest.raises(NotMigrated, match=r"0009_later.*install the newer permission-mirror"),
        database.migrating() as connection,
    ):
        upgrade(connection, "primary" if side == "primary" else "supabase", registry)
    assert database.query("select * from mirror.migrations order by name") == before


def test_a_connection_in_autocommit_mode_is_refused(backend: TestDatabase) -> None:
    """A failure in the middle would leave half a migration."""
    engine = create_engine(backend.sqlalchemy_url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection, pytest.raises(NotInTransaction, match="AUTOCOMMIT"):
        upgrade(connection)
    assert backend.value("select to_regnamespace('mirror')") is None


def test_an_upgrade_that_fails_half_way_leaves_nothing(project: TestDatabase) -> None:
    """The statements of the engine are rolled back with those of the model."""
    project.query("create table trips (id uuid primary key)")
    with pytest.raises(NotMigrated), project.migrating() as connection:
        upgrade(connection, "supabase", registry)
    assert project.value("select to_regnamespace('mirror')") is None
    assert project.value("select count(*) from pg_proc where proname like 'mirror\\_%'") == 0
    tables = "select relname from pg_class where relnamespace = 'public'::regnamespace"
    assert project.query(f"{tables} and relkind = 'r'") == [("trips",)]


def test_an_upgrade_waits_for_a_batch_in_flight_instead_of_deadlocking_with_it(
    target: TestDatabase,
) -> None:
    """A worker that is writing while the deployment migrates finishes first."""
    target.query("update mirror.migrations set checksum = 'old' where name = 'model_trips'")

    def migrate() -> list[str]:
        with target.migrating() as connection:
            return upgrade(connection, "supabase", registry)

    with target.connect(autocommit=False) as worker, ThreadPoolExecutor(1) as pool:
        worker.execute("select pg_advisory_xact_lock_shared(1835627122, 1)")
        worker.execute("insert into users (id) values (gen_random_uuid())")
        migrating = pool.submit(migrate)
        with target.connect() as watcher:
            for _ in range(500):
                waiting = watcher.execute(
                    "select 1 from pg_stat_activity where wait_event_type = 'Lock'"
                    " and datname = current_database() and pg_sleep(0.01) is not null"
                ).fetchall()
                if waiting:
                    break
            assert waiting
        worker.execute("insert into trip_memberships select where false")
        worker.commit()
        assert migrating.result(10) == ["model_trips"]
    assert target.value("select count(*) from users") == 1


def test_a_downgrade_removes_only_objects_of_the_library(primary: TestDatabase) -> None:
    """The backend's tables and rows stay; a new upgrade applies every step again."""
    primary.query("insert into users (id, email, username) values (gen_random_uuid(), 'a', 'a')")
    with primary.migrating() as connection:
        downgrade(connection)
    assert primary.value("select to_regnamespace('mirror')") is None
    assert primary.value("select count(*) from users") == 1
    with primary.migrating() as connection:
        assert upgrade(connection) == PRIMARY_STEPS


def test_a_writer_may_insert_an_event_and_nothing_else(backend: TestDatabase) -> None:
    """An earlier version granted the whole table: a row could be hidden from every claim."""
    columns = ("lane", "mapping", "reference", "key")
    backend.query("create role writer; create role deputy")
    try:
        with backend.migrating() as connection:
            upgrade(connection)
        backend.query(
            "alter table mirror.outbox drop constraint outbox_bounds;"
            " grant usage on schema mirror to writer;"
            " grant insert on mirror.outbox to writer with grant option;"
            " set role writer; grant insert on mirror.outbox to deputy; reset role;"
            " insert into mirror.outbox (id, recorded_at, transaction_id, mapping, key)"
            " overriding system value"
            " values (7, 'infinity', -1, 'users', '{x}'), (7, now(), -2, 'users', '{x}');"
            " delete from mirror.migrations where name = '0005_outbox_rights'"
        )
        with backend.migrating() as connection:
            assert upgrade(connection) == ["0005_outbox_rights"]
        granted = backend.query(
            "select grantee::text, column_name::text from information_schema.column_privileges"
            " where grantee in ('writer', 'deputy') and table_name = 'outbox'"
            " and privilege_type = 'INSERT'"
        )
        assert set(granted) == {(role, name) for role in ("writer", "deputy") for name in columns}
        assert backend.query("select isfinite(recorded_at), transaction_id from mirror.outbox") == [
            (True, 0),
            (True, 0),
        ]
        with pytest.raises(psycopg.errors.CheckViolation, match="outbox_bounds"):
            backend.query(
                "insert into mirror.outbox (recorded_at, mapping, key)"
                " values ('infinity', 'users', '{x}')"
            )
    finally:
        backend.query("drop owned by writer, deputy; drop role writer; drop role deputy")
