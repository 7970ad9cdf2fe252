"""An upgrade does not take over foreign objects: it names the table and changes nothing."""

import asyncio
import re
from uuid import uuid4

import pytest
from sqlalchemy import NullPool, column, select, table
from sqlalchemy.ext.asyncio import create_async_engine

from mappings.trips import registry
from mirror.devstack import PostgresCluster
from mirror.errors import NotMigrated, ServerTooOld
from mirror.model.mapping import Column, Mapping
from mirror.model.registry import Registry
from mirror.schema.migrate import OLDEST, due, upgrade
from mirror.schema.sides import Side
from tests.support.databases import TestDatabase

USERS = "create table users (id uuid primary key, email text, username text);"
MEMBERSHIPS = """
    create table trips (id uuid primary key, name text, created_by uuid);
    create table trip_memberships (
      trip_id uuid references trips on delete cascade,
      user_id uuid references users on delete {on_delete},
      role text, status text, primary key ({key})
    );
"""

# The obstacle, and the text that the error must contain.
IN_THE_WAY = {
    "a view": (
        "create view users as select gen_random_uuid() as id, '' as email, '' as username",
        "public.users exists and is no plain table",
    ),
    "a materialized view": (
        "create materialized view trips as select 1 as id",
        "public.trips exists and is no plain table",
    ),
    "a partitioned table": (
        "create table trips (id uuid primary key) partition by hash (id)",
        "public.trips exists and is no plain table",
    ),
    "a sequence": ("create sequence trips", "public.trips exists and is no plain table"),
    "a column too many": (
        "create table users (id uuid primary key, email text, username text, phone text)",
        "public.users exists and has a column phone that is not declared",
    ),
    "a column too few": (
        "create table users (id uuid primary key, email text)",
        "public.users exists and has no column username",
    ),
    "a column of another type": (
        "create table users (id text primary key, email text, username text)",
        "public.users exists and has a column id of type text, not uuid",
    ),
    "a column that may not be null": (
        "create table trips (id uuid primary key, name text not null, created_by uuid)",
        "public.trips exists and has a column name that may not be null",
    ),
    "a generated column": (
        f"{USERS} alter table users drop email, add email text generated always as ('') stored",
        "public.users exists and has a column email that the server computes",
    ),
    "no primary key": (
        "create table users (id uuid not null, email text, username text)",
        "public.users exists and has another primary key",
    ),
    "its key in another order": (
        USERS + MEMBERSHIPS.format(on_delete="cascade", key="user_id, trip_id"),
        "public.trip_memberships exists and has another primary key",
    ),
    "a foreign key that does not cascade": (
        USERS + MEMBERSHIPS.format(on_delete="restrict", key="trip_id, user_id"),
        "public.trip_memberships exists and has other foreign keys",
    ),
    "a foreign key that old rows were not checked by": (
        USERS
        + MEMBERSHIPS.format(on_delete="cascade", key="trip_id, user_id")
        + "alter table trip_memberships drop constraint trip_memberships_user_id_fkey,"
        " add foreign key (user_id) references users on delete cascade not valid",
        "public.trip_memberships exists and has other foreign keys",
    ),
    "a foreign key that is not enforced": (
        USERS + MEMBERSHIPS.format(on_delete="cascade not enforced", key="trip_id, user_id"),
        "public.trip_memberships exists and has other foreign keys",
    ),
    "a foreign key to the project's own users": (
        "create table users (id uuid primary key references auth.users, email text, username text)",
        "public.users exists and has other foreign keys",
    ),
    "a unique constraint": (
        "create table users (id uuid primary key, email text unique, username text)",
        "public.users exists and has other foreign keys, unique or check constraints",
    ),
    "a policy": (
        USERS + "create policy everybody on users using (true)",
        "public.users exists and has a policy everybody",
    ),
    "a trigger": (
        USERS + "create trigger keep before delete on users for each row"
        " execute function suppress_redundant_updates_trigger()",
        "public.users exists and has a trigger keep",
    ),
}


# Obstacles that earlier versions of PostgreSQL do not allow.
SINCE = {"a foreign key that is not enforced": 18}


@pytest.mark.parametrize("case", IN_THE_WAY)
def test_a_table_that_is_not_what_we_would_create_is_refused_by_name(
    target_cluster: PostgresCluster, project: TestDatabase, case: str
) -> None:
    """Nothing is altered, and no step is half applied."""
    statements, message = IN_THE_WAY[case]
    if target_cluster.version < SINCE.get(case, 0):
        pytest.skip(f"PostgreSQL {SINCE[case]} brought it")
    with project.connect() as connection:
        connection.execute(statements.encode())
    everything = (
        "select c.oid, c.relname, c.xmin::text, (select array_agg(a.xmin::text order by attnum)"
        " from pg_attribute as a where a.attrelid = c.oid)"
        " from pg_class as c order by c.oid"
    )
    before = project.query(everything)
    with pytest.raises(NotMigrated) as caught, project.migrating() as connection:
        upgrade(connection, "supabase", registry)
    assert str(caught.value).startswith(f"target: table {message}")
    assert "give mapping" in str(caught.value)
    assert project.query(everything) == before
    assert project.value("select to_regnamespace('mirror')") is None


@pytest.mark.parametrize("kind", ["json", "xml", "point", "bit varying", "json[]"])
def test_a_column_whose_values_cannot_be_compared_is_refused_by_name(
    project: TestDatabase, kind: str
) -> None:
    """Each write of it would fail: no event of any mapping with such a column could be mirrored."""
    odd = Mapping(
        name="users",
        table="users",
        key=("id",),
        columns=(Column("id", "bigint"), Column("odd", kind)),
        query=select(table("users", column("id"), column("odd"))),
    )
    refusal = f"column odd of mapping users is {re.escape(kind)}, whose values"
    with pytest.raises(NotMigrated, match=refusal), project.migrating() as connection:
        upgrade(connection, "supabase", Registry("odd", [odd]))


