"""Hooks: what a backend calls where it changes something that is mirrored.

Call a hook in the same transaction as the change, before commit. It checks its arguments and
keeps the event; all events of a transaction are written to the outbox by one statement when it
commits, and are gone when it rolls back. After commit the doorbell wakes a worker, off the
request path: Redis may be down, slow or absent, and the request neither fails nor waits.

    from mirror import hooks

    def remove_member(session, trip_id, user_id):
        session.execute(delete(Membership).where(...))
        hooks.member_removed(session, trip_id, user_id)

The first argument is a SQLAlchemy Session, scoped_session, AsyncSession, async_scoped_session,
Connection or AsyncConnection. Hooks never await and never do I/O themselves, so that the same
call serves synchronous and asyncio code.
"""

import os
from functools import cache
from typing import Any, Literal

from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from mirror.doorbell import Doorbell, DoorbellSettings
from mirror.errors import NotInTransaction, UsageError
from mirror.outbox import Event, insert, key_event, scope_event
from mirror.registry import Registry, load_registry

LaneName = Literal["revocation", "grant"]
AnySession = (
    Session
    | scoped_session[Any]
    | AsyncSession
    | async_scoped_session[Any]
    | Connection
    | AsyncConnection
)

__all__ = [
    "Hooks",
    "changed",
    "default",
    "member_added",
    "member_removed",
    "member_updated",
    "scope_changed",
    "trip_created",
    "trip_deleted",
    "trip_updated",
    "user_created",
    "user_deleted",
    "user_updated",
]

_INFO = "permission-mirror"


