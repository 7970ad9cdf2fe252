"""Hooks: the functions that a backend calls where it changes mirrored data.

Call a hook in the same transaction as the change, before commit. It checks its arguments and
keeps the event in memory. When the transaction commits, one statement writes all of its events to
the outbox; when it rolls back, they are dropped. After commit the doorbell wakes a worker, off the
request path: Redis may be down, slow or absent, and the request neither fails nor waits.

    from mirror import hooks

    def remove_member(session, trip_id, user_id):
        session.execute(delete(Membership).where(...))
        hooks.member_removed(session, trip_id, user_id)

The first argument is a SQLAlchemy Session, scoped_session, AsyncSession, async_scoped_session,
Connection or AsyncConnection. Hooks never await and never do I/O themselves, so the same call
works in synchronous and in asyncio code.
"""

from typing import TYPE_CHECKING, Any, overload

from sqlalchemy import Connection
from sqlalchemy.orm import Session, scoped_session

from mirror.capture.receipts import AsyncReceipt, Receipt, wait
from mirror.capture.recorder import AnySession, Hooks, LaneName, default
from mirror.capture.trips import (
    member_added,
    member_removed,
    member_updated,
    trip_created,
    trip_deleted,
    trip_updated,
    user_created,
    user_deleted,
    user_updated,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

__all__ = [
    "Hooks",
    "changed",
    "default",
    "member_added",
    "member_removed",
    "member_updated",
    "receipt",
    "scope_changed",
    "trip_created",
    "trip_deleted",
    "trip_updated",
    "user_created",
    "user_deleted",
    "user_updated",
    "wait",
]


def changed(session: AnySession, mapping: str, key: Any, lane: LaneName = "revocation") -> None:
    """Record that the row of `key` in `mapping` may have changed. See `Hooks.changed`."""
    default().changed(session, mapping, key, lane)


def scope_changed(
    session: AnySession, mapping: str, /, *, lane: LaneName = "revocation", **reference: Any
) -> None:
    """Record that all rows under a reference's value may have changed.

    See `Hooks.scope_changed`.
    """
    default().scope_changed(session, mapping, lane=lane, **reference)


@overload
def receipt(session: Session | scoped_session[Any] | Connection) -> Receipt: ...
@overload
def receipt(
    session: "AsyncSession | async_scoped_session[Any] | AsyncConnection",
) -> AsyncReceipt: ...
def receipt(session: AnySession) -> Receipt | AsyncReceipt:
    """Return a receipt for all events that the transaction records. See `Hooks.receipt`."""
    return default().receipt(session)
