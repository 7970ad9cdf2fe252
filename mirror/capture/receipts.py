"""Receipts: wait until what a transaction changed is what the target says.

A receipt stands for a transaction, not for the hooks called in it, so that it covers events of
triggers, too. When the session's events are written, the transaction's rows in the outbox are
read back; after commit, `wait` looks until none of them is left, nor anything that they led to:
the rest of a large scope, or the children of a parent that were too many to come along with it.
Those are events of the worker's transactions and are known by what they name.

The backend's role may not read the outbox. Two functions of the primary answer for it, with ids,
and with hashes in the place of keys.
"""

import json
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, overload

from sqlalchemy import Connection, Engine, RootTransaction, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from mirror.capture.statements import statement
from mirror.errors import Buried, MirrorError, NotMigrated, StillWaiting, Unreachable, UsageError
from mirror.errors.sqlstates import NO_PRIVILEGE, OUTDATED, may_be_repeated, server_error
from mirror.model.mapping import EVERYTHING
from mirror.model.registry import Registry

# Plenty where a worker runs; who has waited for this long had better answer.
DEFAULT_TIMEOUT: Final = 2.0

_SHORTEST_PAUSE = 0.005
_LONGEST_PAUSE = 0.1

# How many ids a message names.
_NAMED = 10

_READ_RECORDED = text(statement("read_recorded_events"))
_READ_COMMITTED = text(statement("read_committed_events"))
_FIND_WAITING = text(statement("find_still_waiting"))


class RecordedEvents:
    """What one transaction recorded, and how much of it is known to wait still."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._engine: Engine | None = None
        self._carrier: RootTransaction | None = None
        self._transaction: str | None = None
        self._ended = False
        self._committed = False
        self._ids: set[int] = set()
        self._newest = 0
        self._following = 0
        # Names of events to come: exactly these scopes, and any of these mappings' and references'.
        self._scopes: set[tuple[str, str, int]] = set()
        self._anywhere: set[tuple[str, str | None]] = set()

    # In the transaction

    def read(self, connection: Connection) -> bool:
        """Read what the connection's transaction has recorded so far; return if that is anything.

        Raises:
            NotMigrated: the primary cannot tell.
        """
        with _translated():
            transaction, events = connection.execute(_READ_RECORDED).one()
        self._engine = connection.engine
        self._carrier = connection.get_transaction()
        self._transaction = transaction
        self._add(events)
        return bool(self._ids)

    def end(self) -> None:
        """Note that the transaction has ended; if nothing was read before, then not by commit."""
        self._ended = True

    def _add(self, events: str) -> None:
        for id_, mapping, reference, value in json.loads(events):
            self._ids.add(id_)
            self._newest = max(self._newest, id_)
            if reference == EVERYTHING:
                # One that fails is replaced by its keys.
                self._anywhere |= {(mapping, EVERYTHING), (mapping, None)}
            elif reference is not None:
                self._scopes.add((mapping, reference, value))
            for child, column in self._children(mapping):
                if reference is None:
                    self._scopes.add((child, column, value))
                    self._add_below(child)
                else:
                    self._anywhere.add((child, column))
                    self._add_below(child)

    def _add_below(self, mapping: str) -> None:
        """Add everything below a mapping, of which no key is known here."""
        for child, column in self._children(mapping):
            self._anywhere.add((child, column))
            self._add_below(child)

    def _children(self, mapping: str) -> list[tuple[str, str]]:
        # A trigger may have recorded for another model.
        if mapping not in self._registry:
            return []
        found = self._registry.children(self._registry[mapping])
        return [(child.name, parent.column) for child, parent in found]

    # After it

    def engine(self) -> Engine | None:
        """Return where to look; None if there is nothing to wait for.

        Raises:
            UsageError: the transaction has not committed.
        """
        if self._engine is None and self._ended:
            raise UsageError(_ROLLED_BACK)
        if self._engine is None or (self._carrier is not None and self._carrier.is_active):
            raise UsageError(_NOT_COMMITTED)
        return None if self._transaction is None else self._engine

    def look(self, connection: Connection) -> bool:
        """Ask the primary; return whether nothing waits any more.

        Raises:
            UsageError: the transaction has not committed.
            Buried: an event was given up.
        """
        # A look is one statement: no transaction around it, nor a serializable one's conflicts.
        connection.execution_options(isolation_level="AUTOCOMMIT")
        if not self._committed:
            self._look_first(connection)
        if not (self._ids or self._scopes or self._anywhere):
            return True
        question = {
            "transaction": self._transaction,
            "ids": list(self._ids),
            "scopes": list(self._scopes),
            "anywhere": list(self._anywhere),
            "newest": self._newest,
        }
        (answer,) = connection.execute(_FIND_WAITING, {"question": json.dumps(question)}).one()
        found = json.loads(answer)
        # What is gone from outbox and retries does not come back.
        self._ids = {*found["waiting"], *found["buried"]}
        self._following = found["following"]
        if found["buried"]:
            raise _buried(found["buried"])
        return not self._ids and not self._following

    def _look_first(self, connection: Connection) -> None:
        """Make sure that the transaction has committed, and read what COMMIT itself recorded."""
        status, events = connection.execute(
            _READ_COMMITTED, {"transaction": self._transaction}
        ).one()
        if status == "aborted":
            raise UsageError(_ROLLED_BACK)
        if status == "in progress":
            raise UsageError(_NOT_COMMITTED)
        self._add(events)
        self._committed = True
        self._carrier = None

    def still_waiting(self, seconds: float) -> StillWaiting:
        """Return the error that says what waits."""
        pending = len(self._ids) + self._following
        told = f" ({_list(self._ids)})" if self._ids else ", which others led to,"
        return StillWaiting(
            f"{pending} event(s){told} have not reached the target within {seconds:g} s and are "
            f"still on their way. If that is usual, see `mirror status`: is a worker running?",
            pending=pending,
            events=tuple(sorted(self._ids)),
        )


@dataclass(frozen=True, eq=False)
class Receipt:
    """Stands for the events of one transaction; see `mirror.hooks.wait`."""

    recorded: RecordedEvents


@dataclass(frozen=True, eq=False)
class AsyncReceipt:
    """The same for asyncio: `await hooks.wait(receipt)`."""

    recorded: RecordedEvents


@overload
def wait(receipt: Receipt, timeout: float = ...) -> None: ...
@overload
def wait(receipt: AsyncReceipt, timeout: float = ...) -> Coroutine[Any, Any, None]: ...
def wait(
    receipt: Receipt | AsyncReceipt, timeout: float = DEFAULT_TIMEOUT
) -> Coroutine[Any, Any, None] | None:
    """Return once every event of the receipt's transaction has reached the target.

    `timeout` is in seconds; zero or less looks once. Between looks no connection is held. It does
    not bound what a look itself takes: the engine's own timeouts do. An AsyncReceipt is awaited.

    Raises:
        StillWaiting: not within `timeout`; the events are still on their way.
        Unreachable: the primary does not answer; the same may be true of the events.
        Buried: an event was given up.
        UsageError: the transaction has not committed, or was rolled back.
        NotMigrated: the primary cannot tell.
    """
    if isinstance(receipt, AsyncReceipt):
        return _wait_async(receipt.recorded, timeout)
    _wait(receipt.recorded, timeout)
    return None


def _wait(recorded: RecordedEvents, seconds: float) -> None:
    engine = recorded.engine()
    if engine is None:
        return
    if engine.dialect.is_async:
        raise UsageError(
            "this transaction was an AsyncSession's: take the receipt of that, and await the wait."
        )
    pauses = _Pauses(recorded, seconds)
    while True:
        trouble = None
        try:
            with _translated(), engine.connect() as connection:
                if recorded.look(connection):
                    return
        except Unreachable as error:
            trouble = error
        time.sleep(pauses.next(trouble))


async def _wait_async(recorded: RecordedEvents, seconds: float) -> None:
    # Imported late: not every backend has greenlet, which this needs.
    import asyncio  # noqa: PLC0415

    from sqlalchemy.ext.asyncio import AsyncEngine  # noqa: PLC0415

    engine = recorded.engine()
    if engine is None:
        return
    pauses = _Pauses(recorded, seconds)
    while True:
        trouble = None
        try:
            with _translated():
                async with AsyncEngine(engine).connect() as connection:
                    if await connection.run_sync(recorded.look):
                        return
        except Unreachable as error:
            trouble = error
        await asyncio.sleep(pauses.next(trouble))


class _Pauses:
    """How long to pause between looks: short at first, because most are there in milliseconds."""

    def __init__(self, recorded: RecordedEvents, seconds: float) -> None:
        self._recorded = recorded
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._pause = _SHORTEST_PAUSE

    def next(self, trouble: Unreachable | None) -> float:
        """Return the next pause; raise `trouble`, or what still waits, if time is up."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise trouble or self._recorded.still_waiting(self._seconds)
        pause = min(self._pause, left)
        self._pause = min(self._pause * 1.5, _LONGEST_PAUSE)
        return pause


