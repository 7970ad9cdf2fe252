"""`mirror init --database`: what it writes can be migrated and mirrored at once."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import RawCursor, sql

from examples.trip_chat import models
from mappings import campaigns, consultations, trips
from mirror.access import Guard, Membership
from mirror.devstack import PostgresCluster
from mirror.errors import UsageError
from mirror.model.registry import Registry
from mirror.schema.migrate import upgrade
from mirror.settings import load_settings
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_drain
from tests.support.databases import EXAMPLES, TestDatabase
from tests.support.init_command import CORE, HEADER, MEMBER, OWNED, ROLE, Init, written_registry

ROOT = EXAMPLES.parent
CAPTURE = (ROOT / "docs" / "capture.md").read_text()
MIGRATE = (ROOT / "docs" / "migrate.md").read_text()
RIGHTS = re.findall(r"```sql\n(grant .*?)```", MIGRATE, re.DOTALL)
INSERTS = re.findall(r"```postgresql\n(-- one membership was.*?)```", CAPTURE, re.DOTALL)

TRANSLATED = """
    create type trip_role as enum ('owner', 'member');
    create table users (
      id bigint generated always as identity primary key,
      supabase_id text unique,
      username text not null,
      is_active boolean not null default true,
      deleted_at timestamptz
    );
    create table trips (
      id bigint generated always as identity primary key, name text, deleted_at timestamptz
    );
    create table trip_members (
      id bigint generated always as identity primary key,
      trip_id bigint not null references trips,
      user_id bigint not null references users,
      role trip_role not null,
      deleted_at timestamptz
    );
    create unique index on trip_members (trip_id, user_id) where deleted_at is null
"""
MESSAGES = """
    create table messages (
      id uuid primary key default gen_random_uuid(),
      trip_id bigint not null,
      sender_id uuid not null default auth.uid(),
      body text not null,
      sent_at timestamptz not null default now()
    );
    alter table messages enable row level security
"""


@pytest.fixture
def backend(
    primary_cluster: PostgresCluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestDatabase]:
    """An empty database, which PRIMARY_DATABASE_URL names."""
    primary_cluster.create_database("init_backend")
    database = TestDatabase(primary_cluster.url("init_backend"))
    monkeypatch.setenv("PRIMARY_DATABASE_URL", database.url)
    yield database
    primary_cluster.drop_database("init_backend")


def migrate(backend: TestDatabase, project: TestDatabase, registry: Registry) -> None:
    """Install the registry in both databases, as `mirror migrate` does."""
    with backend.migrating() as connection:
        upgrade(connection, "primary", registry, triggers=True)
    with project.migrating() as connection:
        upgrade(connection, "supabase", registry)


@pytest.mark.long
def test_the_written_module_is_formatted_and_passes_strict_type_checks(
    init: Init, tmp_path: Path
) -> None:
    """Of each form that a module can have, one file, with short names and with long ones."""
    forms = {
        "trips": (("--guard", "messages"), (EXAMPLES / "trip_chat" / "models.py").read_text()),
        "translated": ((), HEADER + MEMBER + ROLE),
        "owned": (
            ("--owner", "owner_id=OWNER", "--guard", "messages", "--user-type", "uuid"),
            (HEADER + OWNED + MEMBER + ROLE).replace("UUID | None", "str | None"),
        ),
        "core": ((), CORE),
        "long": (
            ("--owner", "owner_of_the_board=OWNER"),
            (HEADER + OWNED + MEMBER + ROLE)
            .replace("owner_id", "owner_of_the_board")
            .replace("supabase_id", "supabase_user_id")
            .replace("board_members", "members_of_boards_and_collections")
            .replace("class Membership", "class MembershipOfBoardsAndCollections"),
        ),
    }
    for form, (arguments, text) in forms.items():
        (tmp_path / form).mkdir()
        (tmp_path / form / "__init__.py").touch()
        (tmp_path / form / "models.py").write_text(text)
        init(*arguments, "--models", f"{form}.models", "--output", f"{form}/mappings.py")
    files = [f"{form}/mappings.py" for form in forms]
    ruff = ("-m", "ruff")
    checked(*ruff, "format", "--diff", "--config", f"{ROOT}/pyproject.toml", *files)
    rules = ["--isolated", "--select", "E,F,I,UP,W,B,C4,SIM,RET", "--line-length", "100"]
    checked(*ruff, "check", *rules, *files)
    # With the cache of `make lint`: SQLAlchemy alone takes most of a minute.
    cache = ["--config-file", f"{ROOT}/pyproject.toml", "--cache-dir", f"{ROOT}/.mypy_cache"]
    checked("-m", "mypy", *cache, *files)


def checked(*arguments: str) -> None:
    """Run a program of Python's that must exit with 0, where `init` has written its files."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_trip_examples_database_says_what_its_models_say(
    init: Init, backend: TestDatabase, project: TestDatabase
) -> None:
    """The access is that of the repository's own model."""
    models.Base.metadata.create_all(backend.engine())
    init("--database")
    registry = written_registry()
    assert registry.access == trips.registry.access
    for mapping in registry:
        assert mapping.key == trips.registry[mapping.name].key
        assert mapping.parents == trips.registry[mapping.name].parents
        assert mapping.active == trips.registry[mapping.name].active
    migrate(backend, project, registry)


