"""Triggers on the primary's tables: the events that they record, and the changes they ignore."""

import subprocess
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import psycopg
import pytest
from sqlalchemy import (
    BigInteger,
    Boolean,
    Text,
    column,
    literal_column,
    select,
    table,
    text,
)

from mirror.devstack import PostgresCluster
from mirror.devstack.binaries import postgres_programs
from mirror.errors import NotMigrated
from mirror.model.mapping import EVERYTHING, Column, Mapping, Reference
from mirror.model.registry import Registry
from mirror.schema import removal_sql, triggers_sql
from mirror.schema.migrate import upgrade
from mirror.schema.trigger_events import updated
from mirror.schema.uninstall import downgrade
from tests.capture import clubs
from tests.capture.backend import ANNA, BERT, CapturedBackend
from tests.capture.outbox import install, take_events
from tests.faults.tools import Running
from tests.support.databases import TestDatabase
from tests.support.waiting import until

MakeBackend = Callable[..., CapturedBackend]

DESKS = table(
    "Desks of Ours",
    column("Number", Text),
    column("floor", BigInteger),
    column("label", Text),
    column("extras", Text),
    column("free", Boolean),
)
FLOORS = table("floors", column("id", BigInteger), column("open", Boolean), schema="House")

desks = Mapping(
    name="desks",
    table="desks",
    key=("number",),
    columns=(Column("number", "text"), Column("label", "text", descriptive=True)),
    query=select(DESKS.c.Number.label("number"), DESKS.c.label, DESKS.c.floor, DESKS.c.extras)
    .join(FLOORS, FLOORS.c.id == DESKS.c.floor)
    .where(FLOORS.c.open, DESKS.c.free),
    references=(Reference("floor", "bigint", table="House.floors"),),
)
# Several desks make one row. Each change of a desk must name the floor.
used_floors = Mapping(
    name="used_floors",
    table="used_floors",
    key=("floor",),
    columns=(Column("floor", "bigint"),),
    query=select(DESKS.c.floor)
    .where(DESKS.c.free, text("\"Desks of Ours\".label <> ''"))
    .distinct(),
)
house = Registry("house", [desks, used_floors])

SEATS = table("seats", column("id", BigInteger), column("person", Text))
parts = Registry(
    "parts",
    [
        Mapping(
            name="seats",
            table="seats",
            key=("id",),
            columns=(Column("id", "bigint"), Column("person", "text")),
            query=select(SEATS.c.id, SEATS.c.person),
        )
    ],
)

HOUSE = """
create schema "House";
create table "House".floors (id bigint primary key, open boolean not null default true);
create table "Desks of Ours" (
  "Number" text primary key,
  floor bigint references "House".floors on delete cascade,
  label text,
  extras json,
  free boolean not null default true,
  unrelated point
);
insert into "House".floors values (1), (2);
insert into "Desks of Ours" ("Number", floor, label)
select 'd' || n, 1 + n % 2, 'x' from generate_series(1, 4) as n;
"""


@pytest.fixture
def office(primary_cluster: PostgresCluster) -> Iterator[TestDatabase]:
    """A primary with quoted names, text keys, a json column, and the triggers of `house`."""
    primary_cluster.create_database("office")
    database = TestDatabase(primary_cluster.url("office"))
    database.query(HOUSE)
    install(database, house)
    yield database
    primary_cluster.drop_database("office")


def installed(database: TestDatabase) -> set[tuple[str, str, str]]:
    """Return (table, trigger, when enabled) of each trigger of the mirror."""
    return set(
        database.query(
            "select tgrelid::regclass::text, tgname, tgenabled::text from pg_trigger"
            " where tgname like 'mirror\\_%%'"
        )
    )


