"""Auth's user ids as docs/capture.md translates them: one odd value harms no other user."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from psycopg import errors
from sqlalchemy import Uuid, cast, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from mirror.diagnostics.doctor.source_reads import Scan, read_scans
from mirror.errors import Rejected
from mirror.model.mapping import Column, Mapping, Reference
from mirror.model.registry import Registry
from mirror.schema.migrate import upgrade
from mirror.settings import load_settings
from mirror.sync.connections import Database
from mirror.sync.snapshot import Source
from mirror.sync.wiring import build_drain
from tests.support.databases import EXAMPLES, TestDatabase

PAGE = EXAMPLES.parent / "docs" / "capture.md"
SECTION = PAGE.read_text().split("## User ids that are not Supabase Auth's\n")[1]
((PYTHON,), (INDEX,)) = (
    re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL) for language in ("python", "sql")
)

# 10,050 users are more than the doctor takes for a small table. Each has a membership; ten share a
# trip. One user has an id that is no uuid.
ROWS = """
    drop table users, trips, trip_memberships cascade;
    create table users (id bigint primary key, supabase_id text unique);
    create table trips (id uuid primary key);
    create table trip_memberships (
      trip_id uuid, user_id bigint, role text, primary key (trip_id, user_id)
    );
    create index on trip_memberships (user_id);
    insert into users select n, uuid_of(n) from generate_series(1, 10050) as n;
    insert into trips select uuid_of(n)::uuid from generate_series(1, 1005) as n;
    insert into trip_memberships
    select uuid_of((id + 9) / 10)::uuid, id, 'MEMBER' from users;
    update users set supabase_id = 'google-oauth2|1234' where id = 5;
    analyze
"""
UUID_OF = """
    create function uuid_of(bigint) returns text immutable language sql
    return '00000000-0000-0000-0000-' || lpad(to_hex($1), 12, '0')
"""


def uuid_of(number: int) -> str:
    """Return the id of a user or a trip."""
    return str(UUID(int=number))


class Base(DeclarativeBase):
    """The base class of the reader's models."""


class User(Base):
    """A user; one column is the user's id in Supabase."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    supabase_id: Mapped[str | None]


class Trip(Base):
    """A trip."""

    __tablename__ = "trips"
    id: Mapped[UUID] = mapped_column(primary_key=True)


class Membership(Base):
    """The role of a user in a trip."""

    __tablename__ = "trip_memberships"
    trip_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(primary_key=True)
    role: Mapped[str]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the page's Python defines."""
    models: Any = ModuleType("app.models")
    models.User, models.Membership = User, Membership
    monkeypatch.setitem(sys.modules, "app", ModuleType("app"))
    monkeypatch.setitem(sys.modules, "app.models", models)
    names: dict[str, Any] = {}
    exec(PYTHON, names)  # noqa: S102 - the page is ours
    return names


def users(auth_id: Any) -> Mapping:
    """Return the mapping of users, with Auth's id as the key."""
    return Mapping(
        name="users",
        table="users",
        key=("id",),
        columns=(Column("id", "uuid"),),
        query=select(auth_id.label("id"), User.id.label("own_id")).where(auth_id.is_not(None)),
        references=(Reference("own_id", "bigint", table="users"),),
    )


@pytest.fixture
def registry(page: dict[str, Any]) -> Registry:
    """The page's mapping, with its parents."""
    trips = Mapping(
        name="trips",
        table="trips",
        key=("id",),
        columns=(Column("id", "uuid"),),
        query=select(Trip.id),
    )
    return Registry("translated", [users(page["auth_id"]), trips, page["memberships"]])


@pytest.fixture
def backend(primary: TestDatabase) -> TestDatabase:
    """The backend's database with many users."""
    primary.query(UUID_OF)
    with primary.connect() as connection:
        connection.execute(ROWS)
    return primary


@pytest.fixture
def source(backend: TestDatabase) -> Iterator[Source]:
    """The primary as a worker reads it."""
    with closing(Source(Database(backend.url, role="primary"))) as source:
        yield source


def found(source: Source, mapping: Mapping, number: int) -> bool:
    """Return whether the primary has a row for this user's id in Auth."""
    key = (uuid_of(number),)
    with source.snapshot() as snapshot:
        return key in snapshot.rows(mapping, [key])


def test_the_documented_pattern_reads_each_key_by_an_index(
    backend: TestDatabase, source: Source, registry: Registry
) -> None:
    """The odd value is in the table, the other keys are read, and no read scans it."""
    backend.query(INDEX)
    assert found(source, registry["users"], 6)
    assert not found(source, registry["users"], 5)
    assert [read_scans(source.database, mapping) for mapping in registry] == [[], [], []]


def test_without_its_index_the_doctor_names_the_column(source: Source, registry: Registry) -> None:
    """Reads succeed, but each compares all users."""
    assert found(source, registry["users"], 6)
    assert read_scans(source.database, registry["users"]) == [Scan("users", ("id",))]
    assert read_scans(source.database, registry["trips"]) == []
    memberships = read_scans(source.database, registry["trip_memberships"])
    assert memberships == [Scan("users", ("user_id",))]


def test_a_bare_cast_fails_for_other_users_and_its_index_for_writers(
    backend: TestDatabase, source: Source
) -> None:
    """The dangers that the page names."""
    mapping = users(cast(User.supabase_id, Uuid))
    with pytest.raises(Rejected):
        found(source, mapping, 6)
    backend.query("delete from users where supabase_id like 'google%'")
    assert found(source, mapping, 6)
    assert read_scans(source.database, mapping) == [Scan("users", ("id",))]
    backend.query("create index on users ((cast(supabase_id as uuid)))")
    assert read_scans(source.database, mapping) == []
    with pytest.raises(errors.InvalidTextRepresentation):
        backend.query("insert into users values (0, 'google-oauth2|1234')")


def test_a_revocation_beside_an_odd_value_arrives(
    backend: TestDatabase, project: TestDatabase, registry: Registry
) -> None:
    """Both are members of one trip; the odd one has no row, the other's row comes and goes."""
    backend.query(INDEX)
    with backend.migrating() as connection:
        upgrade(connection, "primary", registry, triggers=True)
    with project.migrating() as connection:
        upgrade(connection, "supabase", registry)
    settings = load_settings(primary_database_url=backend.url, supabase_db_url=project.url)
    members: Callable[[], list[Any]] = lambda: project.query(  # noqa: E731
        "select user_id::text from trip_memberships order by 1"
    )
    with closing(build_drain(settings, registry)) as drain:
        backend.query("update trip_memberships set role = 'ADMIN' where trip_id = %s", uuid_of(1))
        drain.run()
        assert members() == [(uuid_of(n),) for n in range(1, 11) if n != 5]
        backend.query("delete from trip_memberships where user_id in (5, 6)")
        drain.run()
        assert members() == [(uuid_of(n),) for n in range(1, 11) if n not in {5, 6}]
        backend.query("update users set supabase_id = %s where id = 7", "auth0|7")
        drain.run()
        assert members() == [(uuid_of(n),) for n in range(1, 11) if n not in {5, 6, 7}]
    assert backend.value("select count(*) from mirror.outbox") == 0
    assert backend.value("select count(*) from mirror.retries") == 0
