"""Uninstall: what goes, what stays, and what is refused because users' own objects need it."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from mappings.trips import registry
from mirror.devstack import PostgresCluster, prepare_cluster, prepare_database
from mirror.errors import NotMigrated, UsageError
from mirror.schema.migrate import migrations, upgrade
from mirror.schema.running import statements
from mirror.schema.sides import OTHER, Side
from mirror.schema.uninstall import Removal, uninstall
from tests.support.databases import TestDatabase
from tests.support.waiting import until

# The objects that a user could miss, or that must not stay behind: one text for each.
EVERYTHING = """
    select concat_ws(' ', c.oid::regclass, relkind, relrowsecurity)
      from pg_class as c join pg_namespace as n on n.oid = relnamespace
      where nspname in ('mirror', 'public', 'realtime', 'storage')
    union all
    select concat_ws(' ', p.oid::regprocedure, md5(prosrc))
      from pg_proc as p join pg_namespace as n on n.oid = pronamespace
      where nspname in ('mirror', 'public', 'realtime', 'storage')
    union all select concat_ws(' ', polrelid::regclass, polname) from pg_policy
    union all
    select concat_ws(' ', tgrelid::regclass, tgname) from pg_trigger where not tgisinternal
    union all
    select concat_ws(' ', attrelid::regclass, attname)
      from pg_attribute join pg_class as c on c.oid = attrelid
      join pg_namespace as n on n.oid = relnamespace
      where nspname in ('mirror', 'public') and relkind = 'r' and attnum > 0 and not attisdropped
    order by 1
"""


def remove(
    database: TestDatabase, side: Side, *, tables: bool = False, force: bool = False
) -> Removal:
    """Uninstall one side."""
    with database.migrating() as connection:
        return uninstall(connection, side, tables=tables, force=force)


def test_a_project_is_as_it_was_after_its_tables_are_dropped_too(project: TestDatabase) -> None:
    """No object of the mirror stays behind, and no right."""
    privileges = "select nspname, nspacl::text from pg_namespace order by 1"
    before = project.query(EVERYTHING), project.query(privileges)
    with project.migrating() as connection:
        upgrade(connection, "supabase", registry)
    remove(project, "supabase", tables=True)
    assert project.query(EVERYTHING) == before[0]
    assert project.query(privileges) == before[1]


def test_guards_and_triggers_go_and_tables_of_the_user_stay(
    primary: TestDatabase, target: TestDatabase
) -> None:
    """Row-level security of the guarded tables stays on; the note names them."""
    with primary.migrating() as connection:
        before = primary.query("select count(*) from pg_trigger")
        upgrade(connection, "primary", registry, triggers=True)
    remove(primary, "primary")
    # The outbox had one of its own.
    assert primary.query("select count(*) + 1 from pg_trigger") == before
    notes = " ".join(remove(target, "supabase").notes)
    assert "public.chat_messages" in notes
    assert "realtime.messages" in notes
    assert target.value("select count(*) from pg_policy") == 0
    assert target.value("select relrowsecurity from pg_class where relname = 'chat_messages'")


POLICY = "create policy drivers on public.journeys using (trip_id = any(mirror.my_trips('MEMBER')))"
USES = {
    "a policy": (POLICY, "policy drivers on table journeys"),
    "a view": (
        "create view readers as select * from mirror.state",
        "view readers",
    ),
    "a default": (
        "alter table journeys alter column open set default mirror.is_trip_member(null)",
        "default value for column open of table journeys",
    ),
}


@pytest.mark.parametrize("use", USES)
def test_what_a_user_built_on_the_mirror_is_named_and_nothing_goes(
    target: TestDatabase, use: str
) -> None:
    """DROP … CASCADE would have dropped a policy of the user's without a word."""
    target.query("create table journeys (trip_id uuid, open boolean)")
    statement, name = USES[use]
    target.query(statement)
    before = target.query(EVERYTHING)
    with pytest.raises(NotMigrated, match=f"objects of yours use what would go: {name}"):
        remove(target, "supabase", force=True)
    assert target.query(EVERYTHING) == before


def test_a_foreign_key_of_the_user_keeps_a_mirrored_table(target: TestDatabase) -> None:
    """Without --tables it is in nobody's way."""
    target.query("create table journeys (trip_id uuid references trips)")
    with pytest.raises(NotMigrated, match="constraint journeys_trip_id_fkey on table journeys"):
        remove(target, "supabase", tables=True)
    remove(target, "supabase")
    assert target.value("select to_regclass('trips') is not null")


@pytest.mark.parametrize("side", ["primary", "supabase"])
def test_a_function_of_the_user_that_calls_ours_has_to_be_seen_to(
    primary: TestDatabase, target: TestDatabase, side: Side
) -> None:
    """PostgreSQL does not know of the call: every write to a table with its trigger would fail."""
    database = primary if side == "primary" else target
    inner = "mirror.outbox" if side == "primary" else "mirror.my_trips($$MEMBER$$)"
    for name, relation in (("mirror_mine", inner), ("bystander", "mirror.outbox_of_another")):
        database.query(
            f"create function {name}() returns void language plpgsql as"
            f" 'begin perform 1 from {relation}; end'"
        )
    with pytest.raises(UsageError, match=r"Functions of yours.*: mirror_mine\(\)\..*--force"):
        remove(database, side)
    remove(database, side, force=True)
    assert database.value("select to_regnamespace('mirror') is null")
    assert database.value("select to_regprocedure('mirror_mine()') is not null")


