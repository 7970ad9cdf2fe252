"""An installed model changes: columns, references and mappings come and go."""

from dataclasses import replace
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import BigInteger, column, select, table

from mappings.trips import registry as trips_registry
from mirror.errors import NotMigrated, WrongMapping
from mirror.model.mapping import Column, Mapping
from mirror.model.registry import Registry
from mirror.schema.migrate import upgrade
from mirror.settings import load_settings
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_drain
from tests.faults import teams
from tests.faults.tools import DirectWriter, record
from tests.support.databases import TestDatabase

_seats = table("seats", column("id", BigInteger), column("workspace_id", BigInteger))

SMALL_SEATS = replace(
    teams.seats,
    columns=(Column("id", "bigint"),),
    query=select(_seats.c.id, _seats.c.workspace_id),
    references=teams.seats.references[:1],
)
"""An earlier version of seats, without person and company."""


def model(*mappings: Mapping) -> Registry:
    """Return another version of the model `teams`."""
    return Registry("teams", mappings)


def migrate(target: TestDatabase, registry: Registry) -> None:
    """Upgrade the target to a model."""
    with target.migrating() as connection:
        upgrade(connection, "supabase", registry)


@pytest.fixture
def small(teams_primary: TestDatabase, project: TestDatabase) -> TestDatabase:
    """A target that mirrors two seats of the small model."""
    teams_primary.query("insert into companies values (1)")
    teams_primary.query("insert into workspaces values (7, 1)")
    teams_primary.query("insert into seats values (1, 7, 'ada'), (2, 7, 'bob')")
    migrate(project, model(SMALL_SEATS))
    drain(teams_primary, project, model(SMALL_SEATS), "seats")
    assert project.query("select * from seats order by id") == [(1,), (2,)]
    return project


def drain(primary: TestDatabase, target: TestDatabase, registry: Registry, *resynced: str) -> None:
    """Queue some mappings as a whole, then mirror all events."""
    for name in resynced:
        record(primary, name, reference="*")
    worker: Drain = build_drain(
        load_settings(primary_database_url=primary.url, supabase_db_url=target.url), registry
    )
    assert worker.run().failed == 0
    worker.close()


def test_a_new_column_and_a_new_reference_are_there_after_a_resync(
    teams_primary: TestDatabase, small: TestDatabase
) -> None:
    """The upgrade adds both; after the resync the new reference finds its rows."""
    migrate(small, model(teams.seats))
    assert small.query("select * from seats order by id") == [(1, None), (2, None)]
    drain(teams_primary, small, model(teams.seats), "seats")
    assert small.query("select * from seats order by id") == [(1, "ada"), (2, "bob")]
    assert small.query("select distinct ref_company_id from mirror.ledger_seats") == [(1,)]
    teams_primary.query("update workspaces set archived = true")
    record(teams_primary, "seats", 1, reference="company_id")
    drain(teams_primary, small, model(teams.seats))
    assert small.query("select * from seats") == []


def test_a_new_reference_has_the_same_constraints_as_one_of_the_first_day(
    small: TestDatabase, teams_target: TestDatabase
) -> None:
    """Workers that write one key for the first time at once need these constraints."""
    migrate(small, model(teams.seats))
    query = (
        "select conname::text, pg_get_constraintdef(oid) from pg_constraint"
        " where conrelid = 'mirror.ledger_seats'::regclass and contype <> 'n' order by 1"
    )
    assert small.query(query) == teams_target.query(query)
    assert len(small.query(query)) == 3


def test_a_column_that_becomes_a_reference_is_known_at_once(
    teams_primary: TestDatabase, small: TestDatabase
) -> None:
    """Without a resync, the reference finds rows that were mirrored before."""
    columns = (*teams.seats.columns, Column("company_id", "bigint"))
    before = model(replace(teams.seats, columns=columns, references=teams.seats.references[:1]))
    migrate(small, before)
    drain(teams_primary, small, before, "seats")
    migrate(small, model(replace(teams.seats, columns=columns)))
    assert small.query("select distinct ref_company_id from mirror.ledger_seats") == [(1,)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("alter table seats add note text", "a column note that is not declared"),
        ("alter table seats rename id to number", r"another primary key: \(number\), not \(id\)"),
        ("alter table seats alter person set not null", "a column person that may not be null"),
        (
            "alter table mirror.ledger_seats alter ref_company_id type text",
            "table mirror.ledger_seats exists and its column ref_company_id is text, not bigint",
        ),
    ],
)
def test_every_other_change_is_refused_by_name(
    teams_target: TestDatabase, change: str, expected: str
) -> None:
    """Although the mirror created the table itself."""
    teams_target.query(change)
    teams_target.query("delete from mirror.migrations")
    with pytest.raises(NotMigrated, match=expected):
        migrate(teams_target, teams.registry)


