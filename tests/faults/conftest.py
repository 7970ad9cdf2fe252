"""Databases of the model `teams`, workers between them, and three members of a trip."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy.orm import Session

from mappings.trips import registry as trips_registry
from mirror.devstack import PostgresCluster
from mirror.schema.migrate import upgrade
from mirror.settings import Settings
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_target
from tests.faults import teams
from tests.faults.tools import DirectWriter, record
from tests.faults.withheld import Member
from tests.support.databases import TestDatabase
from tests.support.drains import making_drains
from tests.support.factories import MembershipFactory
from tests.support.rest import ServeApi, settings_between


@pytest.fixture(scope="session")
def teams_primary_template(primary_cluster: PostgresCluster) -> str:
    """A primary with the tables of `teams` and an outbox."""
    primary_cluster.create_database("teams_primary_template")
    database = TestDatabase(primary_cluster.url("teams_primary_template"))
    database.query(teams.PRIMARY)
    with database.migrating() as connection:
        upgrade(connection)
    return "teams_primary_template"


@pytest.fixture(scope="session")
def teams_target_template(target_cluster: PostgresCluster, project_template: str) -> str:
    """A Supabase project with the model `teams`."""
    target_cluster.create_database(
        "teams_target_template", template=project_template, owner="postgres"
    )
    database = TestDatabase(target_cluster.url("teams_target_template", user="postgres"))
    with database.migrating() as connection:
        upgrade(connection, "supabase", teams.registry)
    return "teams_target_template"


@pytest.fixture
def teams_primary(
    primary_cluster: PostgresCluster, teams_primary_template: str
) -> Iterator[TestDatabase]:
    """A primary with the tables of `teams`."""
    primary_cluster.create_database("teams_primary", template=teams_primary_template)
    database = TestDatabase(primary_cluster.url("teams_primary"))
    yield database
    database.disconnect()
    primary_cluster.drop_database("teams_primary")


@pytest.fixture
def teams_target(
    target_cluster: PostgresCluster, teams_target_template: str
) -> Iterator[TestDatabase]:
    """A project with the model `teams`."""
    target_cluster.create_database("teams_target", template=teams_target_template, owner="postgres")
    database = TestDatabase(target_cluster.url("teams_target", user="postgres"))
    yield database
    database.disconnect()
    target_cluster.drop_database("teams_target")


@pytest.fixture
def teams_settings(
    transport: str, serve_api: ServeApi, teams_primary: TestDatabase, teams_target: TestDatabase
) -> Settings:
    """Settings of the workers of `teams`."""
    return settings_between(teams_primary, teams_target, transport, serve_api)


@pytest.fixture
def make_teams_drain(teams_settings: Settings) -> Iterator[Callable[..., Drain]]:
    """Return a function that makes workers of `teams`; keyword arguments are settings."""
    with making_drains(teams_settings, teams.registry) as make:
        yield make


@pytest.fixture
def teams_drain(make_teams_drain: Callable[..., Drain]) -> Drain:
    """One worker of `teams`."""
    return make_teams_drain()


@pytest.fixture
def teams_writer(teams_settings: Settings) -> Iterator[DirectWriter]:
    """A writer to the target of `teams`, with fences that the test chooses."""
    writer = DirectWriter(build_target(teams_settings), teams.registry)
    yield writer
    writer.target.close()


@pytest.fixture
def writer(settings: Settings) -> Iterator[DirectWriter]:
    """A writer to the target of the trips model, with fences that the test chooses."""
    writer = DirectWriter(build_target(settings), trips_registry)
    yield writer
    writer.target.close()


@pytest.fixture
def members(session: Session, drain: Drain, primary: TestDatabase) -> list[Member]:
    """Three owners of one trip whom both sides know."""
    first = MembershipFactory.create(role="OWNER")
    others = MembershipFactory.create_batch(2, trip_id=first.trip_id, role="OWNER")
    session.commit()
    found = [(str(member.trip_id), str(member.user_id)) for member in (first, *others)]
    for member in found:
        record(primary, "trip_memberships", *member, lane=1)
    drain.run()
    return found
