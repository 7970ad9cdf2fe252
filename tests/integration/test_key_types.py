"""A key or reference that the primary cannot compare is refused before anything is migrated."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import Text, cast, column, func, select, table

from mirror.cli.schema import Sides, migrate
from mirror.errors import Halted, MappingError
from mirror.model.mapping import Column, Mapping, Reference
from mirror.model.registry import Registry
from mirror.reconcile.clauses import lowest_key
from mirror.schema.key_types import check_key_types
from mirror.settings import load_settings
from mirror.sync.connections import Database
from mirror.sync.snapshot import Source
from tests.support.databases import TestDatabase

TYPES = """
    create type kind as enum ('a', 'b');
    create domain account as uuid;
    create domain code as varchar(8);
"""
# (type in the primary, declared type), and whether the primary can compare the two.
CASES: dict[tuple[str, str], bool] = {
    ("kind", "text"): False,
    ("uuid", "text"): False,
    ("numeric", "text"): False,
    ("bigint", "text"): False,
    ("bytea", "text"): False,
    ("date", "text"): False,
    # It has a comparison, but no collation.
    ('"char"', "text"): False,
    ("text", "uuid"): False,
    ("code", "uuid"): False,
    ("text", "bigint"): False,
    ("bigint", "uuid"): False,
    ("text", "text"): True,
    ("varchar(8)", "text"): True,
    ("char(8)", "text"): True,
    ("name", "text"): True,
    ("code", "text"): True,
    ('text collate "POSIX"', "text"): True,
    ("uuid", "uuid"): True,
    ("account", "uuid"): True,
    ("smallint", "bigint"): True,
    ("bigint", "integer"): True,
    ("numeric", "bigint"): True,
}


def things(declared: str, query: Any = None) -> Mapping:
    """Return a mapping whose key and reference have this type."""
    source = table("things", column("id"), column("owner"))
    return Mapping(
        name="things",
        table="things",
        key=("id",),
        columns=(Column("id", declared),),
        query=select(source.c.id, source.c.owner) if query is None else query,
        references=(Reference("owner", declared, table="things"),),
    )


@pytest.fixture
def source(primary: TestDatabase) -> Iterator[Source]:
    """The primary as a worker reads it."""
    with closing(Source(Database(primary.url, role="primary"))) as source:
        yield source


def create(primary: TestDatabase, type_: str) -> None:
    """Create the table that the mapping reads."""
    with primary.connect() as connection:
        connection.execute(f"{TYPES} create table things (id {type_}, owner {type_})".encode())


def refusal(primary: TestDatabase, mapping: Mapping) -> str:
    """Return the error of the check; an empty string if it passes."""
    with primary.migrating() as connection:
        try:
            assert check_key_types(connection, Registry("things", [mapping])) == []
        except MappingError as error:
            return str(error)
    return ""


def read(source: Source, mapping: Mapping) -> None:
    """Read by key and by reference, as a worker does."""
    key = lowest_key(mapping)
    with source.snapshot() as snapshot:
        snapshot.rows(mapping, [key])
        snapshot.rows_in_scope(mapping, "owner", list(key), after=key, limit=1)


@pytest.mark.parametrize("case", CASES, ids=" as ".join)
def test_the_check_and_a_workers_reads_agree(
    primary: TestDatabase, source: Source, case: tuple[str, str]
) -> None:
    """The check passes if and only if the worker can read."""
    type_, declared = case
    mapping = things(declared)
    create(primary, type_)
    if CASES[case]:
        read(source, mapping)
        assert refusal(primary, mapping) == ""
        return
    with pytest.raises(Halted):
        read(source, mapping)
    error = refusal(primary, mapping)
    for name in ("id", "owner"):
        assert f"mapping 'things': column {name} is {type_.partition('(')[0]} in the pr" in error
        assert f"{declared} in the mapping" in error
    assert "Cast each in its mapping's query to the declared type" in error


def test_the_cast_that_the_error_asks_for_is_accepted(
    primary: TestDatabase, source: Source
) -> None:
    """A query that holds a percent sign is checked as it is."""
    owned = table("things", column("id", Text), column("owner", Text))
    query = select(cast(owned.c.id, Text).label("id"), cast(owned.c.owner, Text).label("owner"))
    create(primary, "kind")
    mapping = things("text", query.where(func.length(cast(owned.c.id, Text)) % 2 == 1))
    read(source, mapping)
    assert refusal(primary, mapping) == ""


@pytest.fixture
def unmigrated(primary: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> TestDatabase:
    """The backend's database before `mirror migrate`, which the command reaches."""
    settings = load_settings(primary_database_url=primary.url)
    monkeypatch.setattr("mirror.cli.schema.load_settings", lambda: settings)
    primary.query("drop schema mirror cascade")
    return primary


@pytest.mark.parametrize("dry_run", [False, True])
def test_the_command_refuses_and_changes_nothing(unmigrated: TestDatabase, dry_run: bool) -> None:  # noqa: FBT001
    """The exit code is that of a declaration that cannot work."""
    unmigrated.query("alter table trip_memberships drop constraint trip_memberships_user_id_fkey")
    unmigrated.query("alter table trip_memberships alter user_id type text")
    with pytest.raises(MappingError, match="'trip_memberships': column user_id is text") as caught:
        migrate(Sides.PRIMARY, dry_run=dry_run)
    assert caught.value.exit_code == 2
    assert unmigrated.value("select to_regnamespace('mirror')") is None


def test_a_table_that_does_not_exist_yet_is_a_warning(
    unmigrated: TestDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    """The mappings whose tables exist are checked; the migration goes on."""
    unmigrated.query("drop table trip_memberships")
    migrate(Sides.PRIMARY)
    printed = capsys.readouterr()
    assert printed.out.startswith("primary: applied 0001_outbox")
    assert printed.err.count("warning") == 1
    assert "mapping 'trip_memberships' could not be checked" in printed.err
    assert 'relation "trip_memberships" does not exist' in printed.err
