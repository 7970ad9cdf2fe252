"""Sandbox: runs an example's story on two databases, with its model installed in both.

`python -m examples.<model>` starts temporary servers for it.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import Connection, NullPool, create_engine

from mirror.devstack import DevStack, prepare_services
from mirror.devstack.caller import acting_as
from mirror.model.registry import Registry
from mirror.schema.migrate import upgrade
from mirror.settings import load_settings
from mirror.settings.logs import configure_logging
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_drain

REFUSED = -1


class UnexpectedResult(Exception):
    """Raised when a step of a story has another result than the story expects."""


@dataclass(frozen=True)
class Sandbox:
    """The two databases on which a story runs, and the drain that mirrors from one to the other."""

    primary_url: str
    target_url: str
    drain: Drain
    log: list[str] = field(default_factory=list)
    """The steps of the story so far."""

    def backend(self, statement: str, *parameters: Any) -> Any:
        """Run a statement on the primary and mirror the change.

        Returns the first value of the first row, or None if the statement returns no row.
        """
        with psycopg.connect(self.primary_url) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            row = cursor.fetchone() if cursor.description else None
        self.drain.run()
        return row[0] if row else None

    def user(self, user: UUID | None, statement: str, *parameters: Any) -> int:
        """Run and commit a statement on the target as a signed-in user.

        Returns the number of rows that it read or wrote, or REFUSED. A `user` of None is not signed
        in.
        """
        with acting_as(self.target_url, user) as connection:
            try:
                rows = connection.execute(statement.encode(), parameters).rowcount
            except psycopg.errors.InsufficientPrivilege:
                return REFUSED
            connection.commit()
            return rows

    def expect(self, step: str, result: object, expected: object) -> None:
        """Check the result of a step, and log the step.

        Raises:
            UnexpectedResult: the result is not the expected one.
        """
        if result != expected:
            raise UnexpectedResult(f"{step}: {result!r} instead of {expected!r}")
        self.log.append(step)


@contextmanager
def open_sandbox(
    primary_url: str, target_url: str, registry: Registry, folder: Path
) -> Iterator[Sandbox]:
    """Install a model and an example's tables in two empty databases; yield the Sandbox.

    `folder` is the example's folder.
    """
    _create_tables(primary_url, folder)
    _migrate(primary_url, "primary", registry, triggers=True)
    _migrate(target_url, "supabase", registry)
    _run_script(target_url, folder / "supabase.sql")
    _migrate(target_url, "supabase", registry, guards=True)
    settings = load_settings(primary_database_url=primary_url, supabase_db_url=target_url)
    with closing(build_drain(settings, registry)) as drain:
        yield Sandbox(primary_url, target_url, drain)


def run_story(story: Callable[[Sandbox], None], registry: Registry, folder: Path) -> None:
    """Start servers, run a story on them, and print its steps."""
    configure_logging(level="warning")
    with DevStack.start(durable=False) as stack:
        prepare_services(stack.target, "postgres")
        with open_sandbox(stack.primary_url, stack.supabase_db_url, registry, folder) as sandbox:
            try:
                story(sandbox)
            finally:
                sys.stdout.write("".join(f"{line}\n" for line in sandbox.log))


def _create_tables(url: str, folder: Path) -> None:
    """Create the backend's tables from the example's `primary.sql`, or from its `models.py`."""
    if (folder / "primary.sql").exists():
        _run_script(url, folder / "primary.sql")
        return
    models = import_module(f"examples.{folder.name}.models")
    with _begin(url) as connection:
        models.Base.metadata.create_all(connection)


def _run_script(url: str, path: Path) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(path.read_bytes())


def _migrate(url: str, side: Any, registry: Registry, **options: bool) -> None:
    with _begin(url) as connection:
        upgrade(connection, side, registry, **options)


def _begin(url: str) -> AbstractContextManager[Connection]:
    sqlalchemy_url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    return create_engine(sqlalchemy_url, poolclass=NullPool).begin()
