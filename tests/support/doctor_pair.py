"""Two healthy databases, for tests that break one of them."""

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
# The heartbeats of beat and of a relay.
_ALIVE = "insert into mirror.heartbeats (name) values ('sweep'), ('relay')"


class BreakableDatabase(Database):
    """A connection with a single transaction, which never commits.

    Only this connection sees the changes made in it.
    """

    def execute(
        self, query: str | sql.SQL | sql.Composed, parameters: Any = None, *, binary: bool = False
    ) -> list[Any]:
        """Run one statement in a savepoint, so that its failure does not end the transaction."""
        if query == "commit":
            return []
        with self.connection.transaction():
            return super().execute(query, parameters, binary=binary)

    def column_types(self, query: sql.Composed, parameters: Any = None) -> list[int]:
        """Return the column types of a query, in a savepoint."""
        with self.connection.transaction():
            return super().column_types(query, parameters)

    def begin(
        self,
        *first: sql.Composable,
        ending: Sequence[sql.Composable] = (),  # noqa: ARG002 - as in Database
        before: Sequence[sql.Composable] = (),
        mode: str = "",  # noqa: ARG002 - as in Database
        idle_seconds: float = 60,  # noqa: ARG002 - as in Database
        timeout_factor: int = 1,  # noqa: ARG002 - as in Database
        slow: int = 1,  # noqa: ARG002 - as in Database
    ) -> list[list[Any]]:
        """Continue the open transaction, in a savepoint."""
        with self.connection.transaction():
            return self.together(*before, *first) if first else []

    def rollback(self) -> None:
        """Keep the transaction open."""


class DoctorPair:
    """A healthy primary, target and Redis, ways to break either side, and the doctor."""

    def __init__(self, primary: TestDatabase, target: TestDatabase, redis: RedisServer) -> None:
        self.primary = primary
        self.target = target
        self.redis = redis
        self._broken: dict[str, BreakableDatabase] = {}

    def break_primary(self, script: str) -> None:
        """Run a script in the primary; only the next diagnosis sees its effects."""
        self._break("primary", self.primary.url, script)

    def break_target(self, script: str, *, url: str | None = None) -> None:
        """Run a script in the target; only the next diagnosis sees its effects.

        `url`: the script and the diagnosis use this connection instead of role postgres.
        """
        self._break("target", url or self.target.url, script)

    def _break(self, side: str, url: str, script: str) -> None:
        broken = BreakableDatabase(url, role=side)
        broken.connection.execute("begin")
        broken.execute(script)
        self._broken[side] = broken

    def mend(self) -> None:
        """Undo the scripts that no diagnosis has used yet, and renew the heartbeats."""
        for broken in self._broken.values():
            broken.close()
        self._broken.clear()
        self.primary.query("update mirror.heartbeats set seen_at = now()")

    def build_source(self, settings: Settings) -> Source:
        """Return the primary; if a script broke it since the last diagnosis, the broken one."""
        source = wiring.build_source(settings)
        source.database = self._broken.pop("primary", source.database)
        return source

    def build_target(self, settings: Settings) -> Target:
        """Return the target; if a script broke it since the last diagnosis, the broken one."""
        broken = self._broken.pop("target", None)
        return wiring.build_target(settings) if broken is None else PostgresTarget(broken)

    def settings(self, **changes: object) -> Settings:
        """Return the settings of a worker between the two databases."""
        values = {
            "primary_database_url": self.primary.url,
            "supabase_db_url": self.target.url,
            "redis_url": self.redis.url,
        }
        return load_settings(**(values | changes))

    def diagnose(self, limits: Limits | None = None, **changes: Any) -> Diagnosis:
        """Return the doctor's diagnosis with these settings."""
        return diagnose(self.settings(**changes), registry, limits or Limits())

    def codes(self, limits: Limits | None = None, **changes: Any) -> list[str]:
        """Return the codes of the doctor's findings."""
        return [found.code for found in self.diagnose(limits, **changes).findings]


@pytest.fixture(scope="session")
def healthy(
    primary_cluster: PostgresCluster,
    target_cluster: PostgresCluster,
    primary_template: str,
    target_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DoctorPair]:
    """A primary with rows and triggers, a target with guards, and Redis; every row is mirrored."""
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
    """The healthy pair, repaired before and after each test."""
    monkeypatch.setattr("mirror.diagnostics.doctor.diagnosis.build_source", healthy.build_source)
    monkeypatch.setattr("mirror.diagnostics.doctor.diagnosis.build_target", healthy.build_target)
    healthy.mend()
    yield healthy
    healthy.mend()