def test_each_event_has_its_lane_and_none_appears_twice(make_backend: MakeBackend) -> None:
    """A change that may take access away is a revocation; a change of a name is not."""
    backend = make_backend("triggers")
    backend.populate()
    changes: dict[str, set[Any]] = {
        "insert into members values (2, 30, 'MEMBER', false)": {
            (1, "memberships", "person_id", ("30",))
        },
        "update people set name = 'Annie' where id = 10": {(1, "people", None, (str(ANNA),))},
        "update clubs set name = 'New'": {(1, "clubs", None, ("1",)), (1, "clubs", None, ("2",))},
        "update clubs set archived = true where id = 1": {
            (0, "clubs", None, ("1",)),
            (0, "memberships", "club_id", ("1",)),
        },
        "update members set role = 'GUEST' where person_id = 10": {
            (0, "memberships", "person_id", ("10",))
        },
        "update members set role = role": set(),
        "delete from members where person_id = 20": {(0, "memberships", "person_id", ("20",))},
        "insert into people (id, name) values (50, 'Nobody')": {
            (1, "memberships", "person_id", ("50",))
        },
        "update members set role = 'NONE' where club_id = 99": set(),
    }
    for change, expected in changes.items():
        backend.primary.query(change)
        assert len(backend.events()) == len(expected), change
        assert take_events(backend.primary) == expected, change


@pytest.fixture
def loose_auth_ids(primary: TestDatabase) -> Iterator[None]:
    """Drop the unique constraint of auth ids until the end of the test."""
    primary.query("alter table people drop constraint people_auth_id_key")
    yield
    primary.query("truncate people cascade")
    primary.query("alter table people add constraint people_auth_id_key unique (auth_id)")


@pytest.mark.usefixtures("loose_auth_ids")
def test_old_and_new_keys_are_both_named(make_backend: MakeBackend) -> None:
    """This also holds if two rows swap their keys in one statement."""
    backend = make_backend("triggers")
    backend.populate()
    backend.primary.query("update people set auth_id = %s where id = 30", ANNA)
    take_events(backend.primary)
    backend.primary.query(
        "update people set auth_id = case id when 10 then %s::uuid else %s end where id < 30",
        BERT,
        ANNA,
    )
    assert (0, "memberships", "person_id", ("10",)) in take_events(backend.primary)
    backend.primary.query("update people set auth_id = gen_random_uuid() where id = 20")
    assert (0, "people", None, (str(ANNA),)) in take_events(backend.primary)


def test_quoted_names_and_types_without_equality_are_captured(office: TestDatabase) -> None:
    """The type json has no equality; a write must not fail because of that."""
    office.query("""update "Desks of Ours" set extras = '{"lamp": 1}' where "Number" = 'd1'""")
    assert take_events(office) == {(0, "desks", None, ("d1",)), (0, "used_floors", None, ("2",))}
    office.query("""update "Desks of Ours" set extras = '{"lamp": 1}' where "Number" = 'd1'""")
    office.query("""update "Desks of Ours" set "Number" = 'D1' where "Number" = 'd1'""")
    assert take_events(office) >= {(0, "desks", None, ("d1",)), (0, "desks", None, ("D1",))}
    office.query('delete from "House".floors where id = 1')
    assert take_events(office) == {
        (0, "desks", None, ("d2",)),
        (0, "desks", None, ("d4",)),
        (0, "desks", "floor", ("1",)),
        (0, "used_floors", None, ("1",)),
    }


def test_each_column_counts_if_the_query_contains_text(office: TestDatabase) -> None:
    """The columns inside text() are unknown."""
    office.query("""update "Desks of Ours" set unrelated = '(1,2)' where "Number" = 'd1'""")
    assert take_events(office) == {(0, "used_floors", None, ("2",))}


def test_a_null_names_nothing(office: TestDatabase) -> None:
    """No key contains a NULL."""
    office.query("""insert into "Desks of Ours" ("Number", floor) values ('d9', null)""")
    assert take_events(office) == {(1, "desks", None, ("d9",))}
    office.query("""update "Desks of Ours" set floor = 1 where "Number" = 'd9'""")
    assert take_events(office) == {(0, "desks", None, ("d9",)), (0, "used_floors", None, ("1",))}