class Hooks:
    """Records events of one registry. The functions of this module use `default()`."""

    def __init__(self, registry: Registry, doorbell: Doorbell) -> None:
        self.registry = registry
        self.doorbell = doorbell

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
        self._record(session, key_event(self.registry, mapping, key, lane))

    def scope_changed(
        self, session: AnySession, mapping: str, *, lane: LaneName = "revocation", **reference: Any
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
        self._record(session, scope_event(self.registry, mapping, name, value, lane))

    def _record(self, session: AnySession, recorded: Event) -> None:
        place = _unwrapped(session)
        if not place.in_transaction():
            raise NotInTransaction(
                "there is no transaction to carry this event; call the hook where the change is "
                "made, before commit."
            )
        pending: _Pending | None = place.info.get(_INFO)
        if pending is None or pending.owner is not self or pending.place is not place:
            pending = _listen(self, place)
        pending.events[recorded] = None


class _Pending:
    """The events of one session's or connection's transaction, until it ends."""

    def __init__(self, owner: Hooks, place: Session | Connection) -> None:
        self.owner = owner
        self.place = place
        # A dict for its order and its keys: the same event twice is one.
        self.events: dict[Event, None] = {}
        self.written = False

    def write(self, connection: Connection) -> bool:
        """Record the events in the transaction; return whether there were any."""
        if not self.events:
            return False
        if _autocommits(connection):
            raise NotInTransaction(
                "this connection is in AUTOCOMMIT mode, so the change and its event cannot commit "
                "together; use a transaction."
            )
        events = list(self.events)
        insert(connection, events)
        self.events.clear()
        return True


def _listen(owner: Hooks, place: Session | Connection) -> _Pending:
    pending = _Pending(owner, place)
    if isinstance(place, Session):
        _listen_to_session(pending, place)
    else:
        _listen_to_connection(pending, place)
    place.info[_INFO] = pending
    return pending


def _listen_to_session(pending: _Pending, session: Session) -> None:
    def before_commit(session: Session) -> None:
        # Releasing a savepoint is no commit; what it recorded waits for the outer one.
        if pending.events and not session.in_nested_transaction():
            pending.written = pending.write(session.connection())

    def after_commit(session: Session) -> None:
        if pending.written and not session.in_nested_transaction():
            pending.written = False
            pending.owner.doorbell.ring()

    def after_end(_session: Session, transaction: SessionTransaction) -> None:
        # A savepoint's events stay: an event that says too much is harmless.
        if transaction.parent is None:
            pending.events.clear()
            pending.written = False

    event.listen(session, "before_commit", before_commit)
    event.listen(session, "after_commit", after_commit)
    event.listen(session, "after_transaction_end", after_end)


def _listen_to_connection(pending: _Pending, connection: Connection) -> None:
    def commit(connection: Connection) -> None:
        transaction = connection.get_transaction()
        if pending.write(connection):
            # SQLAlchemy tells before a connection's commit, not after it.
            pending.owner.doorbell.ring(
                after=lambda: transaction is None or not transaction.is_active
            )

    def rollback(_connection: Connection) -> None:
        pending.events.clear()

    def prepare(connection: Connection, _xid: object) -> None:
        commit(connection)

    event.listen(connection, "commit", commit)
    event.listen(connection, "rollback", rollback)
    event.listen(connection, "prepare_twophase", prepare)


def _unwrapped(session: AnySession) -> Session | Connection:
    """Return the synchronous session or connection that does the work."""
    place: Any = session
    if isinstance(place, scoped_session | async_scoped_session):
        place = place.registry()
    if isinstance(place, AsyncSession):
        return place.sync_session
    if isinstance(place, AsyncConnection):
        place = place.sync_connection
    if isinstance(place, Session | Connection):
        return place
    raise UsageError(
        f"hooks take a SQLAlchemy session or connection, not a {type(session).__name__}."
    )


def _autocommits(connection: Connection) -> bool:
    if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        return True
    driver = connection.connection.dbapi_connection
    return getattr(driver, "autocommit", False) is True


@cache
def default() -> Hooks:
    """Return the hooks that the module's functions use, made at the first call.

    The registry is the one MIRROR_MAPPINGS names; the doorbell is set by REDIS_URL and
    MIRROR_DOORBELL.

    Raises:
        ConfigError: the module does not import, or a setting is malformed.
        MappingError: a declaration cannot work.
    """
    module = os.environ.get("MIRROR_MAPPINGS", "mappings.trips")
    return Hooks(load_registry(module), Doorbell(DoorbellSettings.from_environment()))


def changed(session: AnySession, mapping: str, key: Any, lane: LaneName = "revocation") -> None:
    """Record that the row of `key` in `mapping` may have changed. See `Hooks.changed`."""
    default().changed(session, mapping, key, lane)


def scope_changed(
    session: AnySession, mapping: str, *, lane: LaneName = "revocation", **reference: Any
) -> None:
    """Record that all rows under a reference's value may have changed. See `Hooks`."""
    default().scope_changed(session, mapping, lane=lane, **reference)


def user_created(session: AnySession, user_id: Any) -> None:
    """Record that a user was created."""
    changed(session, "users", user_id, "grant")


def user_updated(session: AnySession, user_id: Any) -> None:
    """Record that a user's e-mail address or name changed."""
    changed(session, "users", user_id, "grant")


def user_deleted(session: AnySession, user_id: Any) -> None:
    """Record that a user was deleted, softly or not; all memberships go with it."""
    changed(session, "users", user_id)


def trip_created(session: AnySession, trip_id: Any) -> None:
    """Record that a trip was created. Its creator's membership is an event of its own."""
    changed(session, "trips", trip_id, "grant")


def trip_updated(session: AnySession, trip_id: Any) -> None:
    """Record that a trip's name or creator changed."""
    changed(session, "trips", trip_id, "grant")


def trip_deleted(session: AnySession, trip_id: Any) -> None:
    """Record that a trip was deleted, softly or not; all memberships go with it."""
    changed(session, "trips", trip_id)


def member_added(session: AnySession, trip_id: Any, user_id: Any) -> None:
    """Record that a user became a member: joined, was invited, accepted, or created the trip."""
    changed(session, "trip_memberships", (trip_id, user_id), "grant")


def member_updated(session: AnySession, trip_id: Any, user_id: Any) -> None:
    """Record that a member's role or status changed."""
    changed(session, "trip_memberships", (trip_id, user_id))


def member_removed(session: AnySession, trip_id: Any, user_id: Any) -> None:
    """Record that a user is no member any more."""
    changed(session, "trip_memberships", (trip_id, user_id))