def test_an_event_that_commits_after_the_first_look_is_not_lost(primary: TestDatabase) -> None:
    """The events are counted once more when no writer can add one."""
    with primary.connect(autocommit=False) as writer, ThreadPoolExecutor(1) as pool:
        writer.execute("insert into mirror.outbox (mapping, key) values ('users', '{x}')")
        removing = pool.submit(remove, primary, "primary")
        waiting = "select count(*) from pg_locks where not granted and relation is not null"
        until(lambda: primary.value(waiting) > 0)
        writer.commit()
        with pytest.raises(UsageError, match=r"1 event\(s\) wait"):
            removing.result(30)
    assert primary.value("select count(*) from mirror.outbox") == 1


def paste(database: TestDatabase, side: Side) -> None:
    """Run what --sql prints as `psql` does, which goes on after an error."""
    with database.connect() as connection:
        for step in migrations(side, registry):
            for statement in statements(step.script):
                with suppress(psycopg.Error):
                    connection.execute(statement.encode())


@pytest.mark.parametrize("first", ["primary", "supabase"])
@pytest.mark.parametrize("side", ["primary", "supabase"])
def test_of_two_sides_in_one_database_one_goes(
    project: TestDatabase, first: Side, side: Side
) -> None:
    """The other is as if it had been alone, once it is migrated again.

    The table `state`, which has one name on both sides, keeps the columns of both.
    """
    with project.migrating() as connection:
        upgrade(connection, OTHER[side], registry)
    alone = without_state(project)
    remove(project, OTHER[side], tables=True)

    paste(project, first)
    paste(project, OTHER[first])
    for each in (side, OTHER[side]):
        with (
            pytest.raises(NotMigrated, match=f"mirror uninstall {OTHER[each]}"),
            project.migrating() as connection,
        ):
            upgrade(connection, each, registry)
    remove(project, side, tables=True)
    with project.migrating() as connection:
        upgrade(connection, OTHER[side], registry)
    assert without_state(project) == alone


def without_state(project: TestDatabase) -> list[str]:
    """Return everything but the columns of mirror.state."""
    return [name for (name,) in project.query(EVERYTHING) if not name.startswith("mirror.state ")]


def test_a_history_that_was_emptied_is_not_guessed(target: TestDatabase) -> None:
    """`mirror uninstall primary` with the target's URL must not remove the target's side."""
    target.query("delete from mirror.migrations")
    with pytest.raises(NotMigrated, match="does not say which side"):
        remove(target, "primary")


def test_a_schema_of_another_program_is_left_alone(project: TestDatabase) -> None:
    """It may be called mirror, too."""
    project.query("create schema mirror")
    project.query("create table mirror.images (id int)")
    with pytest.raises(NotMigrated, match="is not ours: it holds images"):
        remove(project, "supabase")


def test_the_functions_of_the_api_go_after_a_user_dropped_the_schema(target: TestDatabase) -> None:
    """They belong to schema public, so they stay behind."""
    target.query("drop schema mirror cascade")
    target.query("create function mirror_mine() returns int language sql as 'select 1'")
    remove(target, "supabase")
    names = "select proname::text from pg_proc where proname like 'mirror\\_%'"
    assert target.query(names) == [("mirror_mine",)]


@pytest.mark.long
def test_the_writers_role_goes_with_its_last_database(tmp_path: Path) -> None:
    """Another database of the server, a member or a right of its own keeps it."""
    with PostgresCluster.start(
        tmp_path / "project", version=18, superuser="supabase_admin", durable=False
    ) as cluster:
        prepare_cluster(cluster)
        databases = []
        for name in ("one", "two"):
            cluster.create_database(name, owner="postgres")
            prepare_database(cluster, name)
            databases.append(TestDatabase(cluster.url(name, user="postgres")))
        one, two = databases
        there = "select count(*) from pg_roles where rolname = 'mirror_writer'"

        def put_back() -> None:
            with one.migrating() as connection:
                upgrade(connection, "supabase", registry)

        put_back()
        with two.migrating() as connection:
            upgrade(connection, "supabase", registry)
        assert "Role mirror_writer stays: other databases" in str(remove(one, "supabase").notes)
        assert one.value(there)
        remove(two, "supabase")
        assert not one.value(there)

        put_back()
        two.query("create role robot login; grant mirror_writer to robot")
        assert "other roles are members" in str(remove(one, "supabase").notes)
        put_back()
        two.query("drop role robot")
        one.query("grant select on trips to mirror_writer")
        assert "rights on other objects" in str(remove(one, "supabase").notes)
        put_back()
        assert "mirror_writer" not in str(remove(one, "supabase", tables=True).notes)
        assert not one.value(there)


def test_rows_of_a_table_that_stayed_grant_nothing_to_the_model_that_takes_it_over(
    project: TestDatabase,
) -> None:
    """The next resync judges them; a new row of the same key is no conflict."""
    with project.migrating() as connection:
        upgrade(connection, "supabase", registry)
    user = uuid4()
    project.query("insert into users (id, username) values (%s, 'ada')", user)
    remove(project, "supabase")
    with project.acting_as(user) as connection_of_ada:
        assert connection_of_ada.execute("select username from users").fetchall() == []
    with project.migrating() as connection:
        upgrade(connection, "supabase", registry)
    assert project.query("select fence, present from mirror.ledger_users") == [(0, True)]
