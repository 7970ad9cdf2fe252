"""Recorder: turns calls of hooks into events of the caller's transaction."""

import os
import sys
from collections.abc import Coroutine, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload
from weakref import WeakKeyDictionary

from sqlalchemy import Connection
from sqlalchemy.orm import Session, scoped_session

from mirror.capture.doorbell import Doorbell, DoorbellSettings
from mirror.capture.outbox import Event, key_event, scope_event
from mirror.capture.receipts import DEFAULT_TIMEOUT, AsyncReceipt, Receipt, wait
from mirror.capture.transaction import ConnectionEvents, SessionEvents, TransactionEvents
from mirror.errors import NotInTransaction, UsageError
from mirror.model.registry import Registry, load_registry

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

LaneName = Literal["revocation", "grant"]
AnySession: TypeAlias = (
    "Session | scoped_session[Any] | AsyncSession | async_scoped_session[Any]"
    " | Connection | AsyncConnection"
)


class Hooks:
    """Records events of one registry. The functions of `mirror.hooks` use `default()`."""

    def __init__(self, registry: Registry, doorbell: Doorbell) -> None:
        self.registry = registry
        self.doorbell = doorbell
        # Keeps nothing alive: listeners and events go with their session or connection.
        self._pending: WeakKeyDictionary[Session | Connection, TransactionEvents] = (
            WeakKeyDictionary()
        )

    def changed(
        self, session: AnySession, mapping: str, key: Any, lane: LaneName = "revocation"
    ) -> None:
        """Record that the row of `key` may have changed.

        `lane="grant"` only where the change cannot take access away: revocations go first.

        Raises:
            MappingError: no mapping of that name.
            InvalidKey: the key has the wrong arity or type, or a value is None (flush first).
            NotInTransaction: no transaction would carry the event.
        """
        self.record(session, [key_event(self.registry, mapping, key, lane)])

    def scope_changed(
        self,
        session: AnySession,
        mapping: str,
        /,
        *,
        lane: LaneName = "revocation",
        **reference: Any,
    ) -> None:
        """Record that every row under one value of a reference may have changed.

        `scope_changed(session, "trip_memberships", trip_id=trip.id)`

        Raises:
            MappingError: no such mapping, or no such reference.
            InvalidKey: the value has the wrong type, or is None.
            NotInTransaction: no transaction would carry the event.
        """
        if len(reference) != 1:
            raise UsageError("scope_changed takes exactly one reference, as name=value.")
        ((name, value),) = reference.items()
        self.record(session, [scope_event(self.registry, mapping, name, value, lane)])

    def record(self, session: AnySession, events: Iterable[Event]) -> None:
        """Record events that were made elsewhere, as the ORM capture makes them.

        Raises:
            NotInTransaction: no transaction would carry them.
        """
        place, pending = self._in_transaction(session)
        pending.record(place, events)

    @overload
    def receipt(self, session: Session | scoped_session[Any] | Connection) -> Receipt: ...
    @overload
    def receipt(
        self, session: "AsyncSession | async_scoped_session[Any] | AsyncConnection"
    ) -> AsyncReceipt: ...
    def receipt(self, session: AnySession) -> Receipt | AsyncReceipt:
        """Return a receipt for everything that the transaction records; `wait` takes it.

        Call it before commit. The outermost transaction counts, whatever its savepoints do.

        Raises:
            NotInTransaction: there is no transaction.
        """
        place, pending = self._in_transaction(session)
        recorded = pending.receipt(place, self.registry)
        synchronous = isinstance(session, Session | scoped_session | Connection)
        return Receipt(recorded) if synchronous else AsyncReceipt(recorded)

    @overload
    def wait(self, receipt: Receipt, timeout: float = ...) -> None: ...
    @overload
    def wait(self, receipt: AsyncReceipt, timeout: float = ...) -> Coroutine[Any, Any, None]: ...
    def wait(
        self, receipt: Receipt | AsyncReceipt, timeout: float = DEFAULT_TIMEOUT
    ) -> Coroutine[Any, Any, None] | None:
        """Return once everything has reached the target. See `mirror.hooks.wait`."""
        return wait(receipt, timeout)

    def _in_transaction(
        self, session: AnySession
    ) -> "tuple[Session | Connection, TransactionEvents]":
        place = _unwrapped(session)
        transaction = None if place is None else place.get_transaction()
        if place is None or transaction is None or not transaction.is_active:
            raise NotInTransaction(
                "there is no transaction to carry this event; call the hook where the change is "
                "made, after it and before commit."
            )
        pending = self._pending.get(place)
        if pending is None:
            if isinstance(place, Session):
                pending = SessionEvents(self.doorbell, place)
            else:
                pending = ConnectionEvents(self.doorbell, place)
            self._pending[place] = pending
        return place, pending


def _unwrapped(session: AnySession) -> Session | Connection | None:
    """Return the synchronous session or connection that does the work, None before it starts."""
    place: Any = session
    # Where nobody imported SQLAlchemy's asyncio side, nothing is of it; it needs greenlet, which
    # not every backend has.
    asyncio: Any = sys.modules.get("sqlalchemy.ext.asyncio")
    if isinstance(place, scoped_session) or (
        asyncio and isinstance(place, asyncio.async_scoped_session)
    ):
        place = place.registry()
    if asyncio and isinstance(place, asyncio.AsyncSession):
        place = place.sync_session
    if asyncio and isinstance(place, asyncio.AsyncConnection):
        place = place.sync_connection
        if place is None:
            return None
    if isinstance(place, Session | Connection):
        return place
    raise UsageError(
        f"hooks take a SQLAlchemy session or connection, not {type(session).__name__}."
    )


@cache
def default() -> Hooks:
    """Return the hooks that the module's functions use, made at the first call.

    The registry is the one MIRROR_MAPPINGS names; the doorbell is set by REDIS_URL and
    MIRROR_DOORBELL.

    Raises:
        ConfigError: the module does not import, or a setting is malformed.
        MappingError: a declaration cannot work.
    """
    module = os.environ.get("MIRROR_MAPPINGS") or "mappings"
    return Hooks(load_registry(module), Doorbell(DoorbellSettings.from_environment()))