_NOT_COMMITTED = (
    "the transaction of this receipt has not committed; take a receipt before commit, and wait "
    "after the outermost transaction has committed."
)
_ROLLED_BACK = (
    "the transaction of this receipt was rolled back: there is nothing that could reach the target."
)


def _buried(ids: list[int]) -> Buried:
    return Buried(
        f"event(s) {_list(ids)} were given up after too many failures, so the target does not "
        f"hold this change; `mirror status` says why, `mirror retry` tries again.",
        events=tuple(sorted(ids)),
    )


def _list(ids: set[int] | list[int]) -> str:
    named = ", ".join(str(id_) for id_ in sorted(ids)[:_NAMED])
    return named + (", …" if len(ids) > _NAMED else "")


@contextmanager
def _translated() -> Iterator[None]:
    """Turn any driver's errors into ours."""
    try:
        yield
    except Exception as error:
        ours = _own_error(error)
        if ours is None:
            raise
        raise ours from error


def _own_error(error: Exception) -> MirrorError | None:
    """Return our error for a driver's; None if it has none."""
    # SQLAlchemy does not wrap the errors that asyncpg raises while it connects.
    original = error.orig if isinstance(error, DBAPIError) else error
    state = server_error(original).state
    if state in OUTDATED:
        return NotMigrated(
            "primary: the functions that receipts need are missing, or of another version; run "
            "`mirror migrate primary`."
        )
    if state == NO_PRIVILEGE:
        return NotMigrated(
            "primary: this role may not ask about its events; as the schema's owner, run "
            "`grant usage on schema mirror to <role>`."
        )
    if may_be_repeated(state) or isinstance(
        error, OperationalError | InterfaceError | PoolTimeout | OSError
    ):
        return Unreachable(f"primary: it does not answer ({type(original).__name__}).")
    return None
