"""Two databases that are as they should be, each made anew for whoever breaks something in it."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mappings.trips import registry
from mirror.assembly import build_drain
from mirror.config import Settings, load_settings
from mirror.devstack import PostgresCluster, RedisServer
from mirror.doctor import Diagnosis, Limits, diagnose
from mirror.migrations import upgrade
from tests.fix_databases import TestDatabase

# What workers, beat and a relay would have left.
_ALIVE = """
insert into mirror.heartbeats (name) values ('sweep'), ('relay')
on conflict (name) do update set seen_at = now()
"""
_ROWS = """
insert into users (id, email, username)
values ('00000000-0000-0000-0000-00000000000a', 'a@example.com', 'a');
insert into trips (id, name, created_by)
values ('00000000-0000-0000-0000-00000000000b', 'Lisbon', '00000000-0000-0000-0000-00000000000a');
insert into trip_memberships (trip_id, user_id, role, status)
values ('00000000-0000-0000-0000-00000000000b', '00000000-0000-0000-0000-00000000000a', 'OWNER',
  'ACTIVE');
"""


class Renewed:
    """A database that is made anew from a template, under one name, after it was used."""

    def __init__(self, cluster: PostgresCluster, name: str, user: str | None) -> None:
        self._cluster = cluster
        self._user = user
        self.name = name
        self.database = TestDatabase(cluster.url(name, user=user))
        self._used = False
        self._kept = f"{name}_kept"

    def keep(self) -> None:
        """Take what the database is now for what it shall be."""
        self._cluster.create_database(self._kept, template=self.name, owner=self._user)

    def renew(self) -> TestDatabase:
        """Return it as it was kept; whoever asks is about to break it."""
        self.mend()
        self._used = True
        return self.database

    def mend(self) -> None:
        """Make it as it was kept, if somebody broke it."""
        if self._used:
            self._cluster.drop_database(self.name)
            self._cluster.create_database(self.name, template=self._kept, owner=self._user)
            self._used = False


class Clinic:
    """A healthy stack, ways to break either side, and the doctor."""

    def __init__(self, primary: Renewed, target: Renewed, redis: RedisServer) -> None:
        self.primary = primary
        self.target = target
        self.redis = redis

    def break_primary(self, script: str) -> TestDatabase:
        """Run a script in the primary."""
        database = self.primary.renew()
        database.query(script)
        return database

    def break_target(self, script: str) -> TestDatabase:
        """Run a script in the target, as the role that migrates."""
        database = self.target.renew()
        database.query(script)
        return database

    def settings(self, **changes: object) -> Settings:
        """Return the settings of a worker between the two."""
        told = {
            "primary_database_url": self.primary.database.url,
            "supabase_db_url": self.target.database.url,
            "redis_url": self.redis.url,
        }
        return load_settings(**(told | changes))

    def diagnose(self, limits: Limits | None = None, **changes: object) -> Diagnosis:
        """Return what the doctor finds with these settings."""
        return diagnose(self.settings(**changes), registry, limits or Limits(hearing=0.2))

    def codes(self, limits: Limits | None = None, **changes: object) -> list[str]:
        """Return what it finds, as codes."""
        return [found.code for found in self.diagnose(limits, **changes).findings]


@pytest.fixture(scope="session")
def healthy(
    primary_cluster: PostgresCluster,
    target_cluster: PostgresCluster,
    primary_template: str,
    target_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Clinic]:
    """A primary with rows and triggers, a target with guards, Redis; everything is mirrored."""
    directory: Path = tmp_path_factory.mktemp("redis")
    primary = Renewed(primary_cluster, "doctor_primary", None)
    target = Renewed(target_cluster, "doctor_target", "postgres")
    primary_cluster.create_database(primary.name, template=primary_template)
    target_cluster.create_database(target.name, template=target_template, owner="postgres")
    with primary.database.migrating() as connection:
        upgrade(connection, "primary", registry, triggers=True)
    primary.database.query(_ROWS)
    with RedisServer.start(directory / "redis") as redis:
        clinic = Clinic(primary, target, redis)
        with closing(build_drain(clinic.settings(), registry)) as drain:
            drain.run()
        primary.database.query(_ALIVE)
        primary.keep()
        target.keep()
        yield clinic


@pytest.fixture
def clinic(healthy: Clinic, no_environment: None) -> Clinic:
    """The same, whatever the test before has broken."""
    healthy.primary.mend()
    healthy.target.mend()
    healthy.primary.database.query("update mirror.heartbeats set seen_at = now()")
    return healthy
