"""Keys in events: their texts are those that the mapping's query yields, whatever the type."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg import errors, sql
from sqlalchemy import BigInteger, Boolean, Text, Uuid, cast, column, select, table, text

from mirror.capture.doorbell import Doorbell, DoorbellSettings
from mirror.devstack import PostgresCluster
from mirror.errors import NotMigrated
from mirror.hooks import Hooks
from mirror.model.mapping import EVERYTHING, Column, Mapping
from mirror.model.registry import Registry
from mirror.schema.migrate import upgrade
from mirror.sync.connections import Database
from mirror.sync.row_queries import RowQueries
from mirror.sync.snapshot import Source
from tests.capture.outbox import install, take_events
from tests.support.databases import TestDatabase

_numbers = itertools.count(1)


@pytest.fixture
def database(primary_cluster: PostgresCluster) -> Iterator[TestDatabase]:
    """An empty primary."""
    name = f"printed_{next(_numbers)}"
    primary_cluster.create_database(name)
    yield TestDatabase(primary_cluster.url(name))
    primary_cluster.drop_database(name)


def registry(
    declared: Any, key_type: str, *, casts: bool = False, groups: bool = False
) -> Registry:
    """Return a model of table `things`, whose `id` has a declared type there and in the mapping.

    `casts`: the query casts it. `groups`: several rows make one.
    """
    things = table("things", column("id", declared), column("open", Boolean))
    types: dict[str, Any] = {"text": Text, "uuid": Uuid, "bigint": BigInteger}
    key = cast(things.c.id, types[key_type]).label("id") if casts else things.c.id
    query = select(key).where(things.c.open)
    mapping = Mapping(
        name="things",
        table="things",
        key=("id",),
        columns=(Column("id", key_type),),
        query=query.distinct() if groups else query,
    )
    return Registry("printed", [mapping])


def keys(database: TestDatabase, model: Registry) -> set[tuple[str, ...]]:
    """Return the keys that a worker reads, as texts."""
    mapping = model["things"]
    query = sql.SQL("select {} from ({}) as q")
    return set(database.query(query.format(RowQueries().values(mapping), sql.SQL(mapping.sql))))


@pytest.mark.parametrize("groups", [False, True], ids=["one", "several"])
@pytest.mark.parametrize(
    ("kind", "key_type", "casts"),
    [
        ("character(8)", "text", False),
        ("character(8)", "text", True),
        ("shorter", "text", False),
        ("character varying(8)", "text", False),
        ("name", "text", False),
        ("feeling", "text", True),
        ("smallint", "bigint", False),
        ("bigint", "text", True),
        ("small", "bigint", False),
    ],
)
def test_an_event_has_the_text_that_the_query_yields(
    database: TestDatabase, kind: str, key_type: str, *, casts: bool, groups: bool
) -> None:
    """An insert, an update and a delete name the key that the target has."""
    database.query(f"""
        create domain short as character(8);
        create domain shorter as short;
        create domain small as smallint;
        create type feeling as enum ('1');
        create table things (id {kind}, open boolean not null default true);
    """)
    model = registry(Text, key_type, casts=casts, groups=groups)
    install(database, model)
    database.query("insert into things values ('1')")
    printed = keys(database, model)
    assert printed == {("1",)}
    for change in ("update things set open = false", "delete from things"):
        assert {key for *_, key in take_events(database)} == printed
        database.query(change)
    assert {key for *_, key in take_events(database)} == printed


@pytest.mark.parametrize(
    "kind", ["boolean", "inet", "numeric(10,2)", "real", "timestamptz", "bit(8)", "money", "flag"]
)
def test_a_type_whose_values_have_several_texts_is_refused_by_name(
    database: TestDatabase, kind: str
) -> None:
    """The query's cast prints `true`, a trigger would print `t`."""
    database.query("create domain flag as boolean")
    database.query(f"create table things (id {kind}, open boolean)")
    with pytest.raises(NotMigrated, match="column id of things names rows of a mapping"):
        install(database, registry(Text, "text", casts=True))


def test_a_column_that_gets_such_a_type_later_means_everything(database: TestDatabase) -> None:
    """No writer fails because of it."""
    database.query("create table things (id text, open boolean); insert into things values ('1')")
    install(database, registry(Text, "text", casts=True))
    database.query("alter table things alter column id type boolean using true")
    database.query("update things set open = true")
    assert take_events(database) == {(0, "things", EVERYTHING, ())}


@pytest.mark.parametrize(
    ("kind", "old", "new", "settings"),
    [
        ("double precision", "0.1", "0.1000000000000001", "set extra_float_digits = -15"),
        ("point", "(0.1,1)", "(0.1000000000000001,1)", "set extra_float_digits = -15"),
        (
            "timestamptz",
            "2014-10-25 21:30 UTC",
            "2014-10-25 22:30 UTC",
            # At both times, Moscow's clocks showed 01:30 MSK.
            "set datestyle = 'SQL'; set timezone = 'Europe/Moscow'",
        ),
    ],
)
def test_no_setting_of_the_writer_hides_a_change(
    database: TestDatabase, kind: str, old: str, new: str, settings: str
) -> None:
    """Under these settings, the old value and the new one print alike."""
    database.query(f"create table things (id text, open boolean, rest {kind})")
    things = table("things", column("id", Text), column("open", Boolean), column("rest", Text))
    mapping = Mapping(
        name="things",
        table="things",
        key=("id",),
        columns=(Column("id", "text"), Column("rest", "text")),
        query=select(things.c.id, cast(things.c.rest, Text).label("rest")).distinct(),
    )
    install(database, Registry("printed", [mapping]))
    database.query(f"insert into things values ('1', true, '{old}')")
    take_events(database)
    database.query(f"{settings}; update things set rest = '{new}'")
    assert take_events(database) == {(0, "things", None, ("1",))}


def test_a_hook_may_be_given_a_padded_value_as_an_object_has_it(database: TestDatabase) -> None:
    """The column is character(8), and the mapping's query yields no blanks."""
    database.query("create table things (id character(8), open boolean)")
    database.query("insert into things values ('ab', true)")
    model = registry(Text, "text")
    install(database, model)
    hooks = Hooks(model, Doorbell(DoorbellSettings(mode="off")))
    with database.migrating() as connection:
        loaded = connection.scalar(text("select id from things"))
        hooks.changed(connection, "things", loaded)
    assert keys(database, model) == {("ab",)} <= {key for *_, key in take_events(database)}


def test_a_key_is_gone_although_a_collation_takes_another_for_it(database: TestDatabase) -> None:
    """The query yields `Blue`; the target's row `blue` must go."""
    try:
        database.query(
            "create collation careless"
            " (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
    except errors.FeatureNotSupported:
        pytest.skip("this server was built without ICU")
    database.query("create table things (id text collate careless, open boolean)")
    database.query("insert into things values ('Blue', true)")
    with database.migrating() as connection:
        upgrade(connection)
    mapping = registry(Text, "text")["things"]
    source = Source(Database(database.url, role="primary"))
    _, (found,) = source.read_json([(mapping, ["{blue,Blue}"])])
    with source.snapshot() as snapshot:
        rows = snapshot.rows(mapping, [("blue",), ("Blue",)])
    source.close()
    assert [json.loads(text) for text in found.as_json()] == [[["Blue"]], [["blue"]]]
    assert rows == {("Blue",): ("Blue",)}
