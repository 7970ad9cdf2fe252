"""Servers that a whole test run shares: PostgreSQL 16 and 18, and Redis."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.devstack import PostgresCluster, RedisServer, prepare_cluster

# Files here are in memory (on Linux). On a disk, copying databases takes half of a run.
_MEMORY = Path("/dev/shm")  # noqa: S108 - each run has its own directory in it
_PREFIX = "permission-mirror-tests-"
_ENOUGH = 2 << 30


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for the files of servers, in memory if there is enough of it."""
    if not _MEMORY.is_dir() or shutil.disk_usage(_MEMORY).free < _ENOUGH:
        yield tmp_path_factory.mktemp("servers")
        return
    # A run that was killed has left its directory.
    for leftover in _MEMORY.glob(f"{_PREFIX}*"):
        if not Path("/proc", leftover.name.removeprefix(_PREFIX).partition("-")[0]).exists():
            shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-", dir=_MEMORY) as directory:
        # If root runs the tests, the servers' account must be able to enter the directory.
        Path(directory).chmod(0o711)
        yield Path(directory)


@pytest.fixture(scope="session")
def primary_cluster(data: Path) -> Iterator[PostgresCluster]:
    """PostgreSQL 16, as the backend's primary."""
    with PostgresCluster.start(data / "primary", version=16, durable=False) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def target_cluster(data: Path) -> Iterator[PostgresCluster]:
    """PostgreSQL 18 with the roles of a Supabase project."""
    with PostgresCluster.start(
        data / "target", version=18, superuser="supabase_admin", durable=False
    ) as cluster:
        prepare_cluster(cluster)
        yield cluster


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis server of one test, which can stop, pause or kill it."""
    with RedisServer.start(tmp_path / "redis") as server:
        yield server