@pytest.mark.parametrize("side", ["primary", "supabase"])
def test_a_server_that_is_too_old_is_refused_before_anything_is_made(
    project: TestDatabase, monkeypatch: pytest.MonkeyPatch, side: Side
) -> None:
    """Each side has its limit; tests/acceptance/test_old_servers.py starts really old servers."""
    monkeypatch.setitem(OLDEST, side, 99)
    for function in (due, upgrade):
        with (
            pytest.raises(ServerTooOld, match=r"this is PostgreSQL 1.*needs 99 or newer"),
            project.migrating() as connection,
        ):
            function(connection, side, registry)
    assert project.value("select to_regnamespace('mirror')") is None


def test_a_table_of_another_owner_is_refused_by_name(
    target_cluster: PostgresCluster, project: TestDatabase
) -> None:
    """The owner could change the table's policies, and the migrating role could not."""
    superuser = TestDatabase(target_cluster.url(project.url.rsplit("/", 1)[-1]))
    superuser.query(USERS)
    message = r"public\.users exists and belongs to supabase_admin, not to postgres"
    with pytest.raises(NotMigrated, match=message), project.migrating() as connection:
        upgrade(connection, "supabase", registry)
    assert project.value("select to_regnamespace('mirror')") is None


def test_a_table_that_is_exactly_ours_is_taken_over_with_its_rows(project: TestDatabase) -> None:
    """After a user dropped schema `mirror`, the rows stay, and privileges are revoked again."""
    with project.migrating() as connection:
        upgrade(connection, "supabase", registry)
    user = uuid4()
    project.query("insert into users (id) values (%s)", user)
    project.query("drop schema mirror cascade")
    project.query("grant all on users to anon")
    with project.migrating() as connection:
        upgrade(connection, "supabase", registry)
    assert project.query("select id from users") == [(user,)]
    assert not project.value("select has_any_column_privilege('anon', 'users', 'select')")


def test_a_policy_added_to_a_table_of_ours_later_is_left_alone(target: TestDatabase) -> None:
    """It was added on purpose; only policies that exist at the first upgrade are not trusted."""
    target.query("create policy support on users for select to authenticated using (false)")
    target.query("delete from mirror.migrations")
    with target.migrating() as connection:
        upgrade(connection, "supabase", registry)
    assert target.value("select count(*) from pg_policy where polname = 'support'") == 1


@pytest.fixture
def any_target_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a primary that is too old for a target be refused for what it is, not for its age."""
    monkeypatch.setitem(OLDEST, "supabase", OLDEST["primary"])


@pytest.mark.usefixtures("any_target_version")
def test_a_database_that_is_no_supabase_project_is_refused(primary: TestDatabase) -> None:
    """It may be an ordinary PostgreSQL, or the primary by mistake."""
    primary.query("drop schema mirror cascade")
    with (
        pytest.raises(NotMigrated, match=r"no Supabase project.*Point SUPABASE_DB_URL"),
        primary.migrating() as connection,
    ):
        upgrade(connection, "supabase", registry)
    assert primary.value("select to_regnamespace('mirror')") is None


@pytest.mark.usefixtures("any_target_version")
def test_the_primary_is_not_mistaken_for_the_target(primary: TestDatabase) -> None:
    """Its history tells, and the error has the command that would remove it."""
    with (
        pytest.raises(NotMigrated, match=r"0001_outbox.*swapped.*`.*mirror uninstall primary`"),
        primary.migrating() as connection,
    ):
        upgrade(connection, "supabase", registry)


def test_the_target_is_not_mistaken_for_the_primary(target: TestDatabase) -> None:
    """An Alembic revision sees this one database alone: its history tells."""
    message = r"0001_engine.*model_trips.*swapped.*`.*mirror uninstall supabase`"
    with pytest.raises(NotMigrated, match=message), target.migrating() as connection:
        upgrade(connection)
    assert target.value("select to_regclass('mirror.outbox')") is None


def test_a_schema_mirror_with_foreign_objects_is_refused(project: TestDatabase) -> None:
    """Its tables could have the same names as the library's."""
    project.query("create schema mirror")
    project.query("create table mirror.state (id int)")
    with (
        pytest.raises(NotMigrated, match=r"schema mirror exists and is not ours: it holds state"),
        project.migrating() as connection,
    ):
        upgrade(connection, "supabase", registry)
    assert project.query("select relname from pg_class where relnamespace = 'mirror'::regnamespace")


def test_an_empty_schema_mirror_is_accepted(project: TestDatabase) -> None:
    """An administrator may create the schema beforehand."""
    project.query("create schema mirror")
    with project.migrating() as connection:
        assert upgrade(connection, "supabase", registry)


def test_a_refusal_reads_the_same_over_asyncpg(project: TestDatabase) -> None:
    """The error names the table and the remedy, although the driver's errors look different."""
    project.query("create view users as select 1 as id")

    async def migrate() -> None:
        url = project.url.replace("postgresql://", "postgresql+asyncpg://", 1)
        engine = create_async_engine(url, poolclass=NullPool)
        async with engine.begin() as connection:
            await connection.run_sync(upgrade, "supabase", registry)

    with pytest.raises(NotMigrated) as caught:
        asyncio.run(migrate())
    assert str(caught.value) == (
        "target: table public.users exists and is no plain table. "
        "Move it out of the way, or give mapping users another table."
    )
    assert project.value("select to_regnamespace('mirror')") is None
