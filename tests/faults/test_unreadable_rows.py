"""A row that cannot be read: its key is withheld, or its whole mapping waits."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import pytest
from sqlalchemy import Text, column, select, table

from mirror.access import Membership
from mirror.capture.outbox import Event
from mirror.devstack import PostgresCluster
from mirror.errors import Transient
from mirror.model.mapping import Column, Mapping, Parent
from mirror.model.registry import Registry
from mirror.schema.migrate import upgrade
from mirror.sync.drain import Drain
from tests.faults.tools import record
from tests.faults.withheld import (
    has_access,
    retry,
    withheld,
)
from tests.support.databases import TestDatabase, primary_with
from tests.support.drains import making_drains
from tests.support.rest import ServeApi, both_transports, settings_between
from tests.support.waiting import until

pytestmark = both_transports(rest="long")


PRIMARY = """
create table rooms (id text primary key, building text);
create table guests (
  room text, person uuid, level text, rank integer, primary key (room, person)
);
create table buildings (id text primary key);
"""
_rooms = table("rooms", column("id", Text), column("building", Text))
_guests = table("guests", *(column(name, Text) for name in ("room", "person", "level", "rank")))
_buildings = table("buildings", column("id", Text))

hotel = Registry(
    "hotel",
    [
        Mapping(
            name="buildings",
            table="buildings",
            key=("id",),
            columns=(Column("id", "text"),),
            query=select(_buildings.c.id),
        ),
        Mapping(
            name="rooms",
            table="rooms",
            key=("id",),
            columns=(Column("id", "text"), Column("building", "text")),
            query=select(_rooms.c.id, _rooms.c.building),
            parents=(Parent("buildings", "building"),),
        ),
        Mapping(
            name="guests",
            table="guests",
            key=("room", "person"),
            columns=(
                Column("room", "text"),
                Column("person", "uuid"),
                Column("level", "text"),
                Column("rank", "smallint"),
            ),
            query=select(_guests),
            parents=(Parent("rooms", "room"),),
        ),
    ],
    access=[
        Membership(
            mapping="guests",
            resource="room",
            user="person",
            role="level",
            levels=("GUEST",),
            noun="room",
        )
    ],
)
ANN = "00000000-0000-0000-0000-00000000000a"
BEN = "00000000-0000-0000-0000-00000000000b"


@pytest.fixture
def house(primary_cluster: PostgresCluster) -> Iterator[TestDatabase]:
    """A primary with a room in a building, and two guests of the room."""
    with primary_with(primary_cluster, "house", PRIMARY) as database:
        database.query(
            "insert into buildings values ('b'); insert into rooms values ('r', 'b');"
            f" insert into guests values ('r', '{ANN}', 'GUEST', 1), ('r', '{BEN}', 'GUEST', 1)"
        )
        yield database


@pytest.fixture
def hotel_target(project: TestDatabase) -> TestDatabase:
    """A Supabase project with the hotel's model."""
    with project.migrating() as connection:
        upgrade(connection, "supabase", hotel)
    return project


@pytest.fixture
def make_hotel_drain(
    transport: str, serve_api: ServeApi, house: TestDatabase, hotel_target: TestDatabase
) -> Iterator[Callable[..., Drain]]:
    """Return a function that makes workers of the hotel."""
    settings = settings_between(house, hotel_target, transport, serve_api)
    with making_drains(settings, hotel) as make:
        yield make


@pytest.fixture
def hotel_drain(make_hotel_drain: Callable[..., Drain], house: TestDatabase) -> Drain:
    """A worker that has mirrored the hotel."""
    drain = make_hotel_drain()
    record(house, "guests", "r", ANN, lane=1)
    record(house, "guests", "r", BEN, lane=1)
    drain.run()
    return drain


def guests(target: TestDatabase) -> list[bool]:
    """Return whether Ann and Ben are guests of the room."""
    return [has_access(target, ("r", guest), "room") for guest in (ANN, BEN)]


