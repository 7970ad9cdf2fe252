"""Models: the backend's own tables. They contain nothing about Supabase."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID, uuid4

from sqlalchemy import DateTime, Enum, ForeignKey, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Role(StrEnum):
    """The role of a member in a trip, from strongest to weakest; it decides the allowed actions."""

    OWNER = "OWNER"
    ADMIN = "ADMIN"
    MEMBER = "MEMBER"


class Status(StrEnum):
    """The status of a membership; only ACTIVE grants access."""

    ACTIVE = "ACTIVE"
    INVITED = "INVITED"
    INACTIVE = "INACTIVE"


class Base(DeclarativeBase):
    """The backend's metadata."""


class User(Base):
    """A user who signed up; `id` is the id that Supabase Auth assigned."""

    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    email: Mapped[str] = mapped_column(Text, unique=True)
    username: Mapped[str] = mapped_column(Text)
    biography: Mapped[str | None] = mapped_column(Text)
    deleted_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class Trip(Base):
    """A journey that several people plan together."""

    __tablename__ = "trips"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str] = mapped_column(Text)
    destination: Mapped[str | None] = mapped_column(Text)
    created_by: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    deleted_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class Membership(Base):
    """A user's membership in a trip."""

    __tablename__ = "trip_memberships"

    trip_id: Mapped[UUID] = mapped_column(
        ForeignKey("trips.id", ondelete="CASCADE"), primary_key=True
    )
    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    role: Mapped[Role] = mapped_column(Enum(Role, name="trip_role"), default=Role.MEMBER)
    status: Mapped[Status] = mapped_column(
        Enum(Status, name="membership_status"), default=Status.ACTIVE
    )
    deleted_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
