"""Hooks: the functions that a backend calls where it changes mirrored data.

Call a hook in the same transaction as the change, before commit. It checks its arguments and
keeps the event in memory. When the transaction commits, one statement writes all of its events to
the outbox; when it rolls back, they are dropped. After commit, a thread sends a message through
Redis (the doorbell), which wakes a worker. If Redis is down, slow or absent, the request neither
fails nor waits.

    from mirror import hooks

    def remove_member(session, trip_id, user_id):
        session.execute(delete(Membership).where(...))
        hooks.member_removed(session, trip_id, user_id)

The first argument is a SQLAlchemy Session, scoped_session, AsyncSession, async_scoped_session,
Connection or AsyncConnection. Hooks never await and never do I/O themselves, so the same call
works in synchronous and in asyncio code.
"""

import logging
import os
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
from mirror.capture.variables import BACKEND, unknown
from mirror.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

__all__ = [
    "Hooks",
    "changed",
    "check",
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


# The standard library's logger: this runs in the backend, which configures logging itself.
log = logging.getLogger(__name__)


def check() -> None:
    """Refuse settings and declarations that cannot work; call it where the backend starts.

    Otherwise the first call of a hook raises these errors, in the middle of a request. It connects
    to nothing. A MIRROR_* variable whose name seems to be misspelt is logged as a warning.

    Raises:
        ConfigError: MIRROR_MAPPINGS names no module with a registry, a variable is malformed, or
            REDIS_URL is not set although MIRROR_DOORBELL is not `off`.
        MappingError: a declaration cannot work.
    """
    for sentence in unknown(os.environ, BACKEND, misspelt=True):
        log.warning("%s", sentence)
    settings = default().doorbell.settings
    if settings.redis_url is None and settings.mode != "off":
        raise ConfigError(
            "REDIS_URL is not set; set it to the broker of the workers, or set "
            "MIRROR_DOORBELL=off if beat or a relay alone should wake them."
        )


def changed(session: AnySession, mapping: str, key: Any, lane: LaneName = "revocation") -> None:
    """Record an event: the row with this key in the mapping called `mapping` may have changed.

    `lane="grant"` says that the change takes no access away. See `Hooks.changed`.
    """
    default().changed(session, mapping, key, lane)


def scope_changed(
    session: AnySession, mapping: str, /, *, lane: LaneName = "revocation", **reference: Any
) -> None:
    """Record an event: all rows of a mapping with one value of a reference may have changed.

    `reference` is one keyword argument, the reference's name with the value, as in `trip_id=7`. See
    `Hooks.scope_changed`.
    """
    default().scope_changed(session, mapping, lane=lane, **reference)


@overload
def receipt(session: Session | scoped_session[Any] | Connection) -> Receipt: ...
@overload
def receipt(
    session: "AsyncSession | async_scoped_session[Any] | AsyncConnection",
) -> AsyncReceipt: ...
def receipt(session: AnySession) -> Receipt | AsyncReceipt:
    """Return a receipt, with which a caller can wait until the transaction's events are mirrored.

    It is an AsyncReceipt if the session is an async one. See `Hooks.receipt`.
    """
    return default().receipt(session)
