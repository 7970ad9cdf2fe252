"""A standby of the primary is never read: it may lag, and say that a revoked row is still there."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mappings.trips import registry
from mirror.devstack import PostgresCluster
from mirror.diagnostics.figures import Unknown, read_figures
from mirror.errors import Transient
from mirror.schema.migrate import upgrade
from mirror.settings import Settings, load_settings
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_drain
from tests.faults.tools import record
from tests.support.databases import TestDatabase


@pytest.fixture
def standby(tmp_path: Path) -> Iterator[TestDatabase]:
    """A migrated server with a waiting event and one that was set apart; now it is a standby."""
    with PostgresCluster.start(tmp_path / "standby", version=16, durable=False) as cluster:
        database = TestDatabase(cluster.url())
        with database.migrating() as connection:
            upgrade(connection)
        record(database, "users", "00000000-0000-0000-0000-000000000001")
        database.query(
            "insert into mirror.retries (id, lane, recorded_at, mapping, key, attempts, due_at,"
            " error) values (-1, 0, now(), 'users', '{x}', 1, now(), 'x')"
        )
        cluster.stop()
        (cluster.directory / "data" / "standby.signal").touch()
        cluster.restart()
        assert database.value("select pg_is_in_recovery()")
        yield database


@pytest.fixture
def settings(standby: TestDatabase, target: TestDatabase) -> Settings:
    """Settings of a worker that reads the standby."""
    return load_settings(primary_database_url=standby.url, supabase_db_url=target.url)


@pytest.fixture
def reader(settings: Settings) -> Iterator[Drain]:
    """A worker that reads the standby."""
    with closing(build_drain(settings, registry)) as drain:
        yield drain


def test_a_standby_is_not_read(reader: Drain) -> None:
    """Neither for events of a claim nor for a retry, which only reads."""
    with pytest.raises(Transient, match="standby"), reader.source.snapshot():
        pass
    mapping = registry["users"]
    with pytest.raises(Transient, match="standby"):
        reader.source.read_json([(mapping, ["{00000000-0000-0000-0000-000000000001}"])])


def test_the_figures_of_a_standby_are_unknown(reader: Drain, settings: Settings) -> None:
    """Its events may be another moment's."""
    figures = read_figures(settings, registry, reader.source, reader.target)
    assert isinstance(figures.primary, Unknown)
    assert "standby" in str(figures.primary.error)
