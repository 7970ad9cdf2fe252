"""`mirror migrate` looks at both sides first, and `mirror uninstall` is the way back."""

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session

from mappings.trips import registry
from mirror.devstack import PostgresCluster
from mirror.schema.migrate import OLDEST, migrations
from tests.acceptance.conftest import Command
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory
from tests.support.transaction_pooler import TransactionPooler

pytestmark = pytest.mark.usefixtures("no_environment")

NOWHERE = "postgresql://someone:hunter2@127.0.0.1:9/nothing"
REMEDY = 'PRIMARY_DATABASE_URL="$SUPABASE_DB_URL" mirror uninstall primary'


@pytest.fixture
def fresh(primary: TestDatabase) -> TestDatabase:
    """A primary that no migration has touched."""
    primary.query("drop schema mirror cascade")
    return primary


@pytest.fixture
def second_project(
    target_cluster: PostgresCluster, project_template: str
) -> Iterator[TestDatabase]:
    """One more Supabase project without any object of the mirror."""
    target_cluster.create_database("second_project", template=project_template, owner="postgres")
    yield TestDatabase(target_cluster.url("second_project", user="postgres"))
    target_cluster.drop_database("second_project")


def untouched(*databases: TestDatabase) -> bool:
    """Tell whether none of the databases contains an object of the library."""
    return all(database.value("select to_regnamespace('mirror') is null") for database in databases)


def urls(primary: TestDatabase, target: TestDatabase) -> dict[str, str]:
    """Return the environment of a command between two databases."""
    return {"PRIMARY_DATABASE_URL": primary.url, "SUPABASE_DB_URL": target.url}


@pytest.mark.parametrize("arguments", [(), ("primary",), ("supabase",), ("--dry-run",)])
def test_swapped_urls_are_noticed_before_a_database_is_touched(
    mirror: Command, fresh: TestDatabase, project: TestDatabase, arguments: tuple[str, ...]
) -> None:
    """Also by a command that would migrate only one of the two."""
    done = mirror("migrate", *arguments, **urls(primary=project, target=fresh))
    assert (done.code, done.out) == (2, ""), done.text
    assert "PRIMARY_DATABASE_URL and SUPABASE_DB_URL look swapped" in done.err
    assert untouched(fresh, project)


def test_swapped_urls_of_two_migrated_sides_are_noticed(
    mirror: Command, primary: TestDatabase, target: TestDatabase
) -> None:
    """Their histories tell which is which."""
    done = mirror("migrate", **urls(primary=target, target=primary))
    assert (done.code, "are swapped" in done.err) == (2, True), done.text
    assert "0001_outbox" in done.err
    assert "model_trips" in done.err
    assert mirror("migrate").out == "primary: up to date\nsupabase: up to date\n"


@pytest.mark.parametrize("arguments", [(), ("primary",), ("supabase",)])
def test_one_database_under_two_addresses_is_not_two(
    mirror: Command, project: TestDatabase, arguments: tuple[str, ...]
) -> None:
    """The second address leads through a pooler, which has another port."""
    with TransactionPooler(project.url) as pooler:
        done = mirror(
            "migrate", *arguments, PRIMARY_DATABASE_URL=project.url, SUPABASE_DB_URL=pooler.url
        )
    assert (done.code, done.out) == (2, ""), done.text
    assert "PRIMARY_DATABASE_URL and SUPABASE_DB_URL lead to the same database" in done.err
    assert untouched(project)


def test_a_primary_may_be_another_supabase_project(
    mirror: Command, second_project: TestDatabase, project: TestDatabase
) -> None:
    """Both databases are on one server; that does not make them one."""
    done = mirror("migrate", **urls(primary=second_project, target=project))
    assert done.code == 0, done.text
    assert second_project.value("select to_regclass('mirror.outbox') is not null")
    assert project.value("select to_regclass('mirror.mappings') is not null")


def test_the_primary_is_left_alone_if_the_target_is_no_project(
    mirror: Command, fresh: TestDatabase, primary_cluster: PostgresCluster
) -> None:
    """The error names the variable to correct."""
    if primary_cluster.version < OLDEST["supabase"]:
        pytest.skip("it is too old for a target, which is another error")
    other = TestDatabase(primary_cluster.url("template1"))
    done = mirror("migrate", **urls(primary=fresh, target=other))
    assert (done.code, done.out) == (4, ""), done.text
    assert "no Supabase project" in done.err
    assert "Point SUPABASE_DB_URL at" in done.err
    assert untouched(fresh, other)