def test_a_revocation_that_cannot_be_read_ends_the_access(
    house: TestDatabase, hotel_target: TestDatabase, hotel_drain: Drain
) -> None:
    """One UPDATE takes the level away and makes the rank too large for its type."""
    assert guests(hotel_target) == [True, True]
    house.query("update guests set level = null, rank = 70000 where person = %s", ANN)
    record(house, "guests", "r", ANN)
    hotel_drain.run()
    assert guests(hotel_target) == [False, True]
    assert withheld(hotel_target) == [("guests", "Rejected")]
    house.query("update guests set rank = 1")
    retry(house, hotel_drain)
    assert hotel_target.value("select count(*) from guests") == 2
    assert withheld(hotel_target) == []


def test_if_no_key_can_be_read_the_mapping_waits(
    house: TestDatabase, hotel_target: TestDatabase, hotel_drain: Drain
) -> None:
    """All keys fail alike, so no key is withheld; also grants are never given up."""
    house.query("update guests set rank = 70000")
    record(house, "guests", "r", ANN)
    record(house, "guests", "r", BEN, lane=1)
    for _ in range(6):
        retry(house, hotel_drain)
    assert guests(hotel_target) == [True, True]
    assert house.query("select distinct parked, buried_at from mirror.retries") == [(True, None)]
    house.query("update guests set rank = 2")
    retry(house, hotel_drain)
    retry(house, hotel_drain)
    assert house.value("select count(*) from mirror.retries") == 0
    assert hotel_target.query("select distinct rank from guests") == [(2,)]


def test_a_withheld_building_closes_its_rooms(
    house: TestDatabase, hotel_target: TestDatabase, hotel_drain: Drain
) -> None:
    """Helpers look at all ancestors of a row, not at its parents alone."""
    hotel_target.query("insert into mirror.withheld values ('buildings', '{b}', 'x', now(), 0, 0)")
    assert guests(hotel_target) == [False, False]
    record(house, "buildings", "b", lane=1)
    hotel_drain.run()
    assert guests(hotel_target) == [True, True]


def test_a_scope_that_cannot_be_listed_reaches_the_rows_that_the_target_has(
    house: TestDatabase, hotel_target: TestDatabase, hotel_drain: Drain
) -> None:
    """Only there can be too much: the one bad row must not hide the other's revocation."""
    house.query("update guests set rank = 70000 where person = %s", ANN)
    house.query("update guests set level = null where person = %s", BEN)
    record(house, "guests", "r", reference="room")
    hotel_drain.run()
    assert guests(hotel_target) == [False, False]
    assert withheld(hotel_target) == [("guests", "Rejected")]


def test_a_childs_row_that_cannot_be_read_is_not_blamed_on_its_parent(
    house: TestDatabase, hotel_target: TestDatabase, hotel_drain: Drain
) -> None:
    """The event of a room looks at its guests, too. One of them is odd; the other one stays."""
    house.query("update guests set level = null, rank = 70000 where person = %s", ANN)
    record(house, "rooms", "r")
    hotel_drain.run()
    assert guests(hotel_target) == [False, True]
    assert withheld(hotel_target) == [("guests", "Rejected")]


def test_a_value_that_no_cast_supports_does_not_hide_the_rest_of_its_scope(
    house: TestDatabase, hotel_target: TestDatabase, hotel_drain: Drain
) -> None:
    """PostgreSQL reports NaN as an integer like a missing feature, not like a wrong value."""
    house.query("alter table guests alter rank type numeric")
    house.query("update guests set rank = 'NaN' where person = %s", ANN)
    house.query("update guests set level = null where person = %s", BEN)
    record(house, "guests", "r", reference="room")
    hotel_drain.run()
    assert guests(hotel_target)[1] is False