def test_every_kind_of_statement_is_seen(office: TestDatabase) -> None:
    """COPY, an upsert, a writing CTE, TRUNCATE, and a session that turns triggers off."""
    rows = 'copy "Desks of Ours" ("Number", floor) from stdin'
    with office.connect() as connection, connection.cursor().copy(rows) as copy:
        copy.write_row(("c1", 1))
        copy.write_row(("c2", 1))
    assert take_events(office) == {
        (1, "desks", None, ("c1",)),
        (1, "desks", None, ("c2",)),
        (1, "used_floors", None, ("1",)),
    }
    office.query("""insert into "Desks of Ours" ("Number", floor) values ('c3', 2)""")
    take_events(office)
    office.query("""
        insert into "Desks of Ours" ("Number", floor) values ('c3', 1), ('c4', 1)
        on conflict ("Number") do update set floor = excluded.floor
    """)
    assert {key for _, name, _, key in take_events(office) if name == "desks"} == {("c3",), ("c4",)}
    office.query("""
        with gone as (delete from "Desks of Ours" where "Number" = 'c3' returning floor)
        update "Desks of Ours" set floor = (select floor + 1 from gone) where "Number" = 'c4'
    """)
    assert {key for _, name, _, key in take_events(office) if name == "desks"} == {("c3",), ("c4",)}
    office.query("""
        set session_replication_role = replica;
        update "Desks of Ours" set free = false where "Number" = 'd1'
    """)
    assert (0, "desks", None, ("d1",)) in take_events(office)
    office.query('truncate "House".floors cascade')
    assert take_events(office) == {(0, "desks", EVERYTHING, ()), (0, "used_floors", EVERYTHING, ())}


@pytest.fixture
def partitioned(primary_cluster: PostgresCluster) -> Iterator[TestDatabase]:
    """A table in two partitions, with triggers."""
    primary_cluster.create_database("partitioned")
    database = TestDatabase(primary_cluster.url("partitioned"))
    database.query("""
        create table seats (id bigint, person text, primary key (id)) partition by range (id);
        create table seats_low partition of seats for values from (0) to (10);
        create table seats_high partition of seats for values from (10) to (20);
        insert into seats values (1, 'a');
    """)
    with database.migrating() as connection:
        upgrade(connection, "primary", parts, triggers=True)
    yield database
    primary_cluster.drop_database("partitioned")


def test_a_partitioned_table_is_watched_as_a_whole(partitioned: TestDatabase) -> None:
    """A row that moves from one partition to another is recorded, too."""
    partitioned.query("update seats set id = 11 where id = 1")
    assert take_events(partitioned) == {(0, "seats", None, ("1",)), (0, "seats", None, ("11",))}


def test_rows_that_change_partition_or_value_in_one_statement_are_named_and_no_others(
    partitioned: TestDatabase,
) -> None:
    """Old and new rows are paired by their order, so none may be out of turn."""
    partitioned.query("insert into seats select n, 'a' from generate_series(2, 9) as n")
    take_events(partitioned)
    partitioned.query("""
        update seats set id = case when id in (3, 6) then id + 10 else id end,
          person = case when id in (4, 8) then 'b' else person end
    """)
    named = {"3", "13", "6", "16", "4", "8"}
    assert {key for *_, (key,) in take_events(partitioned)} == named
    partitioned.query("update seats set id = case id when 13 then 3 else id end, person = 'b'")
    named = {"1", "2", "3", "5", "7", "9", "13", "16"}
    assert {key for *_, (key,) in take_events(partitioned)} == named


