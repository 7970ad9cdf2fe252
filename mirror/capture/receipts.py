"""Receipts: wait until the changes of one transaction have reached the target.

A receipt stands for a transaction, not for the hooks called in it, so it also covers events that
triggers record. Before commit, the session writes its events and reads back all of the
transaction's rows in the outbox. After commit, `wait` polls until none of them is left. It also
waits for the events that workers record while they process these: for the rest of a large scope,
and for the children of a parent if they are too many to be written together with it. Those events
belong to the workers' transactions; they are recognised by mapping, reference and value.

The backend's role may not read the outbox. Functions of the primary return ids, and labels instead
of keys. They compare labels only for the backend that has a proof of the transaction, which it gets
inside of it: otherwise a role could find out another's keys by guessing.
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
from mirror.capture.timeouts import call_within
from mirror.errors import Buried, MirrorError, NotMigrated, StillWaiting, Unreachable, UsageError
from mirror.errors.sqlstates import NO_PRIVILEGE, OUTDATED, may_be_repeated, server_error
from mirror.model.mapping import EVERYTHING
from mirror.model.registry import Registry

# Ample while a worker runs; a request that has waited this long should answer its client.
DEFAULT_TIMEOUT: Final = 2.0

# All in seconds. A query that is under way when time is up may take so much longer.
_GRACE = 1.0
_SHORTEST_PAUSE = 0.005
_LONGEST_PAUSE = 0.1

# The number of ids in a message.
_MAX_IDS = 10

_READ_RECORDED = text(statement("read_recorded_events"))
_READ_COMMITTED = text(statement("read_committed_events"))
_FIND_WAITING = text(statement("find_still_waiting"))


class RecordedEvents:
    """The events of one transaction, and those among them that still wait."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._engine: Engine | None = None
        self._carrier: RootTransaction | None = None
        self._transaction: str | None = None
        self._proof: str | None = None
        self._ended = False
        self._committed = False
        self._ids: set[int] = set()
        self._newest = 0
        self._following = 0
        # Events that may follow: of exactly these scopes (mapping, reference, label of the value),
        # and all events of these (mapping, reference).
        self._scopes: set[tuple[str, str, str | None]] = set()
        self._anywhere: set[tuple[str, str | None]] = set()

    # Within the transaction

    def read(self, connection: Connection) -> bool:
        """Read the events that the transaction has recorded; return whether there are any.

        Raises:
            NotMigrated: the primary lacks the functions for it.
        """
        with _translated():
            transaction, proof, events = connection.execute(_READ_RECORDED).one()
        self._engine = connection.engine
        self._carrier = connection.get_transaction()
        self._transaction = transaction
        self._proof = proof
        self._add(events)
        return bool(self._ids)

    def end(self) -> None:
        """Note that the transaction has ended. If `read` was never called, it was rolled back."""
        self._ended = True

    def _add(self, events: str) -> None:
        for id_, mapping, reference, value in json.loads(events):
            self._ids.add(id_)
            self._newest = max(self._newest, id_)
            if reference == EVERYTHING:
                # If the drain fails at this event, it replaces it by events of keys.
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
        """Note that events of a mapping's children, and of their children, may follow.

        Their scopes may have any value of the column that refers to the parent.
        """
        for child, column in self._children(mapping):
            self._anywhere.add((child, column))
            self._add_below(child)

    def _children(self, mapping: str) -> list[tuple[str, str]]:
        # A trigger may have recorded an event of another model.
        if mapping not in self._registry:
            return []
        found = self._registry.children(self._registry[mapping])
        return [(child.name, parent.column) for child, parent in found]

    # After the transaction

    def engine(self) -> Engine | None:
        """Return the primary's engine, to ask it; None: the transaction recorded no event.

        Raises:
            UsageError: the transaction has not committed, or was rolled back.
        """
        if self._engine is None and self._ended:
            raise UsageError(_ROLLED_BACK)
        if self._engine is None or (self._carrier is not None and self._carrier.is_active):
            raise UsageError(_NOT_COMMITTED)
        return None if self._transaction is None else self._engine

    def all_applied(self, connection: Connection) -> bool:
        """Ask the primary; return whether all events, and those that followed, have been applied.

        Raises:
            UsageError: the transaction has not committed, or was rolled back.
            Buried: an event was given up.
        """
        # Each query is one statement; outside of a transaction, it causes no serialization failure.
        connection.execution_options(isolation_level="AUTOCOMMIT")
        if not self._committed:
            self._check_commit(connection)
        if not (self._ids or self._scopes or self._anywhere):
            return True
        question = {
            "transaction": self._transaction,
            "proof": self._proof,
            "ids": list(self._ids),
            "scopes": list(self._scopes),
            "anywhere": list(self._anywhere),
            "newest": self._newest,
        }
        (answer,) = connection.execute(_FIND_WAITING, {"question": json.dumps(question)}).one()
        found = json.loads(answer)
        # An event that is gone from outbox and retries does not come back.
        self._ids = {*found["waiting"], *found["buried"]}
        self._following = found["following"]
        if found["buried"]:
            raise _buried(found["buried"])
        return not self._ids and not self._following

    def _check_commit(self, connection: Connection) -> None:
        """Check that the transaction has committed; add the events that COMMIT itself recorded.

        Raises:
            UsageError: it has not committed, or was rolled back.
        """
        status, events = connection.execute(
            _READ_COMMITTED, {"transaction": self._transaction, "proof": self._proof}
        ).one()
        if status == "aborted":
            raise UsageError(_ROLLED_BACK)
        if status == "in progress":
            raise UsageError(_NOT_COMMITTED)
        self._add(events)
        self._committed = True
        self._carrier = None

    def still_waiting(self, seconds: float) -> StillWaiting:
        """Return the error that says that events still wait after these seconds."""
        pending = len(self._ids) + self._following
        which = f" ({_list(self._ids)})" if self._ids else " that others led to"
        return StillWaiting(
            f"{pending} event(s){which} have not reached the target within {seconds:g} s; they "
            f"are still waiting. If this happens often, run `mirror status`: is a worker running?",
            pending=pending,
            events=tuple(sorted(self._ids)),
        )


