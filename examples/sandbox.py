"""Two databases with an example's model between them, on which its story is played.

`python -m examples.<model>` starts servers of its own for it; everything is gone at the end.
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


class Unexpected(Exception):
    """Raised when a story goes otherwise than it says."""


@dataclass(frozen=True)
class Sandbox:
    """A backend's database, and the project that answers its users."""

    primary_url: str
    target_url: str
    drain: Drain
    log: list[str] = field(default_factory=list)
    """The story so far."""

    def backend(self, statement: str, *parameters: Any) -> Any:
        """Change the primary, and mirror what its triggers recorded; return one value, if any."""
        with psycopg.connect(self.primary_url) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            row = cursor.fetchone() if cursor.description else None
        self.drain.run()
        return row[0] if row else None

    def user(self, user: UUID | None, statement: str, *parameters: Any) -> int:
        """Do something as a signed-in user, for good; return how many rows, or REFUSED."""
        with acting_as(self.target_url, user) as connection:
            try:
                rows = connection.execute(statement.encode(), parameters).rowcount
            except psycopg.errors.InsufficientPrivilege:
                return REFUSED
            connection.commit()
            return rows

    def expect(self, what: str, got: object, wanted: object) -> None:
        """Tell what happened.

        Raises:
            Unexpected: something else did.
        """
        if got != wanted:
            raise Unexpected(f"{what}: {got!r} instead of {wanted!r}")
        self.log.append(what)


@contextmanager
def open_sandbox(
    primary_url: str, target_url: str, registry: Registry, folder: Path
) -> Iterator[Sandbox]:
    """Put a model, and the tables of the example in `folder`, into two empty databases."""
    _tables(primary_url, folder)
    _migrate(primary_url, "primary", registry, triggers=True)
    _migrate(target_url, "supabase", registry)
    _script(target_url, folder / "supabase.sql")
    _migrate(target_url, "supabase", registry, guards=True)
    settings = load_settings(primary_database_url=primary_url, supabase_db_url=target_url)
    with closing(build_drain(settings, registry)) as drain:
        yield Sandbox(primary_url, target_url, drain)


def run_story(story: Callable[[Sandbox], None], registry: Registry, folder: Path) -> None:
    """Start servers, play a story on them, and print it."""
    configure_logging(level="warning")
    with DevStack.start(durable=False) as stack:
        prepare_services(stack.target, "postgres")
        with open_sandbox(stack.primary_url, stack.supabase_db_url, registry, folder) as sandbox:
            try:
                story(sandbox)
            finally:
                sys.stdout.write("".join(f"{line}\n" for line in sandbox.log))


def _tables(url: str, folder: Path) -> None:
    """Make the backend's tables, by whichever of the two the example has."""
    if (folder / "primary.sql").exists():
        _script(url, folder / "primary.sql")
        return
    models = import_module(f"examples.{folder.name}.models")
    with _begin(url) as connection:
        models.Base.metadata.create_all(connection)


def _script(url: str, path: Path) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(path.read_bytes())


def _migrate(url: str, side: Any, registry: Registry, **what: bool) -> None:
    with _begin(url) as connection:
        upgrade(connection, side, registry, **what)


def _begin(url: str) -> AbstractContextManager[Connection]:
    dialect = url.replace("postgresql://", "postgresql+psycopg://", 1)
    return create_engine(dialect, poolclass=NullPool).begin()