@pytest.mark.parametrize("url", [NOWHERE, None])
def test_a_target_that_does_not_answer_stops_no_migration_of_the_primary(
    mirror: Command, fresh: TestDatabase, url: str | None
) -> None:
    """The target is only looked at; a migration of both sides needs it."""
    done = mirror("migrate", "primary", SUPABASE_DB_URL=url)
    assert (done.code, "applied 0001_outbox" in done.out) == (0, True), done.text
    assert mirror("migrate", SUPABASE_DB_URL=url).code == (4 if url else 2)


def test_an_outbox_in_the_target_is_named_with_the_command_that_removes_it(
    mirror: Command, fresh: TestDatabase, project: TestDatabase
) -> None:
    """An earlier version put it there when the URLs were swapped."""
    for step in migrations("primary"):
        project.query(step.script)
    for arguments in ((), ("supabase",)):
        done = mirror("migrate", *arguments, SUPABASE_DB_URL=project.url)
        assert (done.code, done.out) == (4, ""), done.text
        assert "the database of SUPABASE_DB_URL holds the primary's side" in done.err
        assert REMEDY in done.err
    assert untouched(fresh)

    done = mirror("uninstall", "supabase", "--yes", SUPABASE_DB_URL=project.url)
    assert (done.code, REMEDY in done.err) == (4, True), done.text
    done = mirror("uninstall", "primary", "--yes", PRIMARY_DATABASE_URL=project.url)
    assert (done.code, done.out.splitlines()[0]) == (0, "primary: uninstalled"), done.text
    assert untouched(project)
    assert mirror("migrate", SUPABASE_DB_URL=project.url).code == 0


def test_both_sides_go_and_come_back(
    mirror: Command, primary: TestDatabase, target: TestDatabase, session: Session
) -> None:
    """A user has access, then none, then the same access again."""
    member = MembershipFactory()
    session.commit()
    # The session's transaction would hold up whatever changes the tables.
    session.close()

    def reads() -> int:
        with target.acting_as(member.user_id) as connection:
            return len(connection.execute("select from trips").fetchall())

    def install() -> None:
        assert mirror("migrate", "primary", "--triggers").code == 0
        assert mirror("migrate", "supabase", "--guards").code == 0
        assert mirror("resync").code == 0
        assert mirror("drain").code == 0

    install()
    assert reads() == 1
    done = mirror("uninstall", "primary", "--yes")
    assert (done.code, "a worker ran" in done.err) == (2, True), done.text
    primary.query("update mirror.heartbeats set seen_at = now() - interval '3 minutes'")
    primary.query("update trips set name = 'Porto'")
    done = mirror("uninstall", "primary")
    assert (done.code, "1 event(s) wait" in done.err) == (2, True), done.text
    assert mirror("drain").code == 0

    assert mirror("uninstall", "primary", "--yes", "--force").code == 0
    assert primary.value("select count(*) from pg_trigger where tgname like 'mirror%'") == 0
    primary.query("update trips set name = 'Faro'")
    assert mirror("uninstall", "supabase", "--yes").code == 0
    assert reads() == 0
    assert target.value("select count(*) from trips") == 1
    assert mirror("uninstall", "primary", "--yes").out == "primary: nothing is installed\n"
    assert mirror("uninstall", "supabase", "--yes").out == "supabase: nothing is installed\n"

    install()
    assert reads() == 1
    assert target.value("select name from trips") == "Faro"
    assert mirror("status").code == 0


def test_uninstall_prints_sql_that_psql_can_run_and_changes_nothing(
    mirror: Command, primary: TestDatabase, target: TestDatabase
) -> None:
    """The printed statements do what --yes does."""
    for side, database in (("primary", primary), ("supabase", target)):
        printed = mirror("uninstall", side)
        assert printed.code == 0, printed.text
        assert not untouched(database)
        database.query(printed.out)
        assert untouched(database)
        assert mirror("uninstall", side).err == f"{side}: nothing is installed\n"


@pytest.mark.parametrize(
    "arguments",
    [["both"], ["primary", "--tables"], []],
)
def test_wrong_usage_of_uninstall_is_exit_code_2(mirror: Command, arguments: list[str]) -> None:
    """A side has to be named; options of the other side are refused."""
    assert mirror("uninstall", *arguments).code == 2


def test_names_of_the_model_are_not_needed_to_uninstall_it(
    mirror: Command, target: TestDatabase
) -> None:
    """The database knows them, whatever the declarations say by now."""
    done = mirror("uninstall", "supabase", "--yes", MIRROR_MAPPINGS="no.such.module")
    assert done.code == 0, done.text
    assert untouched(target)
    assert target.value("select count(*) from pg_policy where polname like 'mirror%'") == 0
    assert registry.name not in str(target.query("select polname from pg_policy"))
