"""Servers that a whole test run shares: real PostgreSQL, by default 16 and 18, and Valkey."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.devstack import PostgresCluster, RedisServer, prepare_cluster
from tests.matrix import programs

# Where files are memory, on Linux. A disk makes the copies of databases take half of a run.
_MEMORY = Path("/dev/shm")  # noqa: S108 - in a directory of this run's own
_PREFIX = "permission-mirror-tests-"
_ENOUGH = 2 << 30


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for the files of servers, in memory where there is enough of it."""
    if not _MEMORY.is_dir() or shutil.disk_usage(_MEMORY).free < _ENOUGH:
        yield tmp_path_factory.mktemp("servers")
        return
    # A run that was killed has left its own.
    for left in _MEMORY.glob(f"{_PREFIX}*"):
        if not Path("/proc", left.name.removeprefix(_PREFIX).partition("-")[0]).exists():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-", dir=_MEMORY) as directory:
        # Under root, servers run under another account, which has to pass.
        Path(directory).chmod(0o711)
        yield Path(directory)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run choose other servers; see tests.matrix.py."""
    for name in ("primary", "target"):
        parser.addoption(f"--{name}", type=int, help=f"the PostgreSQL version of the {name}")


@pytest.fixture(scope="session")
def primary_cluster(data: Path, pytestconfig: pytest.Config) -> Iterator[PostgresCluster]:
    """PostgreSQL 16, or what the run chose, as the backend's primary."""
    version = pytestconfig.getoption("primary")
    with PostgresCluster.start(
        data / "primary", version=version or 16, programs=programs(version), durable=False
    ) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def target_cluster(data: Path, pytestconfig: pytest.Config) -> Iterator[PostgresCluster]:
    """PostgreSQL 18, or what the run chose, with the roles of a Supabase project."""
    version = pytestconfig.getoption("target")
    with PostgresCluster.start(
        data / "target",
        version=version or 18,
        programs=programs(version),
        superuser="supabase_admin",
        durable=False,
    ) as cluster:
        prepare_cluster(cluster)
        yield cluster


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, which it may stop, pause or kill."""
    with RedisServer.start(tmp_path / "redis") as server:
        yield server
