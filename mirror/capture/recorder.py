"""Recorder: turns calls of hooks into events of the caller's transaction."""

import sys
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload
from weakref import WeakKeyDictionary

from sqlalchemy import Connection
from sqlalchemy.orm import Session, scoped_session

from mirror.capture.doorbell import Doorbell, DoorbellSettings
from mirror.capture.outbox import Event, key_event, scope_event
from mirror.capture.receipts import DEFAULT_TIMEOUT, AsyncReceipt, Receipt, wait
from mirror.capture.transaction import ConnectionEvents, SessionEvents, TransactionEvents
from mirror.capture.variables import mappings_module
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
    """Records events about the mappings of one registry.

    The functions of `mirror.hooks` use the instance that `default()` returns.
    """

    def __init__(self, registry: Registry, doorbell: Doorbell) -> None:
        self.registry = registry
        self.doorbell = doorbell
        # Weak, so that listeners and events disappear with their session or connection.
        self._transactions: WeakKeyDictionary[Session | Connection, TransactionEvents] = (
            WeakKeyDictionary()
        )

    def changed(
        self, session: AnySession, mapping: str, key: Any, lane: LaneName = "revocation"
    ) -> None:
        """Record that the row of `key` may have changed.

        Revocations go first, so use `lane="grant"` only if the change cannot take access away.

        Raises:
            MappingError: the mapping is not declared.
            InvalidKey: the key has the wrong number of values, a wrong type, or a value of None
                (flush first).
            NotInTransaction: no transaction would carry the event.
            UsageError: `lane` is another word, or `session` of another type.
        """
        self.record(session, _spellings(key_event(self.registry, mapping, key, lane)))

    def scope_changed(
        self,
        session: AnySession,
        mapping: str,
        /,
        *,
        lane: LaneName = "revocation",
        **reference: Any,
    ) -> None:
        """Record that all rows under one value of a reference may have changed.

        `scope_changed(session, "trip_memberships", trip_id=trip.id)`

        Raises:
            MappingError: the mapping or its reference is not declared.
            InvalidKey: the value has the wrong type, or is None.
            NotInTransaction: no transaction would carry the event.
            UsageError: there is not exactly one reference, `lane` is another word, or `session` of
                another type.
        """
        if len(reference) != 1:
            raise UsageError("scope_changed takes exactly one reference, as name=value.")
        ((name, value),) = reference.items()
        self.record(session, _spellings(scope_event(self.registry, mapping, name, value, lane)))

    def record(self, session: AnySession, events: Iterable[Event]) -> None:
        """Record events that the caller has built, as the ORM capture does.

        Raises:
            NotInTransaction: no transaction would carry them.
        """
        owner, transaction = self._in_transaction(session)
        transaction.record(owner, events)

    @overload
    def receipt(self, session: Session | scoped_session[Any] | Connection) -> Receipt: ...
    @overload
    def receipt(
        self, session: "AsyncSession | async_scoped_session[Any] | AsyncConnection"
    ) -> AsyncReceipt: ...
    def receipt(self, session: AnySession) -> Receipt | AsyncReceipt:
        """Return a receipt for all events that the transaction records; pass it to `wait`.

        Call it before commit. It is for the outermost transaction, independent of savepoints.

        Raises:
            NotInTransaction: there is no transaction.
        """
        owner, transaction = self._in_transaction(session)
        recorded = transaction.receipt(owner, self.registry)
        synchronous = isinstance(session, Session | scoped_session | Connection)
        return Receipt(recorded) if synchronous else AsyncReceipt(recorded)

    @overload
    def wait(self, receipt: Receipt, timeout: float = ...) -> None: ...
    @overload
    def wait(self, receipt: AsyncReceipt, timeout: float = ...) -> Coroutine[Any, Any, None]: ...
    def wait(
        self, receipt: Receipt | AsyncReceipt, timeout: float = DEFAULT_TIMEOUT
    ) -> Coroutine[Any, Any, None] | None:
        """Return once all events have reached the target. See `mirror.hooks.wait`."""
        return wait(receipt, timeout)

    def _in_transaction(
        self, session: AnySession
    ) -> "tuple[Session | Connection, TransactionEvents]":
        owner = _unwrapped(session)
        current = None if owner is None else owner.get_transaction()
        if owner is None or current is None or not current.is_active:
            raise NotInTransaction(
                "there is no transaction to carry this event; call the hook after the change, in "
                "the same transaction, before commit."
            )
        # No event of SQLAlchemy tells a listener that is added after `prepare()`.
        if getattr(current, "_is_prepared", False):
            raise NotInTransaction(
                "this transaction is prepared, so it can carry no more events; call the hook "
                "before prepare()."
            )
        events = self._transactions.get(owner)
        if events is None:
            if isinstance(owner, Session):
                events = SessionEvents(self.doorbell, owner)
            else:
                events = ConnectionEvents(self.doorbell, owner)
            self._transactions[owner] = events
        return owner, events


def _spellings(event: Event) -> tuple[Event, Event]:
    """Return the event, and the same one without blanks at the end of its values.

    An object has such blanks if its column is character(n). The mapping's query yields none there,
    but of other types it does, and the column's type is not known here.
    """
    return event, replace(event, key=tuple(value.rstrip(" ") for value in event.key))


def _unwrapped(session: AnySession) -> Session | Connection | None:
    """Return the synchronous session or connection behind `session`.

    None: it is an AsyncConnection that is not yet started.

    Raises:
        UsageError: it is no session and no connection of SQLAlchemy.
    """
    owner: Any = session
    # Not imported here, because it needs greenlet, which not every backend has. If the backend has
    # not imported it either, no object is of its types.
    asyncio: Any = sys.modules.get("sqlalchemy.ext.asyncio")
    if isinstance(owner, scoped_session) or (
        asyncio and isinstance(owner, asyncio.async_scoped_session)
    ):
        owner = owner.registry()
    if asyncio and isinstance(owner, asyncio.AsyncSession):
        owner = owner.sync_session
    if asyncio and isinstance(owner, asyncio.AsyncConnection):
        owner = owner.sync_connection
        if owner is None:
            return None
    if isinstance(owner, Session | Connection):
        return owner
    raise UsageError(
        f"hooks take a SQLAlchemy session or connection, not {type(session).__name__}."
    )


@cache
def default() -> Hooks:
    """Return the hooks that the functions of `mirror.hooks` use; the first call makes them.

    MIRROR_MAPPINGS names the registry's module; REDIS_URL and MIRROR_DOORBELL configure the
    doorbell.

    Raises:
        ConfigError: the module cannot be imported, or a setting is malformed.
        MappingError: a declaration cannot work.
    """
    return Hooks(load_registry(mappings_module()), Doorbell(DoorbellSettings.from_environment()))
