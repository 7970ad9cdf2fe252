"""The real Supabase CLI: pushes of our migrations beside others, and the dashboard's advisors.

The CLI is an npm package, pinned in tests/supabase. Without Docker it still connects to any
PostgreSQL, which stands in for a project here.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest

import mappings
from mappings.trips import registry
from mirror.devstack import PostgresCluster, prepare_services
from mirror.devstack.node import find_program, install
from mirror.model.registry import load_registry
from mirror.schema.cli_files import write_files
from mirror.schema.migrate import Migration, migrations, pending, upgrade
from tests.support import guarded_model
from tests.support.databases import SCHEMA, TestDatabase

PACKAGE = Path(__file__).parent.parent / "supabase"
EXAMPLES = PACKAGE.parent.parent / "examples"
PROGRAM = PACKAGE / "node_modules" / "supabase" / "dist" / "supabase.js"
OURS = ["0001_engine", "model_trips"]

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]

Cli = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def program() -> list[str]:
    """The command that starts the CLI; the fixture installs it if it is missing."""
    install(PACKAGE)
    return [find_program("node"), str(PROGRAM)]


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """A repository whose Supabase project uses the CLI and has its own migration."""
    path = tmp_path / "repository" / "supabase" / "migrations" / "20240101000059_bookmarks.sql"
    path.parent.mkdir(parents=True)
    path.write_text("create table bookmarks (id int primary key);\n")
    return path.parent.parent.parent


@pytest.fixture
def cli(program: list[str], tmp_path: Path, workdir: Path) -> Cli:
    """Return a function that runs one command on a database and returns its JSON."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        "HOME": str(home),
        "PATH": os.defpath,
        "SUPABASE_TELEMETRY_DISABLED": "1",
        "SUPABASE_NO_UPDATE_NOTIFIER": "1",
    }

    def run(database: TestDatabase, *arguments: str) -> dict[str, Any]:
        done = subprocess.run(
            [
                *program,
                *arguments,
                *("--db-url", f"{database.url}?sslmode=disable"),
                *("--workdir", str(workdir)),
                *("--output-format", "json"),
            ],
            env=environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        try:
            answer: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            answer = {"error": done.stderr}
        answer["exit_code"] = done.returncode
        return answer

    return run


def push(cli: Cli, database: TestDatabase) -> list[str]:
    """Push new files and return them, because the exit code alone is not enough."""
    answer = cli(database, "db", "push", "--yes")
    assert answer["exit_code"] == 0, answer
    pushed: list[str] = answer["migrations"]
    return pushed


def names(files: list[str]) -> list[str]:
    """Return the part of each file's name after the version."""
    return [name.partition("_")[2].removesuffix(".sql") for name in files]


def test_files_pushed_by_the_cli_are_recognised_by_upgrade(
    cli: Cli, workdir: Path, project: TestDatabase
) -> None:
    """Our files come after the project's own; then no tool finds a pending step."""
    assert names(push(cli, project)) == ["bookmarks"]
    steps = migrations("supabase", registry)
    written = write_files(workdir / "supabase" / "migrations", steps)
    assert push(cli, project) == [path.name for path in written]

    with project.migrating() as connection:
        assert pending(connection, steps) == []
        assert upgrade(connection, "supabase", registry) == []
    assert write_files(workdir / "supabase" / "migrations", steps) == []
    assert push(cli, project) == []
    listed = cli(project, "migration", "list")["migrations"]
    assert len(listed) == 3
    assert all(entry["local"] == entry["remote"] for entry in listed)


def test_a_project_that_upgrade_migrated_can_be_pushed_to(
    cli: Cli, workdir: Path, project: TestDatabase
) -> None:
    """The CLI has its own history: it repeats our files, then runs the project's own."""
    assert names(push(cli, project)) == ["bookmarks"]
    with project.migrating() as connection:
        assert upgrade(connection, "supabase", registry) == OURS
    project.query("insert into users (id) values (gen_random_uuid())")
    into = workdir / "supabase" / "migrations"
    written = write_files(into, migrations("supabase", registry))
    assert names(push(cli, project)) == [f"mirror_{name}" for name in OURS]
    assert project.value("select count(*) from users") == 1

    version = int(written[-1].name.partition("_")[0]) + 1
    (into / f"{version}_notes.sql").write_text("create table notes (id int primary key);\n")
    assert names(push(cli, project)) == ["notes"]


def test_upgrade_alone_does_not_break_the_projects_own_pushes(
    cli: Cli, workdir: Path, project: TestDatabase
) -> None:
    """Our migrations leave no row in the CLI's history that the repository lacks."""
    assert names(push(cli, project)) == ["bookmarks"]
    with project.migrating() as connection:
        upgrade(connection, "supabase", registry)
    own = workdir / "supabase" / "migrations" / "20240101000100_notes.sql"
    own.write_text("create table notes (id int primary key);\n")
    assert names(push(cli, project)) == ["notes"]


def test_a_changed_model_is_pushed_as_one_more_file(
    cli: Cli, workdir: Path, project: TestDatabase
) -> None:
    """The pushed file stays unchanged."""
    into = workdir / "supabase" / "migrations"
    engine, model = migrations("supabase", registry)
    write_files(into, [engine, model])
    push(cli, project)
    changed = Migration(model.name, f"{model.sql}\n\ncomment on table users is 'changed';\n")
    write_files(into, [engine, changed])
    assert names(push(cli, project)) == ["mirror_model_trips"]
    with project.migrating() as connection:
        assert pending(connection, [engine, changed]) == []


def test_a_push_that_is_refused_names_the_table_and_can_be_repeated(
    cli: Cli, workdir: Path, project: TestDatabase
) -> None:
    """The CLI runs each file in its own transaction."""
    project.query("create view users as select 1 as id")
    write_files(workdir / "supabase" / "migrations", migrations("supabase", registry))
    answer = cli(project, "db", "push", "--yes")
    assert answer["exit_code"] != 0
    assert "table public.users exists and is no plain table" in json.dumps(answer)
    assert project.value("select to_regclass('mirror.ledger_users')") is None

    project.query("drop view users")
    assert names(push(cli, project)) == ["mirror_model_trips"]


def test_the_advisors_report_nothing(cli: Cli, target: TestDatabase) -> None:
    """They check security and performance, down to level info, of our tables and the example's."""
    answer = cli(target, "db", "advisors", "--level", "info", "--fail-on", "info")
    assert answer["results"] == []
    assert answer["exit_code"] == 0


MODELS = {
    found.name: (EXAMPLES / found.name / "supabase.sql", load_registry(f"mappings.{found.name}"))
    for found in iter_modules(mappings.__path__)
    if found.name != "trips"
}


@pytest.mark.parametrize("model", ["rooms", *MODELS])
def test_the_advisors_report_nothing_for_any_model_and_its_guards(
    cli: Cli, project: TestDatabase, target_cluster: PostgresCluster, model: str
) -> None:
    """Models have quoted names, parents, expiry, own rows, files, and tables without an index."""
    own, one = guarded_model.SCHEMA, guarded_model.registry
    if model in MODELS:
        own, one = MODELS[model][0].read_text(), MODELS[model][1]
    prepare_services(target_cluster, project.url.rsplit("/", 1)[-1])
    with project.migrating() as connection:
        upgrade(connection, "supabase", one)
    project.query(own)
    with project.migrating() as connection:
        upgrade(connection, "supabase", one, guards=True)
    answer = cli(project, "db", "advisors", "--level", "info", "--fail-on", "info")
    assert answer["results"] == []
    assert answer["exit_code"] == 0


def test_guards_are_pushed_after_the_tables_that_they_guard(
    cli: Cli, workdir: Path, project: TestDatabase
) -> None:
    """They are one more file; a missing table is named."""
    into = workdir / "supabase" / "migrations"
    push(cli, project)
    write_files(into, migrations("supabase", registry, guards=True))
    answer = cli(project, "db", "push", "--yes")
    assert answer["exit_code"] != 0
    assert "guarded table public.chat_messages does not exist" in json.dumps(answer)
    project.query(SCHEMA.read_text())
    assert names(push(cli, project)) == ["mirror_guards_trips"]
    with project.migrating() as connection:
        assert upgrade(connection, "supabase", registry) == []


def test_the_advisors_do_check_our_tables(cli: Cli, target: TestDatabase) -> None:
    """Otherwise the test above would always pass."""
    target.query("alter table trips disable row level security")
    target.query("create policy twice on users for select to authenticated using (true)")
    answer = cli(target, "db", "advisors", "--level", "info", "--fail-on", "info")
    found = {result["name"] for result in answer["results"]}
    assert {"policy_exists_rls_disabled", "multiple_permissive_policies"} <= found
    assert answer["exit_code"] != 0
