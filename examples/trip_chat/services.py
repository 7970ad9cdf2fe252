"""Services: the backend's actions, each in the session's transaction and with its hook.

Only the hooks know about the mirror.
"""

from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy.orm import Session

from examples.trip_chat.models import Membership, Role, Status, Trip, User
from mirror import hooks


def sign_up(session: Session, user_id: UUID, email: str, username: str) -> User:
    """Add a user whom Supabase Auth has just created."""
    user = User(id=user_id, email=email, username=username)
    session.add(user)
    hooks.user_created(session, user_id)
    return user


def delete_user(session: Session, user_id: UUID) -> None:
    """Mark a user as deleted; the row stays, and the user loses all access."""
    session.get_one(User, user_id).deleted_at = datetime.now(UTC)
    hooks.user_deleted(session, user_id)


def create_trip(session: Session, creator_id: UUID, name: str) -> Trip:
    """Create a trip, and the membership that makes its creator the owner."""
    trip = Trip(name=name, created_by=creator_id)
    session.add(trip)
    session.flush()
    session.add(Membership(trip_id=trip.id, user_id=creator_id, role=Role.OWNER))
    hooks.trip_created(session, trip.id)
    hooks.member_added(session, trip.id, creator_id)
    return trip


def rename_trip(session: Session, trip_id: UUID, name: str) -> None:
    """Give a trip another name."""
    session.get_one(Trip, trip_id).name = name
    hooks.trip_updated(session, trip_id)


def delete_trip(session: Session, trip_id: UUID) -> None:
    """Mark a trip as deleted; the row stays, and the trip's members lose access to it."""
    session.get_one(Trip, trip_id).deleted_at = datetime.now(UTC)
    hooks.trip_deleted(session, trip_id)


def restore_trip(session: Session, trip_id: UUID) -> None:
    """Undo `delete_trip`; the trip's members have access again."""
    session.get_one(Trip, trip_id).deleted_at = None
    hooks.trip_updated(session, trip_id)


def invite(session: Session, trip_id: UUID, user_id: UUID, role: Role = Role.MEMBER) -> None:
    """Invite a user; an invitation grants nothing yet."""
    session.add(Membership(trip_id=trip_id, user_id=user_id, role=role, status=Status.INVITED))
    hooks.member_added(session, trip_id, user_id)


def accept_invitation(session: Session, trip_id: UUID, user_id: UUID) -> None:
    """Make an invited user an active member; this grants access."""
    session.get_one(Membership, (trip_id, user_id)).status = Status.ACTIVE
    hooks.member_added(session, trip_id, user_id)


def change_role(session: Session, trip_id: UUID, user_id: UUID, role: Role) -> None:
    """Give a member another role, a stronger or a weaker one."""
    session.get_one(Membership, (trip_id, user_id)).role = role
    hooks.member_updated(session, trip_id, user_id)


def deactivate_member(session: Session, trip_id: UUID, user_id: UUID) -> None:
    """Suspend a member: the membership stays, but grants no access."""
    session.get_one(Membership, (trip_id, user_id)).status = Status.INACTIVE
    hooks.member_updated(session, trip_id, user_id)


def remove_member(session: Session, trip_id: UUID, user_id: UUID) -> None:
    """Delete a membership; the user loses access to the trip."""
    session.delete(session.get_one(Membership, (trip_id, user_id)))
    hooks.member_removed(session, trip_id, user_id)
