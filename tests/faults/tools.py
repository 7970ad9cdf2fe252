"""Tools of the fault tests: hung workers, made-up fences, removed rules."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from psycopg import sql

from mirror.model.keys import Key
from mirror.model.registry import Registry
from mirror.sync.connections import Database
from mirror.sync.row_queries import JsonRows, Row
from mirror.sync.snapshot import Source, Stamp
from mirror.sync.targets.base import Target
from mirror.sync.targets.postgres import PostgresTarget
from mirror.sync.targets.writing import Answers, ScopePage, Section
from tests.support.databases import TestDatabase
from tests.support.stamps import stamp

Rows = Mapping[Any, Row | None]
"""By key (the bare value if the key has one column): a row, or None if the row is deleted."""


class DirectWriter:
    """Writes to a target directly, with fences that the test chooses."""

    def __init__(self, target: Target, registry: Registry) -> None:
        self.registry = registry
        self.target = target

    @classmethod
    def at(cls, url: str, registry: Registry) -> Self:
        """Return a writer with its own connection to the database."""
        return cls(PostgresTarget(Database(url, role="target")), registry)

    def apply(self, fence: int, *, alone: bool = False, **rows: Rows) -> Answers:
        """Write rows by mapping. Parents count as sent with their children unless `alone`."""
        return self.write(fence, sections(self.registry, rows, alone=alone))

    def write(self, fence: int, batch: Sequence[Section]) -> Answers:
        """Write sections."""
        return self.target.apply(stamp(fence), batch)

    def open(
        self, fence: int, mapping: str, reference: str, *values: object, after: Key = ()
    ) -> list[Key]:
        """Open scopes and return the keys under them that the target knows, those after `after`."""
        page = ScopePage(self.registry[mapping], reference, tuple(map(str, values)), after)
        return self.target.open_scopes(stamp(fence), [page], limit=1000)[0]


class Uncommitted(PostgresTarget):
    """Writes in a transaction that the test has begun, and ends."""

    def _call(
        self,
        function: str,
        *,
        timeout_factor: int = 1,  # noqa: ARG002 - the base class has it
        **arguments: str,
    ) -> Any:
        (name,) = arguments
        query = sql.SQL("select public.{}({} => %s)").format(
            sql.Identifier(f"mirror_{function}"), sql.Identifier(name)
        )
        ((answer,),) = self.database.execute(query, list(arguments.values()))
        return answer


def sections(registry: Registry, rows: Mapping[str, Rows], *, alone: bool = False) -> list[Section]:
    """Return the sections of one apply call."""
    result = []
    for name, desired in rows.items():
        section = Section(registry[name])
        is_parent = bool(registry.children(registry[name]))
        for key, row in desired.items():
            if row is None:
                section.deleted.append(key if isinstance(key, tuple) else (str(key),))
            elif is_parent and not alone:
                section.with_children.append(row)
            else:
                section.rows.append(row)
        result.append(section)
    return result


class HungWorker:
    """A worker that has read some keys and writes them when it wakes."""

    def __init__(
        self, source: Source, target: Target, registry: Registry, mapping: str, keys: Sequence[Key]
    ) -> None:
        self.target = target
        with source.snapshot() as snapshot:
            rows = snapshot.rows(registry[mapping], keys)
            self.stamp = snapshot.stamp
        self.sections = sections(registry, {mapping: {key: rows.get(key) for key in keys}})
        self.mapping = mapping

    def wake(self) -> list[Key]:
        """Write, and return the keys that were refused as stale."""
        return self.target.apply(self.stamp, self.sections)[self.mapping].stale


class Intercepted(Target):
    """A target that calls `before` and `after` around its first apply, then works as usual."""

    def __init__(
        self,
        target: Target,
        *,
        before: Callable[[], object] | None = None,
        after: Callable[[], object] | None = None,
    ) -> None:
        self._target = target
        self._before = before
        self._after = after
        self.calls: list[Sequence[Section | JsonRows]] = []

    def _call(self, function: str, *, timeout_factor: int = 1, **arguments: str) -> Any:
        return self._target._call(function, timeout_factor=timeout_factor, **arguments)

    def close(self) -> None:
        """Close the wrapped target."""
        self._target.close()

    def apply(self, stamp: Stamp, sections: Sequence[Section | JsonRows]) -> Answers:
        """Write, and call the functions that the test gave."""
        self.calls.append(sections)
        if self._before is not None:
            before, self._before = self._before, None
            before()
        answers = self._target.apply(stamp, sections)
        if self._after is not None:
            after, self._after = self._after, None
            after()
        return answers


def rewrite(target: TestDatabase, function: str, rule: str, instead: str) -> None:
    """Remove a rule from a function of the target, to show the harm that the rule prevents."""
    definition = target.value(
        "select pg_get_functiondef(oid) from pg_proc"
        " where pronamespace = 'mirror'::regnamespace and proname = %s",
        function,
    )
    assert rule in definition, f"{function} does not hold this rule any more: {rule}"
    target.query(definition.replace(rule, instead))


class Running:
    """A call that runs in its own thread."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], object]) -> None:
        try:
            self.result = call()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            self.error = error

    @property
    def ended(self) -> bool:
        """Whether the call has returned or raised."""
        return not self._thread.is_alive()

    def wait(self) -> Any:
        """Return the call's result, or raise its error."""
        self._thread.join(30)
        assert self.ended, "it still runs"
        if self.error is not None:
            raise self.error
        return self.result


def waiting(database: TestDatabase) -> bool:
    """Tell whether a session of this database waits for a lock."""
    return bool(
        database.value(
            "select count(*) from pg_stat_activity"
            " where datname = current_database() and wait_event_type = 'Lock'"
        )
    )


def record(
    primary: TestDatabase,
    mapping: str,
    *key: object,
    reference: str | None = None,
    lane: int = 0,
) -> None:
    """Write an event into the outbox with plain SQL, as a user of psql can."""
    primary.query(
        "insert into mirror.outbox (lane, mapping, reference, key) values (%s, %s, %s, %s)",
        lane,
        mapping,
        reference,
        [str(part) for part in key],
    )