def test_a_whole_mapping_of_which_a_row_is_odd_stays_set_apart(
    house: TestDatabase, hotel_target: TestDatabase, hotel_drain: Drain
) -> None:
    """The primary could not list its keys: rows that only it has are not there yet."""
    house.query("update guests set rank = 70000 where person = %s", ANN)
    house.query("delete from guests where person = %s", BEN)
    house.query("insert into guests values ('r', gen_random_uuid(), 'GUEST', 1)")
    record(house, "guests", reference="*")
    hotel_drain.run()
    assert guests(hotel_target)[1] is False
    assert house.value("select count(*) from mirror.retries where reference = '*'") == 1
    house.query("update guests set rank = 1")
    retry(house, hotel_drain)
    assert hotel_target.value("select count(*) from guests") == 2


def test_one_retry_stands_for_all_events_of_a_mapping_that_cannot_be_read(
    house: TestDatabase, hotel_target: TestDatabase, hotel_drain: Drain
) -> None:
    """Otherwise thousands of them would fail again and again, in front of other events."""
    house.query("alter table guests rename column rank to place")
    record(house, "guests", "r", ANN)
    hotel_drain.run()
    record(house, "guests", "r", BEN)
    hotel_drain.run()
    late = "select due_at > now() + interval '1 year' from mirror.retries order by id"
    assert house.query(late) == [(False,), (True,)]
    house.query("alter table guests rename column place to rank")
    house.query("update guests set level = null")
    house.query(
        "update mirror.retries set due_at = now() where id = (select min(id) from mirror.retries)"
    )
    hotel_drain.run()
    assert house.value("select count(*) from mirror.retries") == 0
    assert guests(hotel_target) == [False, False]


def test_an_event_that_is_parked_while_its_mapping_is_mended_is_retried(
    house: TestDatabase,
    hotel_drain: Drain,
    make_hotel_drain: Callable[..., Drain],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another worker's retry succeeds between the moment it is parked and the commit of that."""
    house.query("alter table guests rename column rank to place")
    record(house, "guests", "r", ANN)
    hotel_drain.run()
    house.query("alter table guests rename column place to rank")
    house.query("update mirror.retries set due_at = now()")
    other = make_hotel_drain()
    retrying = threading.Thread(target=other.run)
    keep = hotel_drain.queue.record

    def retry_meanwhile(events: Sequence[Event], age: float) -> None:
        retrying.start()
        until(lambda: not retrying.is_alive() or waits_for_a_lock(house))
        keep(events, age)

    monkeypatch.setattr(hotel_drain.queue, "record", retry_meanwhile)
    record(house, "guests", "r", BEN)
    hotel_drain.once()
    retrying.join()
    monkeypatch.undo()
    hotel_drain.run()
    assert house.value("select count(*) from mirror.retries") == 0


def test_parked_events_keep_the_retry_that_stands_for_them(
    house: TestDatabase, hotel_target: TestDatabase, hotel_drain: Drain
) -> None:
    """The primary fails while that retry, which failed by itself, is to release the others."""
    house.query("alter table guests rename column rank to place")
    for guest in (ANN, BEN):
        record(house, "guests", "r", guest)
        hotel_drain.run()
    house.query("alter table guests rename column place to rank")
    house.query("update guests set rank = 70000 where person = %s", ANN)
    house.query(
        "create function refuse() returns trigger language plpgsql as"
        " $$ begin raise exception using errcode = 'crash_shutdown'; end $$;"
        " create trigger refuse before update on mirror.retries for each row"
        " when (old.due_at > now() + interval '1 year') execute function refuse()"
    )
    house.query("update mirror.retries set due_at = now() where due_at < now() + interval '1 year'")
    with suppress(Transient):
        hotel_drain.run()
    house.query("drop trigger refuse on mirror.retries")
    house.query("update mirror.retries set due_at = now() where due_at < now() + interval '1 year'")
    hotel_drain.run()
    house.query("update mirror.retries set due_at = now() where due_at < now() + interval '1 year'")
    hotel_drain.run()
    assert house.query("select key[2] from mirror.retries") == [(ANN,)]


def waits_for_a_lock(database: TestDatabase) -> bool:
    """Return whether some session of this database waits for another one."""
    found: bool = database.value(
        "select exists (select from pg_stat_activity"
        " where datname = current_database() and wait_event_type = 'Lock')"
    )
    return found
