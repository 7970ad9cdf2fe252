"""Servers that a whole test run shares: real PostgreSQL 16 and 18, real Redis."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.devstack import PostgresCluster, RedisServer, prepare_cluster


@pytest.fixture(scope="session")
def primary_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresCluster]:
    """PostgreSQL 16, as the backend's primary."""
    directory: Path = tmp_path_factory.mktemp("primary")
    with PostgresCluster.start(directory / "data", version=16, durable=False) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def target_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresCluster]:
    """PostgreSQL 18 with the roles of a Supabase project."""
    directory: Path = tmp_path_factory.mktemp("target")
    with PostgresCluster.start(
        directory / "data", version=18, superuser="supabase_admin", durable=False
    ) as cluster:
        prepare_cluster(cluster)
        yield cluster


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, which it may stop, pause or kill."""
    with RedisServer.start(tmp_path / "redis") as server:
        yield server
