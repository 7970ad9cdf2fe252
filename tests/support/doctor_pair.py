"""Two databases that are as they should be, for tests that break something in them."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from mappings.trips import registry
from mirror.devstack import PostgresCluster, RedisServer
from mirror.diagnostics.doctor import Diagnosis, Limits, diagnose
from mirror.schema.migrate import upgrade
from mirror.settings import Settings, load_settings
from mirror.sync import wiring
from mirror.sync.connections import Database
from mirror.sync.snapshot import Source
from mirror.sync.targets.base import Target
from mirror.sync.targets.postgres import PostgresTarget
from tests.support.databases import TestDatabase

_ROWS = """
insert into users (id, email, username)
values ('00000000-0000-0000-0000-00000000000a', 'a@example.com', 'a');
insert into trips (id, name, created_by)
values ('00000000-0000-0000-0000-00000000000b', 'Lisbon', '00000000-0000-0000-0000-00000000000a');
insert into trip_memberships (trip_id, user_id, role, status)
values ('00000000-0000-0000-0000-00000000000b', '00000000-0000-0000-0000-00000000000a', 'OWNER',
  'ACTIVE');
"""
# What beat and a relay would have left.
_ALIVE = "insert into mirror.heartbeats (name) values ('sweep'), ('relay')"


class BreakableDatabase(Database):
    """A connection whose whole life is one transaction, which never commits.

    What is broken in it is seen by whoever uses it, and by nobody else.
    """

    def execute(
        self, query: str | sql.SQL | sql.Composed, parameters: Any = None, *, binary: bool = False
    ) -> list[Any]:
        """Run one statement; one that fails leaves the others alone."""
        if query == "commit":
            return []
        with self.connection.transaction():
            return super().execute(query, parameters, binary=binary)

    def column_types(self, query: sql.Composed, parameters: Any = None) -> list[int]:
        """The same."""
        with self.connection.transaction():
            return super().column_types(query, parameters)

    def begin(
        self,
        *first: sql.Composable,
        before: Sequence[sql.Composable] = (),
        mode: str = "",  # noqa: ARG002 - like the other
        idle_seconds: float = 60,  # noqa: ARG002 - like the other
        timeout_factor: int = 1,  # noqa: ARG002 - like the other
    ) -> list[list[Any]]:
        """Go on in the transaction."""
        return self.together(*before, *first) if first else []

    def rollback(self) -> None:
        """Go on in the transaction."""


class DoctorPair:
    """A healthy stack, ways to break either side, and the doctor."""

    def __init__(self, primary: TestDatabase, target: TestDatabase, redis: RedisServer) -> None:
        self.primary = primary
        self.target = target
        self.redis = redis
        self._patients: dict[str, BreakableDatabase] = {}

    def break_primary(self, script: str) -> None:
        """Run a script in the primary, for the doctor's next look alone."""
        self._break("primary", self.primary, script)

    def break_target(self, script: str) -> None:
        """Run a script in the target, for the doctor's next look alone."""
        self._break("target", self.target, script)

    def _break(self, side: str, database: TestDatabase, script: str) -> None:
        patient = BreakableDatabase(database.url, role=side)
        patient.connection.execute("begin")
        patient.execute(script)
        self._patients[side] = patient

    def mend(self) -> None:
        """Undo what was broken and not looked at, and what time has worn out."""
        for patient in self._patients.values():
            patient.close()
        self._patients.clear()
        self.primary.query("update mirror.heartbeats set seen_at = now()")

    def build_source(self, settings: Settings) -> Source:
        """Return the primary as it was broken, else as a worker would."""
        source = wiring.build_source(settings)
        source.database = self._patients.pop("primary", source.database)
        return source

    def build_target(self, settings: Settings) -> Target:
        """Return the target as it was broken, else as a worker would."""
        patient = self._patients.pop("target", None)
        return wiring.build_target(settings) if patient is None else PostgresTarget(patient)

    def settings(self, **changes: object) -> Settings:
        """Return the settings of a worker between the two."""
        told = {
            "primary_database_url": self.primary.url,
            "supabase_db_url": self.target.url,
            "redis_url": self.redis.url,
        }
        return load_settings(**(told | changes))

    def diagnose(self, limits: Limits | None = None, **changes: Any) -> Diagnosis:
        """Return what the doctor finds with these settings."""
        return diagnose(self.settings(**changes), registry, limits or Limits())

    def codes(self, limits: Limits | None = None, **changes: Any) -> list[str]:
        """Return what it finds, as codes."""
        return [found.code for found in self.diagnose(limits, **changes).findings]


@pytest.fixture(scope="session")
def healthy(
    primary_cluster: PostgresCluster,
    target_cluster: PostgresCluster,
    primary_template: str,
    target_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DoctorPair]:
    """A primary with rows and triggers, a target with guards, Redis; everything is mirrored."""
    directory: Path = tmp_path_factory.mktemp("clinic")
    primary_cluster.create_database("doctor_primary", template=primary_template)
    target_cluster.create_database("doctor_target", template=target_template, owner="postgres")
    primary = TestDatabase(primary_cluster.url("doctor_primary"))
    target = TestDatabase(target_cluster.url("doctor_target", user="postgres"))
    with RedisServer.start(directory / "redis") as redis:
        clinic = DoctorPair(primary, target, redis)
        with primary.migrating() as connection:
            upgrade(connection, "primary", registry, triggers=True)
        primary.query(_ROWS)
        with closing(wiring.build_drain(clinic.settings(), registry)) as drain:
            drain.run()
        primary.query(_ALIVE)
        yield clinic


@pytest.fixture
def clinic(
    healthy: DoctorPair, no_environment: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DoctorPair]:
    """The same, whatever the test before has broken."""
    monkeypatch.setattr("mirror.diagnostics.doctor.diagnosis.build_source", healthy.build_source)
    monkeypatch.setattr("mirror.diagnostics.doctor.diagnosis.build_target", healthy.build_target)
    healthy.mend()
    yield healthy
    healthy.mend()
