"""The two databases of a model, and queries on both sides.

A module creates them once. `start` empties both sides, so each test begins with its own rows.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy.orm import Session

from mirror.model.mapping import Mapping as Declaration
from mirror.model.registry import Registry
from mirror.schema import removal_sql
from tests.support.databases import become
from tests.support.example_model import InstalledModel
from tests.support.policy_matrix import Outcome, attempts


class ModelPair:
    """The two databases of a model and a worker between them."""

    def __init__(self, model: InstalledModel, registry: Registry, tables: Iterable[str]) -> None:
        self.registry = registry
        self.model = model
        self.primary, self.target = model.primary, model.target
        self.drain = model.stage.drain
        self.engine = model.primary.engine()
        self._tables = tuple(tables)
        # Open connections for queries on both sides: connecting costs more than most statements.
        self._primary_connection, self._target_connection = (
            model.primary.connect(),
            model.target.connect(),
        )

    def close(self) -> None:
        """Disconnect."""
        self.engine.dispose()
        self._primary_connection.close()
        self._target_connection.close()

    def ask(self, query: str, *parameters: object) -> list[Any]:
        """Run one statement on the primary and return its rows."""
        return _rows(self._primary_connection, query, *parameters)

    def no_triggers(self) -> None:
        """Remove the triggers, so that changes record no event by themselves."""
        self.ask(removal_sql(self.registry))

    def start(self, populate: Callable[[Session], None], *own: str) -> None:
        """Empty both sides, and the tables `own` in the target; fill the primary and mirror it."""
        self.ask(f"truncate {', '.join(self._tables)}, mirror.retries cascade")
        self.ask("truncate mirror.outbox")
        mirrored = [f"{m.schema}.{m.table}, mirror.ledger_{m.name}" for m in self.registry]
        _rows(
            self._target_connection,
            f"truncate {', '.join([*mirrored, *own])}, mirror.scopes cascade",
        )
        with Session(self.engine) as session, session.begin():
            populate(session)
        for mapping in self.registry:
            # The same as `mirror resync`, because there may be no triggers.
            self.ask(
                "insert into mirror.outbox (mapping, reference, key) values (%s, '*', '{}')",
                mapping.name,
            )
        self.mirror()

    @contextmanager
    def change(self) -> Iterator[Session]:
        """Yield a session on the primary; at the end, commit its changes and mirror them."""
        with Session(self.engine) as session, session.begin():
            yield session
        self.mirror()

    def mirror(self) -> None:
        """Drain; assert that both sides have the same rows and that no event failed."""
        self.drain.run()
        assert self.mirrored() == self.wanted()
        assert self.ask("select 1 from mirror.retries") == []

    def mirrored(self) -> dict[str, set[tuple[str | None, ...]]]:
        """Return the target's rows, by mapping."""
        return {
            m.name: _texts(self._target_connection, m, f"{m.schema}.{m.table}")
            for m in self.registry
        }

    def wanted(self) -> dict[str, set[tuple[str | None, ...]]]:
        """Return the rows of the mappings' queries on the primary."""
        return {
            m.name: _texts(self._primary_connection, m, f"({m.sql.replace('%%', '%')}) as q")
            for m in self.registry
        }

    def asked(self, user: UUID | None, query: str, *values: object) -> list[tuple[object, ...]]:
        """Return the rows of a query that a signed-in user sees."""
        return self.asked_by({"": user}, query, *values)[""]

    def asked_by(
        self, users: Mapping[str, UUID | None], query: str, *values: object
    ) -> dict[str, list[tuple[object, ...]]]:
        """Return the rows of a query that each of several signed-in users sees, by name."""
        found = {}
        with self.target.connect(autocommit=False) as connection:
            for name, user in users.items():
                become(connection, user, "authenticated")
                found[name] = connection.execute(query.encode(), values or None).fetchall()
                connection.rollback()
        return found

    def attempts(
        self, statement: str, people: Mapping[str, UUID | None], **values: object
    ) -> dict[str, Outcome]:
        """Return the number of rows that each person's statement reads or writes, or DENIED.

        Each attempt is rolled back. The statement can use `values`, and the caller as
        `%(me)s`.
        """
        parameters = {name: (user, values | {"me": user}) for name, user in people.items()}
        return attempts(self.target, statement, parameters)


def _rows(connection: psycopg.Connection[Any], query: str, *parameters: object) -> list[Any]:
    cursor = connection.execute(query.encode(), parameters or None)
    return cursor.fetchall() if cursor.description else []


def _texts(
    connection: psycopg.Connection[Any], mapping: Declaration, source: str
) -> set[tuple[str | None, ...]]:
    values = ", ".join(f"{column.name}::text" for column in mapping.columns)
    return set(_rows(connection, f"select {values} from {source}"))
