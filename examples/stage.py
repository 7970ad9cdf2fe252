"""Stage: runs an example's story on two databases, with its model installed in both.

`python -m examples.<model>` starts temporary servers for it.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from mirror.devstack import DevStack
from mirror.model.registry import Registry
from mirror.settings.logs import configure_logging
from mirror.testing import Model, Sandbox, Sandboxes

REFUSED = -1


class UnexpectedResult(Exception):
    """Raised when a step of a story has another result than the story expects."""


@dataclass(frozen=True)
class Stage:
    """A sandbox in which a story runs, and the steps of the story so far."""

    sandbox: Sandbox
    log: list[str] = field(default_factory=list)

    def backend(self, statement: str, *parameters: Any) -> Any:
        """Run a statement on the primary and mirror the change.

        Returns the first value of the first row, or None if the statement returns no row.
        """
        cursor = self.sandbox.primary.execute(statement.encode(), parameters)
        row = cursor.fetchone() if cursor.description else None
        self.sandbox.drain.run()
        return row[0] if row else None

    def user(self, user: UUID | None, statement: str, *parameters: Any) -> int:
        """Run and commit a statement on the target as a signed-in user.

        Returns the number of rows that it read or wrote, or REFUSED. A `user` of None is not signed
        in.
        """
        with self.sandbox.as_user(user).connection() as connection:
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


@cache
def example(registry: Registry, folder: Path) -> Model:
    """Return an example's model: the backend's tables are in `primary.sql`, or in its `models`.

    Each call returns the same object, which `Sandboxes` then installs once.
    """
    primary = folder / "primary.sql"
    return Model(
        registry,
        primary=primary
        if primary.exists()
        else import_module(f"examples.{folder.name}.models").Base.metadata.create_all,
        target=folder / "supabase.sql",
        triggers=True,
    )


def run_story(story: Callable[[Stage], None], registry: Registry, folder: Path) -> None:
    """Start servers, run a story on them, and print its steps."""
    configure_logging(level="warning")
    with (
        DevStack.start(durable=False) as stack,
        Sandboxes(stack.primary, stack.target).open(example(registry, folder)) as sandbox,
    ):
        stage = Stage(sandbox)
        try:
            story(stage)
        finally:
            sys.stdout.write("".join(f"{line}\n" for line in stage.log))
