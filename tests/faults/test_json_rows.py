"""Rows travel as JSON texts, unread by the worker, whatever their names, types and values."""

import json
from collections.abc import Iterator

import pytest
from sqlalchemy import BigInteger, Text, column, select, table

from mirror.devstack import PostgresCluster
from mirror.errors import WrongMapping
from mirror.model.mapping import Column, Mapping, Parent, Reference
from mirror.model.registry import Registry
from mirror.schema.migrate import upgrade
from mirror.schema.quoting import comma
from mirror.sync.drain import Drain
from mirror.sync.snapshot import Snapshot
from tests.faults.tools import record, rewrite
from tests.support.databases import TestDatabase, primary_with
from tests.support.drains import making_drains
from tests.support.rest import ServeApi, both_transports, settings_between

pytestmark = both_transports(rest="long")

# The names could be mistaken for something else in the statements about a mapping: an alias of
# theirs, a placeholder, a column of a function, the end of a quoted name.
PRIMARY = """
create table boxes (r bigint primary key, "value" text);
create table things (
  g bigint, "Na""me" text, k bigint, "{first_key}" jsonb, "value" numeric, "key" timestamptz,
  l bytea, "order" text[], "a b" boolean, "ß'" interval, shelf bigint
)
"""
TYPES = {
    "g": "bigint",
    'Na"me': "text",
    "k": "bigint",
    "{first_key}": "jsonb",
    "value": "numeric",
    "key": "timestamptz",
    "l": "bytea",
    "order": "text[]",
    "a b": "boolean",
    "ß'": "interval",
}
_boxes = table("boxes", column("r", BigInteger), column("value", Text), schema="public")
_things = table(
    "things", *(column(name, Text) for name in TYPES), column("shelf", Text), schema="public"
)
registry = Registry(
    "odd",
    [
        Mapping(
            name="boxes",
            table='box"es {table}',
            key=("r",),
            columns=(Column("r", "bigint"), Column("value", "text")),
            query=select(_boxes.c.r, _boxes.c.value),
        ),
        Mapping(
            name="things",
            table="things, 'all'",
            key=("g", 'Na"me'),
            columns=tuple(Column(name, kind) for name, kind in TYPES.items()),
            query=select(_things),
            references=(Reference("shelf", "bigint"),),
            parents=(Parent("boxes", "k"),),
        ),
    ],
)
MIRRORED_BOXES, MIRRORED_THINGS = '"box""es {table}"', "\"things, 'all'\""
TEXTS = ["", '"', "\\", "{}", "'", "null", "a,b", "[1]", "%s", "\u2028", "\U0001f600", "{table}"]
VALUES = (
    """'{"a": [null, "\\\\"]}', 12345678901234567890.10, '2026-01-02 03:04:05.678901+02',"""
    """ '\\x00ff', array['{', null, ',', '"', ''], true, '1 mon -2 days', 7"""
)
NULLS = ", ".join(["null"] * 8)


@pytest.fixture
def primary(primary_cluster: PostgresCluster) -> Iterator[TestDatabase]:
    """A primary with odd tables and an outbox."""
    with primary_with(primary_cluster, "odd_primary", PRIMARY) as database:
        database.query("insert into boxes values (1, 'one'), (2, 'two')")
        yield database


@pytest.fixture
def target(target_cluster: PostgresCluster, project_template: str) -> Iterator[TestDatabase]:
    """A project with the odd model."""
    target_cluster.create_database("odd_target", template=project_template, owner="postgres")
    database = TestDatabase(target_cluster.url("odd_target", user="postgres"))
    with database.migrating() as connection:
        upgrade(connection, "supabase", registry)
    yield database
    target_cluster.drop_database("odd_target")


@pytest.fixture
def drain(
    transport: str, serve_api: ServeApi, primary: TestDatabase, target: TestDatabase
) -> Iterator[Drain]:
    """One worker of the odd model, which has mirrored the boxes."""
    with making_drains(settings_between(primary, target, transport, serve_api), registry) as make:
        drain = make()
        record(primary, "boxes", 1, lane=1)
        record(primary, "boxes", 2, lane=1)
        drain.run()
        yield drain


def insert(primary: TestDatabase, number: int, name: str, values: str = NULLS) -> None:
    """Insert a thing of the first box and record its event."""
    primary.query(f"insert into things values (%s, %s, 1, {values})", number, name)
    record(primary, "things", number, name, lane=1)


def contents(database: TestDatabase, relation: str) -> list[tuple[object, ...]]:
    """Return all rows of a table as texts, in the order of TYPES."""
    return sorted(database.query(f"select ({comma(TYPES)})::text from {relation}"))


def things_equal(primary: TestDatabase, target: TestDatabase) -> bool:
    """Return whether both sides have the same things, with the same values."""
    return contents(primary, "things") == contents(target, MIRRORED_THINGS)


def failed(primary: TestDatabase) -> list[list[str]]:
    """Return the keys of the events that are set apart."""
    return [key for (key,) in primary.query("select key from mirror.retries order by id")]


