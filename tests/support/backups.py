"""Base backups of a test's servers: restored in place, or started as a copy at another port."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mirror.devstack import PostgresCluster
from mirror.devstack.process import launch_on_free_port


def back_up(cluster: PostgresCluster, name: str) -> Path:
    """Take a base backup of a running server; return its directory."""
    backup = cluster.directory / name
    subprocess.run(
        [
            str(cluster._programs / "pg_basebackup"),
            f"--dbname={cluster.url()}",
            f"--pgdata={backup}",
            "--checkpoint=fast",
            "--wal-method=stream",
            "--no-sync",
        ],
        check=True,
        capture_output=True,
        **cluster._account.popen_options(),
    )
    return backup


def restore(cluster: PostgresCluster, backup: Path) -> None:
    """Put a backup in the place of a server's data, and start the server again."""
    cluster.stop()
    shutil.rmtree(cluster._data)
    _copy(cluster, backup, cluster._data)
    cluster.restart()


@contextmanager
def running_copy(cluster: PostgresCluster, backup: Path) -> Iterator[PostgresCluster]:
    """Run a second server with the data of a backup, on the same host and another port."""
    copy = PostgresCluster(
        backup.with_name(f"{backup.name}_copy"),
        programs=cluster._programs,
        account=cluster._account,
        version=cluster.version,
        superuser=cluster.superuser,
        durable=cluster._durable,
    )
    copy.password = cluster.password
    copy.directory.mkdir(mode=0o755)
    cluster._account.give(copy.directory)
    _copy(cluster, backup, copy._data)
    copy.port, copy._process = launch_on_free_port(copy._launch)
    with copy:
        yield copy


def _copy(cluster: PostgresCluster, backup: Path, data: Path) -> None:
    shutil.copytree(backup, data)
    for path in (data, *data.rglob("*")):
        cluster._account.give(path)
