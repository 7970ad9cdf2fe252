"""Models: the backend's own tables. Three of them grant rights, and no table lists all rights.

They contain nothing about Supabase or Electric.
"""

from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import DateTime, ForeignKey, Text, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The backend's metadata."""


class User(Base):
    """A user who signed up; `id` is the id that Supabase Auth assigned."""

    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    email: Mapped[str] = mapped_column(Text, unique=True)


class Company(Base):
    """A paying customer."""

    __tablename__ = "companies"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str] = mapped_column(Text)


class Workspace(Base):
    """A place where members of a company and guests work together."""

    __tablename__ = "workspaces"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    company_id: Mapped[UUID] = mapped_column(
        ForeignKey("companies.id", ondelete="CASCADE"), index=True
    )
    name: Mapped[str] = mapped_column(Text)


class TableView(Base):
    """A part of a workspace's data that can be shared without the rest."""

    __tablename__ = "table_views"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    workspace_id: Mapped[UUID] = mapped_column(
        ForeignKey("workspaces.id", ondelete="CASCADE"), index=True
    )
    name: Mapped[str] = mapped_column(Text)


class GrantColumns:
    """The time of a grant, and the user who made it; NULL if that user is deleted or unknown."""

    granted_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    granted_by: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))


class CompanyMember(GrantColumns, Base):
    """A user's role in a company: `owner`, `admin` or `member`."""

    __tablename__ = "company_members"

    company_id: Mapped[UUID] = mapped_column(
        ForeignKey("companies.id", ondelete="CASCADE"), primary_key=True
    )
    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    role: Mapped[str] = mapped_column(Text, default="member")


class WorkspaceMember(GrantColumns, Base):
    """A user's role in a workspace: `owner`, `editor` or `viewer`."""

    __tablename__ = "workspace_members"

    workspace_id: Mapped[UUID] = mapped_column(
        ForeignKey("workspaces.id", ondelete="CASCADE"), primary_key=True
    )
    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    role: Mapped[str] = mapped_column(Text, default="viewer")


class ViewGrant(GrantColumns, Base):
    """A user's permission to `read` or `write` the data of a view."""

    __tablename__ = "table_view_grants"

    table_view_id: Mapped[UUID] = mapped_column(
        ForeignKey("table_views.id", ondelete="CASCADE"), primary_key=True
    )
    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    permission: Mapped[str] = mapped_column(Text, default="read")
