"""Statements that change what a mapping reads without an event: each is noticed, others are not."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from psycopg import sql
from sqlalchemy import Text, column, func, select, table

from mirror.devstack import PostgresCluster
from mirror.model.mapping import Column, Mapping
from mirror.model.registry import Registry
from mirror.sync.connections import Database
from mirror.sync.structure import find_changed_structures, note_structures, read_structures
from tests.support.databases import TestDatabase, primary_with

TABLES = """
create type kind as enum ('a', 'b');
create function loud(text) returns text language sql immutable as 'select upper($1)';
create table things (
  id text primary key, kind kind, name text, unread text,
  short text generated always as (left(name, 1)) stored
);
create table parts (id text, at integer, name text) partition by range (at);
create table parts_1 partition of parts for values from (1) to (2);
create table apart (id text, at integer, name text);
create table behind (id text, name text, more text);
create view seen as select id, loud(name) as name from behind;
insert into things (id, kind, name) values ('1', 'a', 'ada');
"""
_things = table("things", *(column(name, Text) for name in ("id", "kind", "name", "short")))
_parts = table("parts", column("id", Text), column("name", Text))
_seen = table("seen", column("id", Text), column("name", Text))


def _mapping(name: str, query: Any, *columns: str) -> Mapping:
    return Mapping(
        name=name,
        table=f"mirrored_{name}",
        key=("id",),
        columns=tuple(Column(one, "text") for one in ("id", *columns)),
        query=query,
    )


REGISTRY = Registry(
    "structures",
    [
        _mapping(
            "things",
            select(
                _things.c.id, _things.c.kind, func.loud(_things.c.name).label("name")
            ).add_columns(_things.c.short),
            "kind",
            "name",
            "short",
        ),
        _mapping("parts", select(_parts), "name"),
        _mapping("seen", select(_seen), "name"),
    ],
)


@pytest.fixture(scope="module")
def database(primary_cluster: PostgresCluster) -> Iterator[TestDatabase]:
    """A primary with tables, a partition, a view and a function."""
    with primary_with(primary_cluster, "structures", TABLES) as made:
        yield made


@pytest.fixture
def primary(database: TestDatabase) -> Iterator[Database]:
    """A connection whose transaction is rolled back; the structure is noted in it."""
    with closing(Database(database.url, role="primary")) as connection:
        connection.begin()
        note_structures(connection, read_structures(connection, REGISTRY))
        yield connection
        connection.rollback()


def changes(primary: Database, script: str) -> dict[str, list[str]]:
    """Run statements, and return what is noticed."""
    primary.execute(sql.SQL(script))
    return find_changed_structures(primary, REGISTRY)


@pytest.mark.parametrize(
    ("script", "mapping", "expected"),
    [
        (
            "alter table things alter kind type kind using 'b'::kind",
            "things",
            "column kind of things is rewritten",
        ),
        (
            "alter table things alter name type varchar(9), alter short drop expression",
            "things",
            "column name of things is defined anew",
        ),
        (
            "alter table things drop column name cascade, add column name text default 'x'",
            "things",
            "column name of things is defined anew",
        ),
        (
            (
                "alter table things drop column short,"
                " add column short text generated always as (right(name, 1)) stored"
            ),
            "things",
            "column short of things is defined anew",
        ),
        ("alter table things drop column short", "things", "column short of things is gone"),
        ("alter type kind rename value 'a' to 'c'", "things", "a value of kind has another name"),
        (
            (
                "create or replace function loud(text) returns text language sql immutable"
                " as 'select lower($1)'"
            ),
            "things",
            "loud(text) is defined anew",
        ),
        (
            "alter table things rename to away; create table things (like away including all)",
            "things",
            "things is defined anew",
        ),
        ("drop table things", "things", "things is gone or detached"),
        (
            (
                "alter table parts drop column name;"
                " update mirror.structures set structure = structure #- '{parts,columns,name}';"
                " alter table parts add column name text default 'x'"
            ),
            "parts",
            "column name of parts is added",
        ),
        (
            "alter table parts attach partition apart for values from (2) to (3)",
            "parts",
            "apart is attached",
        ),
        ("alter table parts detach partition parts_1", "parts", "parts_1 is gone or detached"),
        ("drop table parts_1", "parts", "parts_1 is gone or detached"),
        (
            "alter table parts alter name type text using upper(name)",
            "parts",
            "column name of parts_1 is rewritten",
        ),
        (
            "create or replace view seen as select id, more as name from behind",
            "seen",
            "seen is defined anew",
        ),
        (
            (
                "create or replace function loud(text) returns text language sql immutable"
                " as 'select lower($1)'"
            ),
            "seen",
            "loud(text) is defined anew",
        ),
        (
            (
                "drop view seen; alter table behind alter name type text using upper(name);"
                " create view seen as select id, loud(name) as name from behind"
            ),
            "seen",
            "seen is defined anew",
        ),
    ],
)
def test_a_statement_that_changes_values_without_an_event_is_noticed(
    primary: Database, script: str, mapping: str, expected: str
) -> None:
    """The mapping and the object are named, and what became of it."""
    assert expected in changes(primary, script)[mapping]


@pytest.mark.parametrize(
    "script",
    [
        "select 1",
        "update things set name = 'eve'",
        "truncate things",
        "cluster things using things_pkey",
        "analyze things",
        "create index on things (name)",
        "alter table things alter name set statistics 9, alter name set default 'x'",
        "alter table things add column more text default 'x'",
        "alter table things drop column unread",
        "alter table things alter unread type integer using 1",
        "alter table behind add column yet text default 'x'",
        "alter type kind add value 'd'",
        "create table parts_2 partition of parts for values from (2) to (3)",
        "alter table parts_1 rename to first",
        "alter view seen rename to looked; alter view looked rename to seen",
    ],
)
def test_other_statements_are_no_alarm(primary: Database, script: str) -> None:
    """They change no value that a mapping reads, or have events of their own."""
    assert changes(primary, script) == {}


def test_vacuum_full_is_no_alarm(database: TestDatabase) -> None:
    """It gives the table another file, and runs in no transaction."""
    with closing(Database(database.url, role="primary")) as connection:
        note_structures(connection, read_structures(connection, REGISTRY))
        database.query("vacuum full things")
        assert find_changed_structures(connection, REGISTRY) == {}
        database.query("delete from mirror.structures")


def test_a_mapping_that_was_never_compared_is_left_out(database: TestDatabase) -> None:
    """Nothing is known about it."""
    with closing(Database(database.url, role="primary")) as connection:
        assert find_changed_structures(connection, REGISTRY) == {}


def test_a_mapping_that_changes_is_noticed(database: TestDatabase) -> None:
    """Until a resync, its rows may be those of the version before."""
    with closing(Database(database.url, role="primary")) as connection:
        connection.begin()
        note_structures(connection, read_structures(connection, REGISTRY))
        shorter = _mapping("parts", select(_parts).where(_parts.c.name != "x"), "name")
        changed = find_changed_structures(connection, Registry("structures", [shorter]))
        assert changed == {"parts": ["its declaration is defined anew"]}