def test_a_mapping_that_moves_to_a_table_that_exists_does_not_trust_it(
    teams_target: TestDatabase,
) -> None:
    """The policies of the existing table could let any user read its rows."""
    teams_target.query("create table chairs (id bigint primary key, person text)")
    teams_target.query("create policy everybody on chairs using (true)")
    moved = model(replace(teams.seats, table="chairs"), teams.folders, teams.documents)
    with pytest.raises(
        NotMigrated, match=r"table public\.chairs exists and has a policy everybody"
    ):
        migrate(teams_target, moved)


def test_no_user_reads_the_table_of_a_dropped_mapping(
    target: TestDatabase, writer: DirectWriter
) -> None:
    """Its table and rows stay; the other mappings work without it."""
    user = str(uuid4())
    trip = str(uuid4())
    writer.apply(1, users={user: (user, "e", "ada")}, trips={trip: (trip, "t", user)})
    writer.apply(1, trip_memberships={(trip, user): (trip, user, "OWNER", "ACTIVE")})
    grants = "select mirror.my_trips('MEMBER')::text[], mirror.is_trip_member(%s)"
    with target.acting_as(user) as connection:
        assert connection.execute(grants, [trip]).fetchall() == [([trip], True)]
    with target.acting_as(user) as connection:
        assert connection.execute("select username from users").fetchall() == [("ada",)]
    fewer = Registry("trips", [replace(trips_registry["trips"])])
    migrate(target, fewer)
    assert target.value("select username from users") == "ada"
    assert target.query("select name from mirror.mappings") == [("trips",)]
    assert not target.value("select has_any_column_privilege('authenticated', 'users', 'select')")
    assert target.query("select from pg_policy where polrelid = 'users'::regclass") == []
    # Policies outside the mirror may call these functions, so they stay, and grant nothing.
    with target.acting_as(user) as connection:
        assert connection.execute(grants, [trip]).fetchall() == [(None, None)]
    for name in ("users", "trip_memberships"):
        with (
            target.acting_as(user) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(f"select 1 from {name}".encode())
    with pytest.raises(WrongMapping):
        writer.apply(2, users={user: None})
    # When the mapping returns, its table is checked like one that existed before the mirror.
    migrate(target, trips_registry)
    writer.apply(2, users={user: None})
    assert target.query("select * from users") == []


def test_a_parent_that_is_dropped_holds_no_child_back(teams_target: TestDatabase) -> None:
    """No more rows of the parent arrive, so a foreign key to it would refuse every document."""
    orphaned = model(teams.seats, replace(teams.documents, parents=()))
    migrate(teams_target, orphaned)
    writer = DirectWriter.at(teams_target.url, orphaned)
    writer.apply(1, documents={1: ("1", "99", "no folder")})
    writer.target.close()
    assert teams_target.query("select * from documents") == [(1, 99, "no folder")]


def test_another_model_in_the_same_target_is_left_alone(target: TestDatabase) -> None:
    """It has its own migration and its own deployment."""
    grants = (
        "select relacl::text, (select count(*) from pg_policy where polrelid = c.oid)"
        " from pg_class as c where oid = 'public.users'::regclass"
    )
    before = target.query(grants)
    migrate(target, teams.registry)
    migrate(target, model(teams.seats))
    assert target.query(grants) == before
    assert target.query("select name, model from mirror.mappings order by 1") == [
        ("seats", "teams"),
        ("trip_memberships", "trips"),
        ("trips", "trips"),
        ("users", "trips"),
    ]


def test_another_models_mapping_is_not_taken_over(teams_target: TestDatabase) -> None:
    """Two mappings with one name would share a ledger."""
    other = Registry("others", [replace(teams.seats, table="chairs")])
    with pytest.raises(NotMigrated, match="mapping seats belongs to model teams"):
        migrate(teams_target, other)


def test_a_worker_that_does_not_know_a_new_child_is_refused_its_parent(
    teams_target: TestDatabase,
) -> None:
    """It would write a folder without its documents, and no worker would read them again."""
    old = DirectWriter.at(teams_target.url, model(teams.seats, teams.folders))
    with pytest.raises(WrongMapping, match="folders"):
        old.apply(1, folders={1: ("1", "plans")})
    old.apply(1, seats={1: ("1", "ada", "1", "1")})
    old.target.close()
