"""The two databases of a model, filled for one test, and queries on both sides."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from mirror.model.registry import Registry
from mirror.schema import removal_sql
from mirror.testing import Sandboxes
from tests.support.example_model import InstalledModel, model


class ModelPair:
    """The two databases of a model and a worker between them."""

    def __init__(self, model: InstalledModel) -> None:
        self.model = model
        self.sandbox = model.stage.sandbox
        self.registry = self.sandbox.registry
        self.primary, self.target = model.primary, model.target
        self.drain, self.engine = self.sandbox.drain, self.sandbox.engine
        self.change, self.mirror = self.sandbox.change, self.sandbox.mirror

    def ask(self, query: str, *parameters: object) -> list[Any]:
        """Run one statement on the primary and return its rows."""
        cursor = self.sandbox.primary.execute(query.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []

    def no_triggers(self) -> None:
        """Remove the triggers, so that changes record no event by themselves."""
        self.ask(removal_sql(self.registry))

    def mirrored(self) -> dict[str, set[tuple[Any, ...]]]:
        """Return the target's rows, by mapping."""
        return {
            mapping.name: set(self.target.query(f"table {mapping.schema}.{mapping.table}"))
            for mapping in self.registry
        }

    def asked(self, user: UUID | None, query: str, *values: object) -> list[tuple[object, ...]]:
        """Return the rows of a query that a signed-in user sees."""
        with self.sandbox.as_user(user).connection() as connection:
            return connection.execute(query.encode(), values or None).fetchall()

    def asked_by(
        self, users: Mapping[str, UUID | None], query: str, *values: object
    ) -> dict[str, list[tuple[object, ...]]]:
        """Return the rows of a query that each of several signed-in users sees, by name."""
        return {name: self.asked(user, query, *values) for name, user in users.items()}


@contextmanager
def model_pair(
    sandboxes: Sandboxes, registry: Registry, populate: Callable[[Session], None]
) -> Iterator[ModelPair]:
    """Yield the databases of an example's model, with these rows on both sides."""
    with model(sandboxes, registry) as installed:
        pair = ModelPair(installed)
        with Session(pair.engine) as session, session.begin():
            populate(session)
        pair.sandbox.resync()
        yield pair
