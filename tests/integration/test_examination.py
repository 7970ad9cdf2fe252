"""Examination: an address does not tell databases apart, nor does an identifier of the server."""

import copy
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.devstack import PostgresCluster
from mirror.devstack.process import launch_on_free_port
from mirror.errors import ConfigError
from mirror.schema.examination import examine
from mirror.settings import load_settings
from tests.support.databases import TestDatabase
from tests.support.transaction_pooler import TransactionPooler


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[PostgresCluster]:
    """A server of which copies are made."""
    with PostgresCluster.start(tmp_path / "original", version=16, durable=False) as cluster:
        yield cluster


@pytest.fixture
def base_backup(cluster: PostgresCluster, tmp_path: Path) -> Iterator[PostgresCluster]:
    """A running copy, made by pg_basebackup."""
    clone = copy.copy(cluster)
    clone.directory = cluster._account.server_directory(tmp_path / "copy")
    subprocess.run(
        [
            str(cluster._programs / "pg_basebackup"),
            f"--dbname={cluster.url()}",
            f"--pgdata={clone.directory / 'data'}",
            "--checkpoint=fast",
            "--no-sync",
        ],
        check=True,
        capture_output=True,
        **cluster._account.popen_options(),
    )
    clone.port, clone._process = launch_on_free_port(clone._launch)
    with clone:
        yield clone


def test_a_base_backup_is_another_database(
    cluster: PostgresCluster, base_backup: PostgresCluster
) -> None:
    """It has the same system identifier, the same name and the same oid."""
    identity = (
        "select (select system_identifier from pg_control_system()), oid, datname"
        " from pg_database where datname = current_database()"
    )
    original, other = TestDatabase(cluster.url()), TestDatabase(base_backup.url())
    assert original.query(identity) == other.query(identity)
    examine(
        load_settings(primary_database_url=original.url, supabase_db_url=other.url), ["primary"]
    )


def test_an_address_with_a_pooler_is_the_same_database(primary: TestDatabase) -> None:
    """Neither the order of the two nor the name of the host matters."""
    local = primary.url.replace("127.0.0.1", "localhost")
    with TransactionPooler(primary.url) as pooler:
        for one, other in ((primary.url, pooler.url), (pooler.url, local), (local, primary.url)):
            settings = load_settings(primary_database_url=one, supabase_db_url=other)
            with pytest.raises(ConfigError, match="lead to the same database"):
                examine(settings, ["primary"])