def test_users_named_in_the_resources_own_row_get_the_consultations_model(
    init: Init, backend: TestDatabase, project: TestDatabase
) -> None:
    """Two flags name the columns; mapping and access are those of the repository's own model."""
    backend.query((EXAMPLES / "consultations" / "primary.sql").read_text())
    with pytest.raises(UsageError, match="name them with --owner"):
        init("--database")
    owners = ("--owner", "clientId=CLIENT", "--owner", "lawyerId=LAWYER")
    init("--database", "--resource", "consultations", *owners)
    registry = written_registry()
    assert registry.access == consultations.registry.access
    (mine,), (theirs,) = list(registry), list(consultations.registry)
    assert (mine.key, mine.types, mine.readable) == (theirs.key, theirs.types, theirs.readable)
    assert mine.sql == theirs.sql
    migrate(backend, project, registry)


def test_a_game_masters_column_and_members_get_most_of_the_campaigns_model(
    init: Init, backend: TestDatabase, project: TestDatabase
) -> None:
    """Users who belong to a campaign by their character are left to the hand."""
    for statement in (EXAMPLES / "campaigns" / "primary.sql").read_text().split(";"):
        backend.query(statement)
    init("--database", "--owner", "dm_id=DM")
    registry = written_registry()
    (mine,) = registry.access
    theirs = campaigns.in_campaigns
    assert isinstance(mine, Membership)
    assert (mine.levels, mine.noun) == (theirs.levels, theirs.noun)
    assert mine.seats == tuple(s for s in theirs.seats if s.mapping != "campaign_characters")
    members = registry["campaign_members"]
    assert members.types == campaigns.campaign_members.types
    assert members.expires == "expires_at"
    assert members.sql == campaigns.campaign_members.sql
    migrate(backend, project, registry)


def test_a_schema_that_is_empty_is_said_to_be(init: Init, backend: TestDatabase) -> None:
    """Also one that does not exist."""
    for options in ([], ["--schema", "nowhere"]):
        with pytest.raises(UsageError, match="the primary has no table there"):
            init("--database", *options)