@pytest.mark.parametrize("seed", range(5))
def test_pairs_in_another_order_name_more_rows_never_fewer(
    partitioned: TestDatabase, seed: int
) -> None:
    """No document of PostgreSQL says in which order a trigger sees its rows."""
    (effect,) = parts.effects["seats"]
    query = updated(effect).replace("padded", "null::text[]")
    draw = Random(seed)
    old = [(number, draw.choice("ab")) for number in range(8)]
    new = [
        (draw.choice([number, number + 100]), draw.choice([person, "c"])) for number, person in old
    ]
    pairs = zip(old, new, strict=True)
    changed = {key for pair in pairs if pair[0] != pair[1] for key, _ in pair}
    with partitioned.connect() as connection:
        for name, rows in (("old_rows", old), ("new_rows", new)):
            connection.execute(f"create temp table {name} (id bigint, person text)".encode())
            for row in draw.sample(rows, len(rows)):
                connection.execute(f"insert into {name} values (%s, %s)".encode(), row)
        found = {int(key) for *_, (key,) in connection.execute(query.encode())}
    assert found >= changed


def test_columns_may_have_the_names_that_the_triggers_use(partitioned: TestDatabase) -> None:
    """The query contains text, so each column counts."""
    rooms = table("rooms", column("id", BigInteger))
    mapping = Mapping(
        name="rooms",
        table="rooms",
        key=("id",),
        columns=(Column("id", "bigint"), Column("label", "text")),
        query=select(rooms.c.id, literal_column("upper(r)").label("label")),
    )
    partitioned.query(
        "create table rooms (id bigint primary key, r text, o text, n text, place int, whole int)"
    )
    install(partitioned, Registry("named", [mapping]))
    partitioned.query(
        "insert into rooms (id, r, o, n) values (1, 'a', 'a', 'a'), (2, 'a', 'a', 'a')"
    )
    take_events(partitioned)
    for name in ("r", "o", "n"):
        partitioned.query(f"update rooms set {name} = 'b' where id = 1")
        assert take_events(partitioned) == {(0, "rooms", None, ("1",))}
    partitioned.query("update rooms set r = r")
    assert take_events(partitioned) == set()


def test_a_partition_that_is_written_directly_is_watched(partitioned: TestDatabase) -> None:
    """A new partition is, as soon as the primary was migrated once more."""
    partitioned.query("insert into seats_high values (12, 'b')")
    assert take_events(partitioned) == {(1, "seats", None, ("12",))}
    partitioned.query("create table seats_new (person text, id bigint not null)")
    partitioned.query("alter table seats attach partition seats_new for values from (20) to (30)")
    with partitioned.migrating() as connection:
        assert upgrade(connection, "primary", parts) == ["triggers_parts"]
        assert upgrade(connection, "primary", parts) == []
    partitioned.query("insert into seats_new values ('c', 22)")
    assert take_events(partitioned) == {(1, "seats", None, ("22",))}


@pytest.mark.parametrize(
    "damage",
    [
        "drop trigger mirror_parts_update on seats",
        "alter table seats disable trigger mirror_parts_delete",
        "alter table seats enable trigger mirror_parts_delete",
        "alter table seats_low enable replica trigger mirror_parts_insert",
        "drop trigger mirror_parts_truncate on seats_high",
        "drop function mirror.capture_parts_seats cascade",
        (
            "create or replace function mirror.capture_parts_seats() returns trigger"
            " language plpgsql security definer as 'begin return null; end'"
        ),
        "alter function mirror.capture_parts_seats() security invoker",
        (
            "create or replace trigger mirror_parts_insert after insert on seats"
            " for each statement execute function mirror.capture_parts_seats()"
        ),
        "delete from mirror.migrations where name = 'triggers_parts'",
    ],
)
@pytest.mark.parametrize("asked", ["with --triggers", "without"])
def test_a_migration_repairs_triggers_that_are_not_as_printed(
    partitioned: TestDatabase, damage: str, asked: str
) -> None:
    """The catalog decides, not the history; a database that once got triggers keeps them."""
    before, triggers = installed(partitioned), asked == "with --triggers"
    partitioned.query(damage)
    with partitioned.migrating() as connection:
        applied = upgrade(connection, "primary", parts, triggers=triggers)
        assert applied == ["triggers_parts"]
        assert upgrade(connection, "primary", parts, triggers=triggers) == []
    assert installed(partitioned) == before
    partitioned.query("insert into seats values (5, 'a')")
    assert take_events(partitioned) == {(1, "seats", None, ("5",))}


