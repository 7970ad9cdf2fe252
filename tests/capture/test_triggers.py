"""Triggers on the primary's tables: what they record, and what they leave alone."""

import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import BigInteger, Boolean, Text, column, select, table, text

from mirror.devstack import PostgresCluster
from mirror.devstack.binaries import postgres_programs
from mirror.errors import NotMigrated
from mirror.model.mapping import EVERYTHING, Column, Mapping, Reference
from mirror.model.registry import Registry
from mirror.schema import removal_sql, triggers_sql
from mirror.schema.migrate import downgrade, upgrade
from tests.capture import clubs
from tests.capture.backend import ANNA, BERT, CapturedBackend
from tests.capture.outbox import install, taken
from tests.faults.tools import Running
from tests.support.databases import TestDatabase
from tests.support.waiting import until

MakeWorld = Callable[..., CapturedBackend]

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
# Several desks make one row; which of them changes does not matter, as long as the floor is named.
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
    """A primary with quoted names, text keys and a json column, and the triggers of `house`."""
    primary_cluster.create_database("office")
    database = TestDatabase(primary_cluster.url("office"))
    database.query(HOUSE)
    install(database, house)
    yield database
    primary_cluster.drop_database("office")


def installed(database: TestDatabase) -> set[tuple[str, str, str]]:
    """Return (table, trigger, when enabled) of everything of ours."""
    return set(
        database.query(
            "select tgrelid::regclass::text, tgname, tgenabled::text from pg_trigger"
            " where tgname like 'mirror\\_%%'"
        )
    )


def test_each_event_names_its_lane_and_nothing_twice(make_world: MakeWorld) -> None:
    """What may take access away goes first; a name never does."""
    world = make_world("triggers")
    world.populate()
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
        world.primary.query(change)
        assert len(world.events()) == len(expected), change
        assert taken(world.primary) == expected, change


@pytest.fixture
def loose_auth_ids(primary: TestDatabase) -> Iterator[None]:
    """Let two people have the same auth id, until the test is over."""
    primary.query("alter table people drop constraint people_auth_id_key")
    yield
    primary.query("truncate people cascade")
    primary.query("alter table people add constraint people_auth_id_key unique (auth_id)")


@pytest.mark.usefixtures("loose_auth_ids")
def test_old_and_new_keys_are_both_named(make_world: MakeWorld) -> None:
    """Also where two rows swap theirs in one statement."""
    world = make_world("triggers")
    world.populate()
    world.primary.query("update people set auth_id = %s where id = 30", ANNA)
    taken(world.primary)
    world.primary.query(
        "update people set auth_id = case id when 10 then %s::uuid else %s end where id < 30",
        BERT,
        ANNA,
    )
    assert (0, "memberships", "person_id", ("10",)) in taken(world.primary)
    world.primary.query("update people set auth_id = gen_random_uuid() where id = 20")
    assert (0, "people", None, (str(ANNA),)) in taken(world.primary)


def test_names_that_need_quotes_and_types_without_equality(office: TestDatabase) -> None:
    """A json column cannot be compared as such, and must not be why a write fails."""
    office.query("""update "Desks of Ours" set extras = '{"lamp": 1}' where "Number" = 'd1'""")
    assert taken(office) == {(0, "desks", None, ("d1",)), (0, "used_floors", None, ("2",))}
    office.query("""update "Desks of Ours" set extras = '{"lamp": 1}' where "Number" = 'd1'""")
    office.query("""update "Desks of Ours" set "Number" = 'D1' where "Number" = 'd1'""")
    assert taken(office) >= {(0, "desks", None, ("d1",)), (0, "desks", None, ("D1",))}
    office.query('delete from "House".floors where id = 1')
    assert taken(office) == {
        (0, "desks", None, ("d2",)),
        (0, "desks", None, ("d4",)),
        (0, "desks", "floor", ("1",)),
        (0, "used_floors", None, ("1",)),
    }


def test_a_query_with_text_in_it_counts_every_column(office: TestDatabase) -> None:
    """What the text reads cannot be seen."""
    office.query("""update "Desks of Ours" set unrelated = '(1,2)' where "Number" = 'd1'""")
    assert taken(office) == {(0, "used_floors", None, ("2",))}


def test_a_null_names_nothing(office: TestDatabase) -> None:
    """No key has one."""
    office.query("""insert into "Desks of Ours" ("Number", floor) values ('d9', null)""")
    assert taken(office) == {(1, "desks", None, ("d9",))}
    office.query("""update "Desks of Ours" set floor = 1 where "Number" = 'd9'""")
    assert taken(office) == {(0, "desks", None, ("d9",)), (0, "used_floors", None, ("1",))}