@pytest.fixture
def registry(
    init: Init, backend: TestDatabase, project: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> Registry:
    """The module that the command writes for ids of the primary's own, installed on both sides."""
    monkeypatch.setenv("SUPABASE_DB_URL", project.url)
    for statement in TRANSLATED.split(";"):
        backend.query(statement)
    project.query(MESSAGES)
    init("--database", "--guard", "messages")
    found = written_registry()
    migrate(backend, project, found)
    with project.migrating() as connection:
        upgrade(connection, "supabase", found, guards=True)
    return found


@pytest.fixture
def drain(registry: Registry, backend: TestDatabase, project: TestDatabase) -> Iterator[Drain]:
    """A worker between the two databases."""
    settings = load_settings(primary_database_url=backend.url, supabase_db_url=project.url)
    with closing(build_drain(settings, registry)) as drain:
        yield drain


def may_write(project: TestDatabase, user: UUID) -> bool:
    """Return whether a user may write a message in the first trip."""
    with project.acting_as(user) as connection:
        try:
            connection.execute("insert into messages (trip_id, body) values (1, 'hello')")
        except psycopg.errors.InsufficientPrivilege:
            return False
        return True


@pytest.mark.parametrize(
    ("change", "undo"),
    [
        ("update trip_members set deleted_at = now()", "update trip_members set deleted_at = null"),
        ("update users set deleted_at = now()", "update users set deleted_at = null"),
        ("update users set is_active = false", "update users set is_active = true"),
        ("update users set supabase_id = null", "update users set supabase_id = %s"),
        ("update users set supabase_id = 'auth0|7'", "update users set supabase_id = %s"),
        ("update trips set deleted_at = now()", "update trips set deleted_at = null"),
    ],
)
def test_ids_of_the_primarys_own_decide_as_the_primary_says(
    backend: TestDatabase, project: TestDatabase, drain: Drain, change: str, undo: str
) -> None:
    """Each change that ends a membership ends the access, and its undoing restores it."""
    ada = uuid4()
    backend.query("insert into users (supabase_id, username) values (%s, 'ada')", str(ada))
    backend.query("insert into trips (name) values ('Lisbon')")
    drain.run()
    assert not may_write(project, ada)
    backend.query("insert into trip_members (trip_id, user_id, role) values (1, 1, 'member')")
    drain.run()
    assert may_write(project, ada)
    backend.query(change)
    drain.run()
    assert not may_write(project, ada)
    backend.query(undo, *([str(ada)] if "%s" in undo else []))
    drain.run()
    assert may_write(project, ada)


def test_the_columns_of_the_guarded_table_are_those_that_users_give(registry: Registry) -> None:
    """Not the author, who is the caller by default, and not the time."""
    (guard,) = registry.guards
    assert isinstance(guard, Guard)
    assert guard.owner == "sender_id"
    assert guard.verbs["insert"].columns == ("id", "trip_id", "body")
    assert guard.verbs["update"].columns == ("body",)


@pytest.fixture
def writer(primary: TestDatabase) -> Iterator[psycopg.Connection]:
    """A backend's connection, in a transaction, as a role with the documented rights and no other.

    It owns its tables, as a backend's role may.
    """
    (rights,) = RIGHTS
    role = sql.Identifier("app")
    primary.query(sql.SQL("create role {}").format(role))
    for statement in rights.strip().split(";\n"):
        primary.query(statement)
    primary.query("grant select, insert, update, delete on trip_memberships, trips, users to app")
    with primary.connect(autocommit=False) as connection:
        connection.execute("set role app")
        connection.commit()
        yield connection
        connection.rollback()
    primary.query("drop owned by app")
    primary.query("drop role app")


def test_one_documented_insert_records_a_change_of_another_language(
    primary: TestDatabase,
    target: TestDatabase,
    make_drain: Callable[..., Drain],
    writer: psycopg.Connection,
) -> None:
    """In the transaction of the change, with the documented rights: the target follows."""
    (text,) = INSERTS
    one, scope, whole = text.strip().split(";\n")
    user, trip = str(uuid4()), str(uuid4())
    primary.query("insert into users (id, email, username) values (%s, 'a@b.example', 'ada')", user)
    primary.query("insert into trips (id, name, created_by) values (%s, 'Lisbon', %s)", trip, user)
    raw, drain = RawCursor(writer), make_drain()

    def mirrored() -> list[tuple[str, str]]:
        drain.run()
        return target.query("select role, status from trip_memberships")

    raw.execute(whole.replace("trip_memberships", "users"))
    raw.execute(whole.replace("trip_memberships", "trips"))
    raw.execute(
        "insert into trip_memberships (trip_id, user_id, role, status)"
        " values ($1, $2, 'MEMBER', 'ACTIVE')",
        [trip, user],
    )
    raw.execute(one, [trip, user])
    assert mirrored() == []
    writer.commit()
    assert mirrored() == [("MEMBER", "ACTIVE")]

    raw.execute("update trip_memberships set status = 'INACTIVE' where trip_id = $1", [trip])
    raw.execute(scope, [trip])
    writer.commit()
    assert mirrored() == [("MEMBER", "INACTIVE")]

    raw.execute("delete from trip_memberships")
    raw.execute(whole)
    writer.commit()
    assert mirrored() == []


@pytest.mark.parametrize(
    "statement",
    [
        "select * from mirror.outbox",
        "delete from mirror.outbox",
        "insert into mirror.outbox (mapping, key, recorded_at) values ('trips', '{}', now())",
        "insert into mirror.outbox (mapping, key, transaction_id) values ('trips', '{}', 1)",
        "select * from mirror.state",
    ],
)
def test_the_documented_rights_allow_nothing_else(
    writer: psycopg.Connection, statement: str
) -> None:
    """Neither reading events, nor deleting them, nor saying when they were recorded."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        writer.execute(statement.encode())