def test_a_writer_needs_no_rights_on_the_outbox(office: TestDatabase) -> None:
    """The mirror does not know all roles that write to the table, nor their search_path."""
    office.query("""
        drop role if exists visitor;
        create role visitor login;
        create schema trap authorization visitor;
        create table trap.outbox (lane int, mapping text, reference text, key text[]);
        grant all on "Desks of Ours", trap.outbox to visitor;
        grant usage on schema "House" to visitor;
    """)
    with office.connect() as connection:
        connection.execute("set role visitor")
        connection.execute("set search_path = trap, pg_catalog, public")
        connection.execute("""delete from "Desks of Ours" where "Number" = 'd1'""")
        assert connection.execute("select count(*) from trap.outbox").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select mirror.capture_house_floors()")
    assert (0, "desks", None, ("d1",)) in take_events(office)
    office.query("drop schema trap cascade; drop owned by visitor; drop role visitor")


def test_a_statement_takes_no_subtransaction_id(office: TestDatabase) -> None:
    """Otherwise a long transaction with many statements would slow down all snapshots."""
    with office.connect(autocommit=False) as connection:
        for _ in range(3):
            connection.execute("""update "Desks of Ours" set free = not free""")
        found = connection.execute("""
            select distinct xmin::text::bigint, pg_current_xact_id()::text::bigint % (2^32)::bigint
            from mirror.outbox
        """).fetchall()
    ((event_xid, transaction_xid),) = found
    assert event_xid == transaction_xid


@pytest.mark.parametrize(
    "migration",
    [
        'alter table "Desks of Ours" drop column label',
        'alter table "Desks of Ours" rename column free to vacant',
    ],
)
def test_a_table_that_changed_after_the_migration_fails_no_writer(
    office: TestDatabase, migration: str
) -> None:
    """Each write counts as a change of everything until the next migration."""
    office.query("""update "Desks of Ours" set free = free""")
    office.query('alter table "Desks of Ours" drop constraint "Desks of Ours_floor_fkey"')
    office.query(migration)
    with office.connect() as connection:
        notices: list[str] = []
        connection.add_notice_handler(lambda notice: notices.append(str(notice.message_primary)))
        connection.execute("""update "Desks of Ours" set "Number" = 'e' || "Number" """)
    assert (0, "desks", EVERYTHING, ()) in take_events(office)
    assert "has changed, so each write counts as a change of all" in notices[0]


def test_a_column_whose_type_changed_is_still_compared(office: TestDatabase) -> None:
    """Some types have no equality."""
    office.query("""alter table "Desks of Ours" alter column label type json using null""")
    office.query("""update "Desks of Ours" set label = '{}' where "Number" = 'd1'""")
    assert take_events(office) == {(1, "desks", None, ("d1",)), (0, "used_floors", None, ("2",))}


def test_without_an_outbox_a_change_cannot_commit(office: TestDatabase) -> None:
    """The mirror would lose the change."""
    office.query("alter table mirror.outbox rename to elsewhere")
    with pytest.raises(psycopg.errors.UndefinedTable, match=r"mirror\.outbox"):
        office.query("""delete from "Desks of Ours" where "Number" = 'd1'""")
    assert office.value("""select count(*) from "Desks of Ours" where "Number" = 'd1'""") == 1


def test_the_printed_triggers_can_be_installed_again_and_removed(office: TestDatabase) -> None:
    """Any client can run the printed SQL, in one transaction."""
    before = installed(office)
    assert {(name, enabled) for table_, name, enabled in before if table_ == '"House".floors'} == {
        (f"mirror_house_{operation}", "A")
        for operation in ("insert", "update", "delete", "truncate")
    }
    with office.connect() as connection, connection.transaction():
        connection.execute(triggers_sql(house))
    assert installed(office) == before
    with office.connect() as connection, connection.transaction():
        connection.execute(removal_sql(house))
    assert installed(office) == set()
    assert (
        office.query(
            "select proname from pg_proc where pronamespace = 'mirror'::regnamespace"
            " and proname like 'capture%%'"
        )
        == []
    )
    assert install(office, house) == ["triggers_house"]