def test_every_kind_of_statement_is_seen(office: TestDatabase) -> None:
    """COPY, an upsert, a writing CTE, TRUNCATE, and whoever turns triggers off."""
    rows = 'copy "Desks of Ours" ("Number", floor) from stdin'
    with office.connect() as connection, connection.cursor().copy(rows) as copy:
        copy.write_row(("c1", 1))
        copy.write_row(("c2", 1))
    assert taken(office) == {
        (1, "desks", None, ("c1",)),
        (1, "desks", None, ("c2",)),
        (1, "used_floors", None, ("1",)),
    }
    office.query("""insert into "Desks of Ours" ("Number", floor) values ('c3', 2)""")
    taken(office)
    office.query("""
        insert into "Desks of Ours" ("Number", floor) values ('c3', 1), ('c4', 1)
        on conflict ("Number") do update set floor = excluded.floor
    """)
    assert {key for _, name, _, key in taken(office) if name == "desks"} == {("c3",), ("c4",)}
    office.query("""
        with gone as (delete from "Desks of Ours" where "Number" = 'c3' returning floor)
        update "Desks of Ours" set floor = (select floor + 1 from gone) where "Number" = 'c4'
    """)
    assert {key for _, name, _, key in taken(office) if name == "desks"} == {("c3",), ("c4",)}
    office.query("""
        set session_replication_role = replica;
        update "Desks of Ours" set free = false where "Number" = 'd1'
    """)
    assert (0, "desks", None, ("d1",)) in taken(office)
    office.query('truncate "House".floors cascade')
    assert taken(office) == {(0, "desks", EVERYTHING, ()), (0, "used_floors", EVERYTHING, ())}


def test_a_partitioned_table_is_watched_as_a_whole(primary_cluster: PostgresCluster) -> None:
    """Also a row that moves from one partition to another."""
    primary_cluster.create_database("partitioned")
    database = TestDatabase(primary_cluster.url("partitioned"))
    database.query("""
        create table seats (id bigint, person text, primary key (id)) partition by range (id);
        create table seats_low partition of seats for values from (0) to (10);
        create table seats_high partition of seats for values from (10) to (20);
        insert into seats values (1, 'a');
    """)
    seats = table("seats", column("id", BigInteger), column("person", Text))
    mapping = Mapping(
        name="seats",
        table="seats",
        key=("id",),
        columns=(Column("id", "bigint"), Column("person", "text")),
        query=select(seats.c.id, seats.c.person),
    )
    install(database, Registry("parts", [mapping]))
    database.query("update seats set id = 11 where id = 1")
    assert taken(database) == {(0, "seats", None, ("1",)), (0, "seats", None, ("11",))}
    primary_cluster.drop_database("partitioned")


def test_a_writer_needs_no_rights_on_the_outbox(office: TestDatabase) -> None:
    """Whoever may change the table may be unknown to us; its search_path is its own."""
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
    assert (0, "desks", None, ("d1",)) in taken(office)
    office.query("drop schema trap cascade; drop owned by visitor; drop role visitor")


def test_a_statement_takes_no_transaction_id_of_its_own(office: TestDatabase) -> None:
    """A long transaction of many statements would slow down everybody else's snapshots."""
    with office.connect(autocommit=False) as connection:
        for _ in range(3):
            connection.execute("""update "Desks of Ours" set free = not free""")
        found = connection.execute("""
            select distinct xmin::text::bigint, pg_current_xact_id()::text::bigint % (2^32)::bigint
            from mirror.outbox
        """).fetchall()
    ((of_events, of_transaction),) = found
    assert of_events == of_transaction


@pytest.mark.parametrize(
    "migration",
    [
        'alter table "Desks of Ours" drop column label',
        'alter table "Desks of Ours" rename column free to vacant',
    ],
)
def test_a_table_that_has_changed_since_fails_no_writer(
    office: TestDatabase, migration: str
) -> None:
    """Each write counts as a change of everything, until somebody migrates."""
    office.query("""update "Desks of Ours" set free = free""")
    office.query('alter table "Desks of Ours" drop constraint "Desks of Ours_floor_fkey"')
    office.query(migration)
    with office.connect() as connection:
        told: list[str] = []
        connection.add_notice_handler(lambda notice: told.append(str(notice.message_primary)))
        connection.execute("""update "Desks of Ours" set "Number" = 'e' || "Number" """)
    assert (0, "desks", EVERYTHING, ()) in taken(office)
    assert "has changed, so each write counts as a change of all" in told[0]


def test_a_column_of_another_type_is_compared_all_the_same(office: TestDatabase) -> None:
    """Not every type has an equality."""
    office.query("""alter table "Desks of Ours" alter column label type json using null""")
    office.query("""update "Desks of Ours" set label = '{}' where "Number" = 'd1'""")
    assert taken(office) == {(1, "desks", None, ("d1",)), (0, "used_floors", None, ("2",))}


def test_without_an_outbox_a_change_cannot_commit(office: TestDatabase) -> None:
    """It would be lost to the mirror."""
    office.query("alter table mirror.outbox rename to elsewhere")
    with pytest.raises(psycopg.errors.UndefinedTable, match=r"mirror\.outbox"):
        office.query("""delete from "Desks of Ours" where "Number" = 'd1'""")
    assert office.value("""select count(*) from "Desks of Ours" where "Number" = 'd1'""") == 1


