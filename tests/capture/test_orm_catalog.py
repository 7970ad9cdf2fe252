"""ORM capture where the database differs from the models: names, views, types, stored values."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import (
    CHAR,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    MetaData,
    String,
    Table,
    Text,
    column,
    insert,
    select,
    table,
    update,
)
from sqlalchemy.orm import Session, registry, relationship, sessionmaker

from mirror.capture import Capture, attach
from mirror.capture.doorbell import Doorbell, DoorbellSettings
from mirror.devstack import PostgresCluster
from mirror.hooks import Hooks
from mirror.model import mapping as model
from mirror.model.mapping import EVERYTHING
from mirror.model.registry import Registry
from mirror.schema.migrate import upgrade
from tests.capture.outbox import Events, take_events
from tests.support.databases import TestDatabase

_numbers = itertools.count(1)
Attach = Callable[[Registry], sessionmaker[Session]]


@pytest.fixture
def database(primary_cluster: PostgresCluster) -> Iterator[TestDatabase]:
    """A primary with an outbox, where schema `app` is on the search_path."""
    name = f"catalog_{next(_numbers)}"
    primary_cluster.create_database(name)
    database = TestDatabase(primary_cluster.url(name))
    with database.migrating() as connection:
        upgrade(connection)
    database.query(f"create schema app; alter database {name} set search_path = app, public")
    # New connections have the setting.
    database.disconnect()
    yield database
    primary_cluster.drop_database(name)


@pytest.fixture
def captured(database: TestDatabase) -> Iterator[Attach]:
    """Return a function that makes a sessionmaker with capture for a registry."""
    captures: list[Capture] = []

    def make(mirrored: Registry) -> sessionmaker[Session]:
        sessions = sessionmaker(database.engine(), expire_on_commit=False)
        hooks = Hooks(mirrored, Doorbell(DoorbellSettings(mode="off")))
        captures.append(attach(sessions, hooks=hooks))
        return sessions

    yield make
    for capture in captures:
        capture.detach()


def things(*, schema: str | None = None, name: str = "things") -> Registry:
    """Return a model of open things by `id`."""
    source = table(name, column("id", Text), column("open", Boolean), schema=schema)
    mapping = model.Mapping(
        name="things",
        table="things",
        key=("id",),
        columns=(model.Column("id", "text"),),
        query=select(source.c.id).where(source.c.open),
    )
    return Registry("catalog", [mapping])


def mapped(*columns: Column[Any], name: str = "things", schema: str | None = None) -> Any:
    """Return a mapped class with these columns."""

    class Thing:
        def __init__(self, **values: object) -> None:
            for attribute, value in values.items():
                setattr(self, attribute, value)

    registry().map_imperatively(Thing, Table(name, MetaData(), *columns, schema=schema))
    return Thing


def plain(**options: Any) -> Any:
    """Return a class of things with a text key."""
    key, is_open = Column("id", Text, primary_key=True), Column("open", Boolean, default=True)
    return mapped(key, is_open, **options)


def covers(events: Events, key: str) -> bool:
    """Return whether an event names the key, or the whole mapping."""
    return any(reference == EVERYTHING or named == (key,) for *_, reference, named in events)


def change(sessions: sessionmaker[Session], thing: Any, **values: object) -> None:
    """Set values of the one object of a class."""
    with sessions.begin() as session:
        one = session.scalars(select(thing)).one()
        for attribute, value in values.items():
            setattr(one, attribute, value)


@pytest.mark.parametrize(
    ("in_model", "in_mapping"), [("app", None), (None, "app"), ("app", "app"), (None, None)]
)
def test_a_table_is_found_with_and_without_its_schema(
    database: TestDatabase, captured: Attach, in_model: str | None, in_mapping: str | None
) -> None:
    """In a flush and in a statement."""
    database.query("create table app.things (id text primary key, open boolean)")
    sessions, thing = captured(things(schema=in_mapping)), plain(schema=in_model)
    with sessions.begin() as session:
        session.add(thing(id="a"))
    assert take_events(database) == {(1, "things", None, ("a",))}
    change(sessions, thing, open=False)
    assert take_events(database) == {(0, "things", None, ("a",))}
    with sessions.begin() as session:
        session.execute(update(thing).values(open=True))
    assert take_events(database) == {(0, "things", None, ("a",))}


def test_a_table_of_another_schema_is_another_table(
    database: TestDatabase, captured: Attach
) -> None:
    """If both sides say the schema."""
    database.query("create table app.things (id text primary key, open boolean)")
    database.query("create table public.things (id text primary key, open boolean)")
    with captured(things(schema="app")).begin() as session:
        session.add(plain(schema="public")(id="a"))
    assert take_events(database) == set()


@pytest.mark.parametrize("depth", ["open_things", "all_things"])
def test_a_change_through_a_view_means_everything(
    database: TestDatabase, captured: Attach, depth: str
) -> None:
    """Also through a view of a view; which rows it changes is not known."""
    database.query("""
        create table app.things (id text primary key, open boolean);
        create view all_things as select * from things;
        create view open_things as select * from all_things where open;
    """)
    sessions, thing = captured(things()), plain(name=depth)
    everything = {(0, "things", EVERYTHING, ())}
    with sessions.begin() as session:
        session.add(thing(id="a"))
    assert take_events(database) == everything
    with sessions.begin() as session:
        session.execute(update(thing).values(open=False))
    assert take_events(database) == everything


def test_a_change_behind_a_view_that_a_mapping_reads_means_everything(
    database: TestDatabase, captured: Attach
) -> None:
    """The mapping names the view, the session writes its table."""
    database.query("""
        create table app.things (id text primary key, open boolean);
        create view all_things as select * from things;
    """)
    with captured(things(name="all_things")).begin() as session:
        session.add(plain()(id="a"))
    assert take_events(database) == {(0, "things", EVERYTHING, ())}


def test_a_key_that_a_trigger_replaces_is_named_as_it_is_stored(
    database: TestDatabase, captured: Attach
) -> None:
    """The object keeps the value that was assigned."""
    database.query("""
        create table things (number bigint primary key, id text, open boolean);
        create function small() returns trigger language plpgsql as
          $$begin new.id := lower(new.id); return new; end$$;
        create trigger small before insert or update on things
          for each row execute function small();
    """)
    sessions = captured(things())
    thing = mapped(
        Column("number", BigInteger, primary_key=True),
        Column("id", Text),
        Column("open", Boolean, default=True),
    )
    with sessions.begin() as session:
        session.add(thing(number=1, id="ANNA"))
    assert take_events(database) == {(1, "things", None, ("anna",))}
    change(sessions, thing, id="BERT")
    assert take_events(database) == {(0, "things", None, ("anna",)), (0, "things", None, ("bert",))}
    with sessions.begin() as session:
        session.execute(insert(thing).values(number=2, id="CARL", open=True))
    assert take_events(database) == {(1, "things", None, ("carl",))}


@pytest.mark.parametrize("bulk", [False, True], ids=["flush", "statement"])
def test_what_a_trigger_sets_beside_the_session_is_seen(
    database: TestDatabase, captured: Attach, *, bulk: bool
) -> None:
    """The session changes a column that the mapping does not read."""
    database.query("""
        create table things (id text primary key, open boolean, note text);
        create function closing() returns trigger language plpgsql as
          $$begin new.open := false; return new; end$$;
        create trigger closing before update on things for each row execute function closing();
        insert into things values ('a', true);
    """)
    sessions = captured(things())
    thing = mapped(Column("id", Text, primary_key=True), Column("note", Text))
    if bulk:
        with sessions.begin() as session:
            session.execute(update(thing).values(note="closed"))
    else:
        change(sessions, thing, note="closed")
    assert take_events(database) == {(0, "things", None, ("a",))}


def test_a_trigger_on_the_table_of_a_many_to_many_relationship_means_everything(
    database: TestDatabase, captured: Attach
) -> None:
    """No object has the value that is stored there."""
    database.query("""
        create table boxes (id text primary key);
        create table labels (id text primary key);
        create table things (id text, label text, open boolean default true);
        create function small() returns trigger language plpgsql as
          $$begin new.id := lower(new.id); return new; end$$;
        create trigger small before insert on things for each row execute function small();
    """)
    sessions, mapper, metadata = captured(things()), registry(), MetaData()
    between = Table("things", metadata, Column("id", ForeignKey("boxes.id")))
    between.append_column(Column("label", ForeignKey("labels.id")))

    class Box:
        pass

    class Label:
        pass

    mapper.map_imperatively(Label, Table("labels", metadata, Column("id", Text, primary_key=True)))
    mapper.map_imperatively(
        Box,
        Table("boxes", metadata, Column("id", Text, primary_key=True)),
        properties={"labels": relationship(Label, secondary=between)},
    )
    box: Any = Box()
    label: Any = Label()
    box.id, label.id, box.labels = "ANNA", "red", [label]
    with sessions.begin() as session:
        session.add(box)
    assert {reference for *_, reference, _ in take_events(database)} == {EVERYTHING}


def test_a_primary_key_that_a_trigger_replaces_means_everything(
    database: TestDatabase, captured: Attach
) -> None:
    """The session cannot find the row again."""
    database.query("""
        create table things (id text primary key, open boolean);
        create function small() returns trigger language plpgsql as
          $$begin new.id := lower(new.id); return new; end$$;
        create trigger small before insert on things for each row execute function small();
    """)
    with captured(things()).begin() as session:
        session.add(plain()(id="ANNA"))
    assert covers(take_events(database), "anna")


@pytest.mark.parametrize("bulk", [False, True], ids=["flush", "statement"])
def test_a_generated_column_that_the_model_leaves_out_is_seen(
    database: TestDatabase, captured: Attach, *, bulk: bool
) -> None:
    """The mapping reads it; the session changes what it is computed from."""
    database.query("""
        create table things (
          id text primary key, closed_by text,
          open boolean generated always as (closed_by is null) stored
        );
        insert into things values ('a')
    """)
    sessions = captured(things())
    thing = mapped(Column("id", Text, primary_key=True), Column("closed_by", Text))
    if bulk:
        with sessions.begin() as session:
            session.execute(update(thing).values(closed_by="anna"))
    else:
        change(sessions, thing, closed_by="anna")
    assert take_events(database) == {(0, "things", None, ("a",))}


@pytest.mark.parametrize(
    ("kind", "declared", "given", "stored"),
    [
        ("character(8)", String, "ab", "ab"),
        ("character(8)", CHAR(8), "ab", "ab"),
        ("character varying(3)", String, "abc   ", "abc"),
        ("name", String, "a" * 70, "a" * 63),
    ],
)
def test_a_key_that_the_database_prints_otherwise_is_not_missed(
    database: TestDatabase, captured: Attach, kind: str, declared: Any, given: str, stored: str
) -> None:
    """When the row is inserted, and when it is loaded and deleted."""
    database.query(f"create table things (id {kind} primary key, open boolean)")
    sessions = captured(things())
    thing = mapped(Column("id", declared, primary_key=True), Column("open", Boolean, default=True))
    with sessions.begin() as session:
        session.add(thing(id=given))
    assert covers(take_events(database), stored)
    with sessions.begin() as session:
        session.delete(session.scalars(select(thing)).one())
    assert covers(take_events(database), stored) or database.value("select count(*) from things")