def test_a_changed_mapping_replaces_the_triggers(office: TestDatabase) -> None:
    """Tables that no mapping reads any more lose their triggers; triggers of other models stay."""
    with office.migrating() as connection:
        clubs.Base.metadata.create_all(connection)
    install(office, clubs.registry)
    of_clubs = {row for row in installed(office) if row[1].startswith("mirror_clubs_")}
    assert of_clubs
    smaller = Registry("house", [used_floors])
    with office.migrating() as connection:
        assert upgrade(connection, "primary", smaller) == ["triggers_house"]
        assert upgrade(connection, "primary", smaller) == []
    tables = {table_ for table_, name, _ in installed(office) if name.startswith("mirror_house_")}
    assert tables == {'"Desks of Ours"'}
    assert of_clubs <= installed(office)
    office.query("""update "Desks of Ours" set free = false where "Number" = 'd1'""")
    assert take_events(office) == {(0, "used_floors", None, ("2",))}


def test_installing_triggers_causes_no_deadlock_with_a_writer(office: TestDatabase) -> None:
    """A writer that holds one table and waits for another goes first."""
    office.query(removal_sql(house))
    sleeping = (
        "select count(*) from pg_stat_activity"
        " where datname = current_database() and wait_event = 'PgSleep'"
    )
    with office.connect(autocommit=False) as writer:
        writer.execute('update "House".floors set open = false')
        installing = Running(lambda: install(office, house))
        until(lambda: office.value(sleeping))
        writer.execute("""update "Desks of Ours" set free = false""")
    assert installing.wait() == ["triggers_house"]


def test_a_migration_installs_triggers_only_if_asked_to(primary: TestDatabase) -> None:
    """A deployment that calls hooks stays as it is."""
    with primary.migrating() as connection:
        upgrade(connection, "primary", clubs.registry)
    assert installed(primary) == set()


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("drop table floors cascade", r'table "House"\.floors, which does not exist here'),
        (
            "alter table floors drop column open",
            r'column open of "House"\.floors, which does not exist',
        ),
        (
            "alter table floors rename to all_of; create view floors as select * from all_of",
            r'reads "House"\.floors, which is no table',
        ),
    ],
)
def test_a_source_that_cannot_be_watched_is_named(
    office: TestDatabase, before: str, expected: str
) -> None:
    """No part of the triggers is installed."""
    office.query(removal_sql(house))
    office.query(f'set search_path = "House"; {before}')
    with pytest.raises(NotMigrated, match=expected):
        install(office, house)
    assert installed(office) == set()


def test_a_downgrade_leaves_no_trigger(office: TestDatabase) -> None:
    """Otherwise each write would call a function that does not exist any more."""
    with office.migrating() as connection:
        downgrade(connection)
    assert installed(office) == set()
    office.query("""delete from "Desks of Ours" where "Number" = 'd1'""")


def test_a_writer_without_any_library_is_mirrored(make_backend: MakeBackend) -> None:
    """The example of docs/capture.md: plain SQL through psql, or a service in any language."""
    backend = make_backend("triggers")
    backend.populate()
    script = """
        begin;
        update people set auth_id = '00000000-0000-0000-0000-000000000003' where id = 30;
        delete from members where club_id = 1 and person_id = 10;
        commit;
    """
    psql = postgres_programs(16) / "psql"
    subprocess.run(
        [psql, backend.primary.url, "--quiet", "--set=ON_ERROR_STOP=1", "--file=-"],
        input=script,
        text=True,
        check=True,
        capture_output=True,
    )
    backend.mirror()
    rows: Any = backend.mirrored()["memberships"]
    assert {club_person[:2] for club_person in rows} == {
        ("1", str(BERT)),
        ("1", "00000000-0000-0000-0000-000000000003"),
        ("2", str(ANNA)),
        ("2", str(BERT)),
    }


