"""Servers that a whole test run shares: PostgreSQL, by default 16 and 18, and Valkey."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from mirror.devstack import PostgresCluster, RedisServer, prepare_cluster
from tests.matrix import programs

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


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add options by which a run chooses other versions; see tests/matrix.py."""
    for name in ("primary", "target"):
        parser.addoption(f"--{name}", type=int, help=f"the PostgreSQL version of the {name}")


class SharedCluster(PostgresCluster):
    """A cluster whose databases are created and dropped over one connection."""

    _administration: psycopg.Connection[Any] | None = None

    def _execute(self, statement: sql.Composed) -> None:
        """Run a statement; connect again if the server was restarted meanwhile."""
        if self._administration is not None:
            with suppress(psycopg.OperationalError):
                self._administration.execute("select")
            if self._administration.closed:
                self._administration = None
        if self._administration is None:
            self._administration = psycopg.connect(self.url(), autocommit=True)
        self._administration.execute(statement)

    def discard(self) -> None:
        """Stop at once and delete the data; idempotent."""
        if self._administration is not None:
            self._administration.close()
        super().discard()


@pytest.fixture(scope="session")
def primary_cluster(data: Path, pytestconfig: pytest.Config) -> Iterator[PostgresCluster]:
    """PostgreSQL 16, or what the run chose, as the backend's primary."""
    version = pytestconfig.getoption("primary")
    with SharedCluster.start(
        data / "primary", version=version or 16, programs=programs(version), durable=False
    ) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def target_cluster(data: Path, pytestconfig: pytest.Config) -> Iterator[PostgresCluster]:
    """PostgreSQL 18, or what the run chose, with the roles of a Supabase project."""
    version = pytestconfig.getoption("target")
    with SharedCluster.start(
        data / "target",
        version=version or 18,
        programs=programs(version),
        superuser="supabase_admin",
        durable=False,
    ) as cluster:
        prepare_cluster(cluster)
        yield cluster


@pytest.fixture(scope="session")
def mirror_servers(
    primary_cluster: PostgresCluster, target_cluster: PostgresCluster
) -> tuple[PostgresCluster, PostgresCluster]:
    """The same servers for the plugin `mirror.testing`."""
    return primary_cluster, target_cluster


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis server of one test, which can stop, pause or kill it."""
    with RedisServer.start(tmp_path / "redis") as server:
        yield server
