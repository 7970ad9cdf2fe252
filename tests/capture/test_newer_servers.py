"""Capture of tables and statements that earlier versions of PostgreSQL could not have.

Each test runs on the newer of the run's two servers, and is skipped where that is too old.
"""

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from psycopg import errors
from sqlalchemy import (
    BigInteger,
    Boolean,
    Computed,
    DateTime,
    Text,
    column,
    delete,
    literal_column,
    select,
    table,
    text,
    update,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from mirror.capture import attach
from mirror.capture.doorbell import Doorbell, DoorbellSettings
from mirror.devstack import PostgresCluster
from mirror.errors import NotMigrated
from mirror.hooks import Hooks
from mirror.model.mapping import EVERYTHING, Column, Mapping, Reference
from mirror.model.registry import Registry
from mirror.schema.migrate import upgrade
from tests.capture.outbox import install, take_events
from tests.support.databases import TestDatabase

Since = Callable[[int], TestDatabase]

_numbers = itertools.count(1)

SEATS = table(
    "seats",
    column("id", BigInteger),
    column("room", Text),
    column("free", Boolean),
    column("closed_at", DateTime),
)
ROOMS = table("rooms", column("name", Text), column("open", Boolean))

SEATS_SQL = """
create table seats (
  id bigint primary key, room text, closed_at timestamptz,
  free boolean generated always as (closed_at is null) {kind}
);
insert into seats (id, room) values (1, 'blue'), (2, 'blue'), (3, 'red');
"""
CLOSE = "update seats set closed_at = now() where id = 1"


def seat_registry(*free: object) -> Registry:
    """Return a model of free seats, by their ids, and of rooms that have one."""
    condition = free or (SEATS.c.free,)
    return Registry(
        "house",
        [
            Mapping(
                name="seats",
                table="seats",
                key=("id",),
                columns=(Column("id", "bigint"),),
                query=select(SEATS.c.id).where(*condition),  # type: ignore[arg-type]
            ),
            Mapping(
                name="rooms",
                table="rooms",
                key=("room",),
                columns=(Column("room", "text"),),
                query=select(SEATS.c.room).where(*condition).distinct(),  # type: ignore[arg-type]
            ),
        ],
    )


@pytest.fixture
def since(primary_cluster: PostgresCluster, target_cluster: PostgresCluster) -> Iterator[Since]:
    """Return a function that makes a database on a server of at least this version, or skips."""
    newest = max(primary_cluster, target_cluster, key=lambda cluster: cluster.version)
    made: list[str] = []

    def make(version: int) -> TestDatabase:
        if newest.version < version:
            pytest.skip(
                f"PostgreSQL {version} brought it; the newer server here is {newest.version}"
            )
        made.append(f"newer_{next(_numbers)}")
        newest.create_database(made[-1])
        return TestDatabase(newest.url(made[-1]))

    yield make
    for name in made:
        newest.drop_database(name)


def test_a_virtual_generated_column_is_refused_by_name(since: Since) -> None:
    """In a trigger it is null, so that changes would be missed, or fails the writer."""
    database = since(18)
    database.query(SEATS_SQL.format(kind="virtual"))
    told = r"column free of seats, a virtual generated column.*in the mapping's query, or make"
    with pytest.raises(NotMigrated, match=told):
        install(database, seat_registry())
    assert database.value("select to_regnamespace('mirror')") is None


@pytest.mark.parametrize("free", [SEATS.c.closed_at.is_(None), text("seats.free")])
def test_the_expression_of_a_virtual_column_is_captured(since: Since, free: object) -> None:
    """It names the columns that are stored; of text, every column counts."""
    database = since(18)
    database.query(SEATS_SQL.format(kind="virtual"))
    install(database, seat_registry(free))
    database.query(CLOSE)
    assert take_events(database) == {(0, "seats", None, ("1",)), (0, "rooms", None, ("blue",))}


def test_a_column_that_becomes_virtual_later_counts_as_a_change_of_everything(
    since: Since,
) -> None:
    """Until somebody migrates, who is told; a writer is never refused."""
    database = since(18)
    database.query(SEATS_SQL.format(kind="stored"))
    install(database, seat_registry())
    database.query(CLOSE)
    assert take_events(database) == {(0, "seats", None, ("1",)), (0, "rooms", None, ("blue",))}
    database.query("""
        alter table seats drop column free,
        add free boolean generated always as (closed_at is null) virtual
    """)
    with database.connect() as connection:
        told: list[str] = []
        connection.add_notice_handler(lambda notice: told.append(str(notice.message_primary)))
        connection.execute("update seats set closed_at = now() where id = 2")
    assert take_events(database) == {(0, "seats", EVERYTHING, ()), (0, "rooms", EVERYTHING, ())}
    assert "virtual generated" in told[0]
    with pytest.raises(NotMigrated, match="virtual generated"):
        install(database, seat_registry(SEATS.c.free, SEATS.c.id > 0))


def test_a_stored_generated_column_that_a_row_trigger_feeds_is_captured(since: Since) -> None:
    """It is computed after the trigger, which the statement does not name."""
    database = since(12)
    database.query(SEATS_SQL.format(kind="stored"))
    database.query("""
        create function close() returns trigger language plpgsql as $$
        begin new.closed_at := now(); return new; end $$;
        create trigger close before update on seats for each row execute function close();
    """)
    install(database, seat_registry())
    database.query("update seats set room = room where id = 3")
    assert take_events(database) == {(0, "seats", None, ("3",)), (0, "rooms", None, ("red",))}


def test_the_orm_captures_what_a_generated_column_follows_from(since: Since) -> None:
    """Also where it is virtual, and where the caller has old and new values returned."""

    class Base(DeclarativeBase):
        pass

    class Seat(Base):
        __tablename__ = "seats"

        id: Mapped[int] = mapped_column(primary_key=True)
        room: Mapped[str]
        closed_at: Mapped[datetime | None]
        free: Mapped[bool] = mapped_column(Computed("closed_at is null", persisted=True))

    database = since(18)
    database.query("""
        create table seats (
          id bigint primary key, room text, closed_at timestamptz,
          free boolean generated always as (closed_at is null) virtual
        )
    """)
    with database.migrating() as connection:
        upgrade(connection)
    sessions = sessionmaker(database.engine(), expire_on_commit=False)
    hooks = Hooks(seat_registry(), Doorbell(DoorbellSettings(mode="off")))
    capture = attach(sessions, hooks=hooks)
    with sessions.begin() as session:
        session.add(Seat(id=1, room="blue"))
    assert take_events(database) == {(1, "seats", None, ("1",)), (1, "rooms", None, ("blue",))}
    named = {(0, "seats", None, ("1",)), (0, "rooms", None, ("blue",))}
    with sessions.begin() as session:
        session.get_one(Seat, 1).closed_at = datetime(2026, 1, 1, tzinfo=UTC)
    assert take_events(database) == named
    old = literal_column("old.free", Boolean)
    new = literal_column("new.free", Boolean).label("now")
    with sessions.begin() as session:
        reopened = session.execute(update(Seat).values(closed_at=None).returning(old, new))
        assert reopened.all() == [(False, True)]
    assert take_events(database) == named
    with sessions.begin() as session:
        assert session.execute(delete(Seat).returning(old)).all() == [(True,)]
    assert take_events(database) == named
    capture.detach()


def test_merge_is_captured_by_what_each_row_comes_to(since: Since) -> None:
    """Inserted, updated and deleted rows of one statement."""
    database = since(15)
    database.query(SEATS_SQL.format(kind="stored"))
    install(database, seat_registry())
    database.query("""
        merge into seats as s
        using (values (1, 'update'), (2, 'delete'), (4, 'insert')) as v (id, what)
        on s.id = v.id
        when matched and v.what = 'delete' then delete
        when matched then update set closed_at = now()
        when not matched then insert (id, room) values (v.id, 'green')
    """)
    found = take_events(database)
    assert {key for _, name, _, key in found if name == "seats"} == {("1",), ("2",), ("4",)}
    assert {key for _, name, _, key in found if name == "rooms"} == {("blue",), ("green",)}


def test_what_merge_does_with_rows_that_its_source_lacks_is_captured(since: Since) -> None:
    """The source is the whole truth; what is missing there is deleted, or changed."""
    database = since(17)
    database.query(SEATS_SQL.format(kind="stored"))
    install(database, seat_registry())
    database.query("""
        merge into seats as s using (values (1)) as v (id) on s.id = v.id
        when not matched by source and s.id = 2 then delete
        when not matched by source then update set closed_at = now()
        returning merge_action()
    """)
    assert {key for _, name, _, key in take_events(database) if name == "seats"} == {("2",), ("3",)}


def test_a_foreign_key_that_clears_one_of_its_columns_is_captured(since: Since) -> None:
    """The database updates the row by itself, when the other is deleted."""
    database = since(15)
    database.query("""
        create table people (house bigint, id bigint, primary key (house, id));
        create table seats (
          id bigint primary key, room text, closed_at timestamptz, house bigint not null,
          free bigint,
          foreign key (house, free) references people on delete set null (free)
        );
        insert into people values (1, 1);
        insert into seats values (1, 'blue', null, 1, 1), (2, 'blue', null, 1, null);
    """)
    install(database, seat_registry(SEATS.c.free.is_(None)))
    database.query("delete from people")
    assert take_events(database) == {(0, "seats", None, ("1",)), (0, "rooms", None, ("blue",))}


def test_an_upsert_that_takes_nulls_for_equal_is_captured(since: Since) -> None:
    """The row that was there has a null in what it conflicts by."""
    database = since(15)
    database.query("""
        create table seats (
          id bigint primary key, room text, place bigint, closed_at timestamptz,
          free boolean not null default true, unique nulls not distinct (room, place)
        );
        insert into seats (id, room) values (1, 'blue');
    """)
    install(database, seat_registry())
    database.query("""
        insert into seats (id, room) values (2, 'blue')
        on conflict (room, place) do update set free = false
    """)
    assert take_events(database) == {(0, "seats", None, ("1",)), (0, "rooms", None, ("blue",))}


def test_rows_of_a_temporal_key_are_captured_by_what_the_mapping_calls_its_key(
    since: Since,
) -> None:
    """Several rows have it, each for a time of its own."""
    database = since(18)
    database.query("""
        create table seats (
          id int4range, room text, free boolean, during daterange,
          closed_at timestamptz, primary key (id, during without overlaps)
        );
        insert into seats values
          ('[1,1]', 'blue', true, '[2026-01-01,2026-02-01)', null),
          ('[1,1]', 'blue', false, '[2026-02-01,2026-03-01)', null);
    """)
    rooms = seat_registry()["rooms"]
    install(database, Registry("house", [rooms]))
    database.query("update seats set during = '[2026-03-01,2026-04-01)' where free")
    assert take_events(database) == set()
    database.query("update seats set free = not free")
    assert take_events(database) == set()
    database.query("delete from seats where free")
    assert take_events(database) == {(0, "rooms", None, ("blue",))}


def test_a_foreign_key_that_is_not_enforced_leaves_it_to_the_scope(since: Since) -> None:
    """Nothing cascades, and nobody needs it to: what is joined names what it is joined to."""
    database = since(18)
    database.query("""
        create table rooms (name text primary key, open boolean not null default true);
        create table seats (
          id bigint primary key, room text references rooms on delete cascade not enforced
        );
        insert into rooms values ('blue');
        insert into seats values (1, 'blue');
    """)
    seats = Mapping(
        name="seats",
        table="seats",
        key=("id",),
        columns=(Column("id", "bigint"),),
        query=select(SEATS.c.id, SEATS.c.room).join(ROOMS, ROOMS.c.name == SEATS.c.room),
        references=(Reference("room", "text", table="rooms"),),
    )
    install(database, Registry("house", [seats]))
    database.query("delete from rooms")
    assert take_events(database) == {(0, "seats", "room", ("blue",))}


def test_values_that_a_collation_takes_for_one_are_each_named(since: Since) -> None:
    """To a nondeterministic collation, two rooms are one; to the target they are two."""
    database = since(12)
    try:
        database.query(
            "create collation careless"
            " (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
    except errors.FeatureNotSupported:
        pytest.skip("the newer server here was built without ICU")
    database.query("""
        create table seats (
          id bigint primary key, room text collate careless,
          closed_at timestamptz, free boolean not null default true
        );
    """)
    install(database, seat_registry())
    each = {("Blue",), ("blue",)}
    for change in (
        "insert into seats (id, room) values (1, 'Blue'), (2, 'blue')",
        "update seats set free = false",
        "delete from seats",
    ):
        database.query(change)
        found = {key for _, name, _, key in take_events(database) if name == "rooms"}
        assert found == each, change