def test_a_row_with_a_null_in_its_only_reference_means_everything(
    primary_cluster: PostgresCluster,
) -> None:
    """No value could name its rows, and they must not be missed."""
    guests = table(
        "guests", column("club", Text), column("name", Text), column("invited_by", BigInteger)
    )
    rooms = table("rooms", column("id", BigInteger), column("club", Text))
    mapping = Mapping(
        name="guests",
        table="guests",
        key=("room_id", "name"),
        columns=(Column("room_id", "bigint"), Column("name", "text")),
        query=select(rooms.c.id.label("room_id"), guests.c.name, guests.c.invited_by).join(
            guests, guests.c.club == rooms.c.club
        ),
        references=(
            Reference("invited_by", "bigint", table="guests"),
            Reference("room_id", "bigint", table="rooms"),
        ),
    )
    primary_cluster.create_database("invitations")
    database = TestDatabase(primary_cluster.url("invitations"))
    database.query("""
        create table guests (club text, name text, invited_by bigint);
        create table rooms (id bigint, club text);
    """)
    install(database, Registry("party", [mapping]))
    everything = (0, "guests", EVERYTHING, ())
    database.query("insert into guests values ('a', 'x', 7)")
    assert take_events(database) == {(1, "guests", "invited_by", ("7",))}
    database.query("insert into guests values ('a', 'y', null)")
    assert take_events(database) == {(1, "guests", EVERYTHING, ())}
    database.query("update guests set invited_by = null where name = 'x'")
    assert take_events(database) == {(0, "guests", "invited_by", ("7",)), everything}
    database.query("update guests set invited_by = 8 where name = 'y'")
    assert take_events(database) == {(0, "guests", "invited_by", ("8",)), everything}
    database.query("delete from guests where name = 'x'")
    assert take_events(database) == {everything}
    primary_cluster.drop_database("invitations")


def test_a_cast_of_another_role_gets_none_of_the_mirrors_rights(office: TestDatabase) -> None:
    """Its casts are functions of its creator; triggers run with the rights of their installer."""
    boxes = table("boxes", column("id", BigInteger), column("content", Text))
    by_content = Mapping(
        name="contents",
        table="contents",
        key=("content",),
        columns=(Column("content", "text"), Column("id", "bigint")),
        query=select(boxes.c.content, boxes.c.id).distinct(),
    )
    office.query("""
        create table heard (who text);
        create type trap as (a int);
        create function spring(trap) returns text language sql as
          $$insert into public.heard values (current_user) returning 'x'$$;
        create cast (trap as text) with function spring(trap) as implicit;
        create table boxes (id trap, content text);
    """)
    install(office, Registry("boxes", [by_content]))
    office.query("insert into boxes values (row(1), 'a'), (row(2), 'b')")
    take_events(office)
    office.query("update boxes set id = row(3)")
    assert take_events(office) == {(0, "contents", None, ("a",)), (0, "contents", None, ("b",))}
    office.query("alter table boxes alter column content type trap using row(1)")
    office.query("update boxes set content = row(3)")
    office.query("delete from boxes")
    assert take_events(office) == {(0, "contents", EVERYTHING, ())}
    assert office.query("select who from heard") == []


def test_registries_and_tables_with_confusable_names_share_no_function(
    office: TestDatabase,
) -> None:
    """Each has its own functions."""
    office.query("create table b_c (id bigint); create table c (id bigint)")
    for registry, source in (("a", "b_c"), ("a_b", "c")):
        found = table(source, column("id", BigInteger))
        mapping = Mapping(
            name=f"of_{source}",
            table=source,
            key=("id",),
            columns=(Column("id", "bigint"),),
            query=select(found.c.id),
        )
        install(office, Registry(registry, [mapping]))
    office.query("insert into b_c values (1); insert into c values (2)")
    assert take_events(office) == {(1, "of_b_c", None, ("1",)), (1, "of_c", None, ("2",))}