@dataclass(frozen=True, eq=False)
class Receipt:
    """Stands for the events of one transaction; see `mirror.hooks.wait`."""

    recorded: RecordedEvents


@dataclass(frozen=True, eq=False)
class AsyncReceipt:
    """Stands for the events of one asyncio transaction: `await hooks.wait(receipt)`."""

    recorded: RecordedEvents


@overload
def wait(receipt: Receipt, timeout: float = ...) -> None: ...
@overload
def wait(receipt: AsyncReceipt, timeout: float = ...) -> Coroutine[Any, Any, None]: ...
def wait(
    receipt: Receipt | AsyncReceipt, timeout: float = DEFAULT_TIMEOUT
) -> Coroutine[Any, Any, None] | None:
    """Return once every event of the receipt's transaction has reached the target.

    It polls, and holds no connection between two queries. `timeout` is in seconds; zero or less
    queries once. A query that is under way when time is up gets one second more; then it is left to
    itself, with its connection, until the engine's own timeouts end it. With an AsyncReceipt, await
    the result.

    Raises:
        StillWaiting: events still wait after `timeout`.
        Unreachable: the primary does not answer, or the engine has no free connection; events may
            still wait.
        Buried: an event was given up.
        UsageError: the transaction has not committed, or was rolled back.
        NotMigrated: the primary lacks the functions for it.
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
            "this transaction belonged to an AsyncSession; pass that to receipt(), and await the "
            "wait()."
        )
    try:
        # No driver limits the wait for a server that is halted.
        call_within(max(0.0, seconds) + _GRACE, lambda: _poll(recorded, engine, seconds))
    except TimeoutError:
        raise _unanswered(seconds) from None


def _poll(recorded: RecordedEvents, engine: Engine, seconds: float) -> None:
    pauses = _Pauses(recorded, seconds)
    while True:
        failure = None
        try:
            with _translated(), engine.connect() as connection:
                if recorded.all_applied(connection):
                    return
        except Unreachable as error:
            failure = error
        time.sleep(pauses.next(failure))


async def _wait_async(recorded: RecordedEvents, seconds: float) -> None:
    # Imported late: a backend without asyncio does not pay for it.
    import asyncio  # noqa: PLC0415

    engine = recorded.engine()
    if engine is None:
        return
    polling = asyncio.ensure_future(_poll_async(recorded, engine, seconds))
    # Not `wait_for`: it waits until the query is cancelled, which a halted server does not answer.
    polling.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    try:
        done, _ = await asyncio.wait({polling}, timeout=max(0.0, seconds) + _GRACE)
    finally:
        polling.cancel()
    if not done:
        raise _unanswered(seconds)
    polling.result()


async def _poll_async(recorded: RecordedEvents, engine: Engine, seconds: float) -> None:
    # Imported late: it needs greenlet, which not every backend has.
    import asyncio  # noqa: PLC0415

    from sqlalchemy.ext.asyncio import AsyncEngine  # noqa: PLC0415

    pauses = _Pauses(recorded, seconds)
    while True:
        failure = None
        try:
            with _translated():
                async with AsyncEngine(engine).connect() as connection:
                    if await connection.run_sync(recorded.all_applied):
                        return
        except Unreachable as error:
            failure = error
        await asyncio.sleep(pauses.next(failure))


class _Pauses:
    """The pauses between two queries: short at first, because most events take milliseconds."""

    def __init__(self, recorded: RecordedEvents, seconds: float) -> None:
        self._recorded = recorded
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._pause = _SHORTEST_PAUSE

    def next(self, failure: Unreachable | None) -> float:
        """Return the next pause in seconds; when time is up, raise `failure` or StillWaiting."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise failure or self._recorded.still_waiting(self._seconds)
        pause = min(self._pause, left)
        self._pause = min(self._pause * 1.5, _LONGEST_PAUSE)
        return pause


_NOT_COMMITTED = (
    "the transaction of this receipt has not committed; take a receipt before commit, and wait "
    "after the outermost transaction has committed."
)
_ROLLED_BACK = (
    "the transaction of this receipt was rolled back: none of its changes can reach the target."
)


def _unanswered(seconds: float) -> Unreachable:
    return Unreachable(
        f"primary: it has not answered within {seconds:g} s, or the engine's pool has no free "
        f"connection; events may still be waiting."
    )


def _buried(ids: list[int]) -> Buried:
    return Buried(
        f"event(s) {_list(ids)} were given up after too many failures, so the target does not "
        f"hold this change; `mirror status` says why, `mirror retry` tries again.",
        events=tuple(sorted(ids)),
    )


def _list(ids: set[int] | list[int]) -> str:
    listed = ", ".join(str(id_) for id_ in sorted(ids)[:_MAX_IDS])
    return listed + (", …" if len(ids) > _MAX_IDS else "")


@contextmanager
def _translated() -> Iterator[None]:
    """Raise an error of the mirror in place of a driver's error that the block raises."""
    try:
        yield
    except Exception as error:
        ours = _own_error(error)
        if ours is None:
            raise
        raise ours from error


def _own_error(error: Exception) -> MirrorError | None:
    """Return the mirror's error for a driver's error; None: it has none for it."""
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