def test_what_is_printed_can_run_again_and_be_taken_away(office: TestDatabase) -> None:
    """Through any client, in one transaction."""
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


def test_a_changed_mapping_replaces_them(office: TestDatabase) -> None:
    """A table that is not read any more is left alone; another model's triggers are, too."""
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
    assert taken(office) == {(0, "used_floors", None, ("2",))}


def test_installing_takes_no_writer_into_a_deadlock(office: TestDatabase) -> None:
    """A writer who holds one table and wants another comes first."""
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


def test_nobody_gets_triggers_who_did_not_ask(primary: TestDatabase) -> None:
    """A deployment that calls hooks goes on as before."""
    with primary.migrating() as connection:
        upgrade(connection, "primary", clubs.registry)
    assert installed(primary) == set()


@pytest.mark.parametrize(
    ("before", "told"),
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
def test_what_cannot_be_watched_is_named(office: TestDatabase, before: str, told: str) -> None:
    """And nothing is installed by halves."""
    office.query(removal_sql(house))
    office.query(f'set search_path = "House"; {before}')
    with pytest.raises(NotMigrated, match=told):
        install(office, house)
    assert installed(office) == set()


def test_a_downgrade_leaves_no_trigger(office: TestDatabase) -> None:
    """Or each write would look for a function that is gone."""
    with office.migrating() as connection:
        downgrade(connection)
    assert installed(office) == set()
    office.query("""delete from "Desks of Ours" where "Number" = 'd1'""")


def test_a_writer_without_any_library_is_mirrored(make_world: MakeWorld) -> None:
    """The example of docs/capture.md: plain SQL through psql, or a service in any language."""
    world = make_world("triggers")
    world.populate()
    script = """
        begin;
        update people set auth_id = '00000000-0000-0000-0000-000000000003' where id = 30;
        delete from members where club_id = 1 and person_id = 10;
        commit;
    """
    psql = postgres_programs(16) / "psql"
    subprocess.run(
        [psql, world.primary.url, "--quiet", "--set=ON_ERROR_STOP=1", "--file=-"],
        input=script,
        text=True,
        check=True,
        capture_output=True,
    )
    world.mirror()
    rows: Any = world.mirrored()["memberships"]
    assert {club_person[:2] for club_person in rows} == {
        ("1", str(BERT)),
        ("1", "00000000-0000-0000-0000-000000000003"),
        ("2", str(ANNA)),
        ("2", str(BERT)),
    }


def test_a_row_that_counts_with_a_null_for_what_ties_it_means_everything(
    primary_cluster: PostgresCluster,
) -> None:
    """Nothing could name the rows that it is in, and they must not be missed."""
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
    assert taken(database) == {(1, "guests", "invited_by", ("7",))}
    database.query("insert into guests values ('a', 'y', null)")
    assert taken(database) == {(1, "guests", EVERYTHING, ())}
    database.query("update guests set invited_by = null where name = 'x'")
    assert taken(database) == {(0, "guests", "invited_by", ("7",)), everything}
    database.query("update guests set invited_by = 8 where name = 'y'")
    assert taken(database) == {(0, "guests", "invited_by", ("8",)), everything}
    database.query("delete from guests where name = 'x'")
    assert taken(database) == {everything}
    primary_cluster.drop_database("invitations")


def test_a_type_of_somebody_elses_gets_none_of_our_rights(office: TestDatabase) -> None:
    """Its casts are functions of whoever made it, and these triggers run as whoever installed."""
    boxes = table("boxes", column("id", BigInteger), column("content", Text))
    by_content = Mapping(
        name="contents",
        table="contents",
        key=("content",),
        columns=(Column("content", "text"), Column("id", "bigint")),
        query=select(boxes.c.content, boxes.c.id).distinct(),
    )
    by_id = Mapping(
        name="boxes",
        table="boxes",
        key=("id",),
        columns=(Column("id", "bigint"), Column("content", "text")),
        query=select(boxes.c.id, boxes.c.content),
    )
    office.query("""
        create table heard (who text);
        create type trap as (a int);
        create function spring(trap) returns text language sql as
          $$insert into public.heard values (current_user) returning 'x'$$;
        create cast (trap as text) with function spring(trap) as implicit;
        create table boxes (id trap, content trap);
    """)
    install(office, Registry("boxes", [by_content, by_id]))
    office.query("insert into boxes values (row(1), row(1)), (row(2), row(2))")
    office.query("update boxes set content = row(3)")
    office.query("update boxes set id = row(3)")
    office.query("delete from boxes")
    assert office.query("select who from heard") == []
    assert (0, "contents", None, ("(3)",)) in taken(office)


def test_two_registries_whose_names_run_into_their_tables(office: TestDatabase) -> None:
    """Each has functions of its own."""
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
    assert taken(office) == {(1, "of_b_c", None, ("1",)), (1, "of_c", None, ("2",))}
