"""Databases of the model `clubs`, and backends whose changes are captured."""

from collections.abc import Callable, Iterator

import pytest

from mirror.devstack import PostgresCluster
from mirror.schema import removal_sql
from mirror.schema.migrate import upgrade
from mirror.settings import load_settings
from mirror.sync.drain import Drain
from tests.capture import clubs
from tests.capture.backend import CapturedBackend
from tests.support.databases import TestDatabase
from tests.support.drains import making_drains


@pytest.fixture(scope="session")
def clubs_primary(primary_cluster: PostgresCluster) -> TestDatabase:
    """A primary with the tables of `clubs` and an outbox; one test after another uses it."""
    primary_cluster.create_database("clubs_primary")
    database = TestDatabase(primary_cluster.url("clubs_primary"))
    with database.migrating() as connection:
        clubs.Base.metadata.create_all(connection)
        upgrade(connection)
    return database


@pytest.fixture(scope="session")
def clubs_target(target_cluster: PostgresCluster, project_template: str) -> TestDatabase:
    """A Supabase project with the model `clubs`; one test after another uses it."""
    target_cluster.create_database("clubs_target", template=project_template, owner="postgres")
    database = TestDatabase(target_cluster.url("clubs_target", user="postgres"))
    with database.migrating() as connection:
        upgrade(connection, "supabase", clubs.registry)
    return database


@pytest.fixture
def primary(clubs_primary: TestDatabase) -> TestDatabase:
    """A primary with the tables of `clubs`, empty and without triggers."""
    clubs_primary.query(removal_sql(clubs.registry))
    clubs_primary.query(
        "truncate companies, clubs, people, members, mirror.outbox, mirror.claims, mirror.retries"
    )
    return clubs_primary


@pytest.fixture
def target(clubs_target: TestDatabase) -> TestDatabase:
    """A project with the model `clubs`, with empty tables, ledgers and scopes."""
    clubs_target.query(
        "truncate people, clubs, memberships, mirror.scopes,"
        " mirror.ledger_people, mirror.ledger_clubs, mirror.ledger_memberships"
    )
    return clubs_target


@pytest.fixture
def make_drain(primary: TestDatabase, target: TestDatabase) -> Iterator[Callable[..., Drain]]:
    """Return a function that makes workers of `clubs`; keyword arguments are settings."""
    settings = load_settings(primary_database_url=primary.url, supabase_db_url=target.url)
    with making_drains(settings, clubs.registry) as make:
        yield make


@pytest.fixture
def make_backend(
    primary: TestDatabase, target: TestDatabase, make_drain: Callable[..., Drain]
) -> Iterator[Callable[[str], CapturedBackend]]:
    """Return a function that makes a backend; its arguments are the ways of capture."""
    made: list[CapturedBackend] = []

    def make(*ways: str) -> CapturedBackend:
        if "triggers" in ways:
            with primary.migrating() as connection:
                upgrade(connection, "primary", clubs.registry, triggers=True)
        made.append(CapturedBackend(primary, target, make_drain(), frozenset(ways)))
        return made[-1]

    yield make
    for backend in made:
        backend.close()
