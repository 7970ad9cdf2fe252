"""Trips: the hooks of the trips model, named after events of users, trips and memberships.

`mappings/trips.py` declares the model. Import these from `mirror.hooks`.
"""

from typing import Any

from mirror.capture.recorder import AnySession, LaneName, default


def _changed(session: AnySession, mapping: str, key: Any, lane: LaneName = "revocation") -> None:
    default().changed(session, mapping, key, lane)


def user_created(session: AnySession, user_id: Any) -> None:
    """Record that a user was created."""
    _changed(session, "users", user_id, "grant")


def user_updated(session: AnySession, user_id: Any) -> None:
    """Record that a user's e-mail address or name changed."""
    _changed(session, "users", user_id, "grant")


def user_deleted(session: AnySession, user_id: Any) -> None:
    """Record that a user was deleted or soft-deleted; this also removes the user's memberships."""
    _changed(session, "users", user_id)


def trip_created(session: AnySession, trip_id: Any) -> None:
    """Record that a trip was created; call `member_added` for the creator's membership, too."""
    _changed(session, "trips", trip_id, "grant")


def trip_updated(session: AnySession, trip_id: Any) -> None:
    """Record that a trip's name or creator changed."""
    _changed(session, "trips", trip_id, "grant")


def trip_deleted(session: AnySession, trip_id: Any) -> None:
    """Record that a trip was deleted or soft-deleted; this also removes its memberships."""
    _changed(session, "trips", trip_id)


def member_added(session: AnySession, trip_id: Any, user_id: Any) -> None:
    """Record a new membership: the user joined, was invited, accepted, or created the trip."""
    _changed(session, "trip_memberships", (trip_id, user_id), "grant")


def member_updated(session: AnySession, trip_id: Any, user_id: Any) -> None:
    """Record that a member's role or status changed."""
    _changed(session, "trip_memberships", (trip_id, user_id))


def member_removed(session: AnySession, trip_id: Any, user_id: Any) -> None:
    """Record that a user is no longer a member."""
    _changed(session, "trip_memberships", (trip_id, user_id))