def test_odd_names_types_and_values_arrive_as_they_are(
    primary: TestDatabase, target: TestDatabase, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are inserted, updated and deleted, and the worker reads none of the rows."""

    def read(*_: object) -> dict[object, object]:
        raise AssertionError("the worker read a row")

    monkeypatch.setattr(Snapshot, "rows", read)
    for number, text in enumerate(TEXTS):
        insert(primary, number, text, VALUES if number % 2 else NULLS)
    drain.run()
    assert len(contents(target, MIRRORED_THINGS)) == len(TEXTS)
    assert things_equal(primary, target)
    primary.query('update things set "order" = array[\'x\\y\'], "a b" = not "a b"')
    primary.query("delete from things where g in (3, 4)")
    for number, text in enumerate(TEXTS):
        record(primary, "things", number, text)
    drain.run()
    assert len(contents(target, MIRRORED_THINGS)) == len(TEXTS) - 2
    assert things_equal(primary, target)


def test_a_scope_and_a_parent_of_odd_names_take_their_rows_away(
    primary: TestDatabase, target: TestDatabase, drain: Drain
) -> None:
    """A scope lists its keys from the ledger; a deleted parent withdraws its children."""
    for number, text in enumerate(TEXTS):
        insert(primary, number, text, VALUES)
    drain.run()
    primary.query("delete from things where g < 5")
    record(primary, "things", 7, reference="shelf")
    drain.run()
    assert len(contents(target, MIRRORED_THINGS)) == len(TEXTS) - 5
    assert things_equal(primary, target)
    primary.query("delete from things")
    primary.query("delete from boxes where r = 1")
    record(primary, "boxes", 1)
    drain.run()
    assert target.value(f"select array_agg(r) from {MIRRORED_BOXES}") == [2]
    assert contents(target, MIRRORED_THINGS) == []


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (["1"], "got 1"),
        (["1", "a", "b"], "got 3"),
        (["1", "a", "b", "c", "d"], "got 5"),
        (["one", "a"], "expected bigint"),
        (["99999999999999999999", "a"], "does not fit bigint"),
        ([None, "a"], "value is None"),
        ([], "got 0"),
    ],
)
def test_an_invalid_key_is_set_apart_alone(
    primary: TestDatabase,
    target: TestDatabase,
    drain: Drain,
    key: list[str | None],
    message: str,
) -> None:
    """Keys in the same batch are mirrored, those before it and those after it."""
    insert(primary, 1, "before")
    primary.query("insert into mirror.outbox (lane, mapping, key) values (1, 'things', %s)", key)
    insert(primary, 2, "after")
    drain.run()
    assert things_equal(primary, target)
    assert len(contents(target, MIRRORED_THINGS)) == 2
    assert failed(primary) == [key]
    assert message in str(primary.value("select error from mirror.retries"))


def test_an_event_of_an_unknown_mapping_is_set_apart_alone(
    primary: TestDatabase, target: TestDatabase, drain: Drain
) -> None:
    """For example one that another version of the backend declares."""
    insert(primary, 1, "good")
    record(primary, "sheds", 1, lane=1)
    drain.run()
    assert things_equal(primary, target)
    assert failed(primary) == [["1"]]


def test_two_rows_for_one_key_are_noticed_and_named(
    primary: TestDatabase, target: TestDatabase, drain: Drain
) -> None:
    """The primary's table has no unique key; the other keys are mirrored."""
    insert(primary, 1, "good")
    insert(primary, 2, "double")
    primary.query(f"insert into things values (2, 'double', 1, {NULLS})")
    drain.run()
    assert target.query(f"select g from {MIRRORED_THINGS}") == [(1,)]
    assert failed(primary) == [["2", "double"]]
    assert "two rows for one key" in str(primary.value("select error from mirror.retries"))


def test_a_parent_that_a_user_deleted_by_hand_comes_back_with_its_children(
    primary: TestDatabase, target: TestDatabase, drain: Drain
) -> None:
    """The ledger still has it, so only the foreign key notices; one repeated call mends that."""
    for number in range(3):
        insert(primary, number, "old")
    drain.run()
    target.query(f"delete from {MIRRORED_BOXES} where r = 1")
    insert(primary, 3, "new")
    drain.run()
    assert failed(primary) == []
    assert target.value(f"select count(*) from {MIRRORED_BOXES}") == 2
    assert things_equal(primary, target)


def test_without_the_corrected_ledger_the_child_would_fail(
    primary: TestDatabase, target: TestDatabase, drain: Drain
) -> None:
    """The same steps without the rule."""
    rewrite(target, "apply", "if careful then", "if false then")
    target.query(f"delete from {MIRRORED_BOXES} where r = 1")
    insert(primary, 3, "new")
    drain.run()
    assert failed(primary) == [["3", "new"]]


def test_a_request_of_a_newer_version_is_refused_with_the_remedy(
    target: TestDatabase, drain: Drain
) -> None:
    """A worker that is newer than the target says so; its events wait."""
    request = json.dumps(
        {"version": 2, "identity": "i", "epoch": 0, "fence": 1, "sections": [], "limit": 1}
    )
    for function in ("apply", "open_scopes"):
        with pytest.raises(WrongMapping, match=r"version 2.*migrate supabase"):
            drain.target._call(function, request=request)


def test_the_tables_leave_room_for_updates(target: TestDatabase) -> None:
    """Also those of an earlier version; a user's own setting stays."""
    options = (
        "select array_agg(distinct array_to_string(reloptions, ',')) from pg_class where oid in"
    )
    relations = "('mirror.ledger_boxes'::regclass, 'mirror.ledger_things'::regclass)"
    assert target.value(f"{options} {relations}") == ["fillfactor=70"]
    target.query("alter table mirror.ledger_boxes reset (fillfactor)")
    target.query("alter table mirror.ledger_things set (fillfactor = 90)")
    target.query("update mirror.migrations set checksum = 'earlier' where name = 'model_odd'")
    with target.migrating() as connection:
        upgrade(connection, "supabase", registry)
    assert sorted(target.value(f"{options} {relations}")) == ["fillfactor=70", "fillfactor=90"]
