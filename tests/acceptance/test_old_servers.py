"""A PostgreSQL that is too old is refused with one line, and nothing in it changes."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import create_async_engine

from mappings.trips import registry
from mirror.devstack import PostgresCluster
from mirror.errors import ConfigError, ServerTooOld
from mirror.schema.migrate import OLDEST, due, upgrade
from mirror.schema.sides import Side
from tests.acceptance.conftest import Command
from tests.matrix import programs
from tests.support.databases import TestDatabase

Old = Callable[[Side], TestDatabase]

SIDES: list[Side] = ["primary", "supabase"]


@pytest.fixture(scope="module")
def old(data: Path) -> Iterator[Old]:
    """Return a function that starts the newest server a side refuses; skip if there is none.

    These versions come only from npm: `make test-postgres` installs them.
    """
    started: dict[int, PostgresCluster] = {}

    def start(side: Side) -> TestDatabase:
        version = OLDEST[side] - 1
        if version not in started:
            try:
                found = programs(version)
            except ConfigError as error:
                pytest.skip(str(error))
            started[version] = PostgresCluster.start(
                data / f"old-{version}", version=version, programs=found, durable=False
            )
        return TestDatabase(started[version].url())

    yield start
    for cluster in started.values():
        cluster.discard()


def untouched(database: TestDatabase) -> bool:
    """Tell whether the database contains no object of the library."""
    return database.value("select to_regnamespace('mirror')") is None


@pytest.mark.usefixtures("no_environment")
@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_migrate_names_the_version_found_and_the_version_needed(
    mirror: Command, old: Old, flags: tuple[str, ...]
) -> None:
    """The error is one line and the exit code is 2; a dry run says the same."""
    primary, target = old("primary"), old("supabase")
    done = mirror("migrate", "primary", *flags, PRIMARY_DATABASE_URL=primary.url)
    assert done.code == 2
    assert done.err.startswith("error: primary: this is PostgreSQL 13."), done.text
    assert "needs 14 or newer" in done.err
    assert done.text.count("\n") == 1
    done = mirror("migrate", "supabase", *flags, SUPABASE_DB_URL=target.url)
    assert done.code == 2
    assert done.err.startswith("error: target: this is PostgreSQL 14."), done.text
    assert "needs 15 or newer" in done.err
    assert done.text.count("\n") == 1
    assert untouched(primary)
    assert untouched(target)


@pytest.mark.usefixtures("no_environment")
def test_the_primary_is_left_alone_if_the_target_is_too_old(
    mirror: Command, old: Old, primary: TestDatabase
) -> None:
    """The command checks both servers before it migrates either."""
    primary.query("drop schema mirror cascade")
    done = mirror("migrate", SUPABASE_DB_URL=old("supabase").url)
    assert (done.code, done.out) == (2, ""), done.text
    assert untouched(primary)


@pytest.mark.parametrize("side", SIDES)
def test_an_upgrade_from_a_program_is_refused_over_any_driver(old: Old, side: Side) -> None:
    """An Alembic revision migrates in the same way, with a synchronous or asynchronous driver."""
    database = old(side)
    message = rf"PostgreSQL {OLDEST[side] - 1}\..*needs {OLDEST[side]} or newer"
    for function in (due, upgrade):
        with pytest.raises(ServerTooOld, match=message), database.migrating() as connection:
            function(connection, side, registry)

    async def migrate() -> None:
        url = database.url.replace("postgresql://", "postgresql+asyncpg://", 1)
        async with create_async_engine(url, poolclass=NullPool).begin() as connection:
            await connection.run_sync(upgrade, side, registry)

    with pytest.raises(ServerTooOld, match=message):
        asyncio.run(migrate())
    assert untouched(database)
