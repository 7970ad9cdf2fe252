"""The trips model's own hooks, named for what happens to a user, a trip or a membership.

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
    """Record that a user was deleted, softly or not; all memberships go with it."""
    _changed(session, "users", user_id)


def trip_created(session: AnySession, trip_id: Any) -> None:
    """Record that a trip was created. Its creator's membership is an event of its own."""
    _changed(session, "trips", trip_id, "grant")


def trip_updated(session: AnySession, trip_id: Any) -> None:
    """Record that a trip's name or creator changed."""
    _changed(session, "trips", trip_id, "grant")


def trip_deleted(session: AnySession, trip_id: Any) -> None:
    """Record that a trip was deleted, softly or not; all memberships go with it."""
    _changed(session, "trips", trip_id)


def member_added(session: AnySession, trip_id: Any, user_id: Any) -> None:
    """Record that a user became a member: joined, was invited, accepted, or created the trip."""
    _changed(session, "trip_memberships", (trip_id, user_id), "grant")


def member_updated(session: AnySession, trip_id: Any, user_id: Any) -> None:
    """Record that a member's role or status changed."""
    _changed(session, "trip_memberships", (trip_id, user_id))


def member_removed(session: AnySession, trip_id: Any, user_id: Any) -> None:
    """Record that a user is no member any more."""
    _changed(session, "trip_memberships", (trip_id, user_id))
