"""A backend whose person ids differ from the ids of Supabase Auth.

A membership counts while its club is not archived; its user is the person's auth id. So a row of
the target comes from three tables, and its key from two.
"""

from uuid import UUID

from sqlalchemy import ForeignKey, Text, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from mirror.model.mapping import Column, Mapping, Parent, Reference
from mirror.model.registry import Registry


class Base(DeclarativeBase):
    """The backend's metadata."""


class Company(Base):
    """A company that owns clubs; no mapping reads it."""

    __tablename__ = "companies"

    id: Mapped[int] = mapped_column(primary_key=True)


class Club(Base):
    """A club; it is deleted with its company."""

    __tablename__ = "clubs"

    id: Mapped[int] = mapped_column(primary_key=True)
    company_id: Mapped[int] = mapped_column(ForeignKey("companies.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(Text, default="")
    archived: Mapped[bool] = mapped_column(default=False)
    motto: Mapped[str | None] = mapped_column(Text)

    members: Mapped[list["Member"]] = relationship(passive_deletes=True)


class Person(Base):
    """A person; `auth_id` is set at the first sign-in."""

    __tablename__ = "people"

    id: Mapped[int] = mapped_column(primary_key=True)
    auth_id: Mapped[UUID | None] = mapped_column(unique=True)
    name: Mapped[str] = mapped_column(Text, default="")
    note: Mapped[str | None] = mapped_column(Text)

    members: Mapped[list["Member"]] = relationship(passive_deletes=True)


class Member(Base):
    """A person in a club; `left` is the soft delete."""

    __tablename__ = "members"
    # Two writers may delete the same row at once.
    __mapper_args__ = {"confirm_deleted_rows": False}  # noqa: RUF012 - SQLAlchemy's own form

    club_id: Mapped[int] = mapped_column(
        ForeignKey("clubs.id", ondelete="CASCADE"), primary_key=True
    )
    person_id: Mapped[int] = mapped_column(
        ForeignKey("people.id", ondelete="CASCADE"), primary_key=True
    )
    role: Mapped[str] = mapped_column(Text, default="MEMBER")
    left: Mapped[bool] = mapped_column(default=False)
    note: Mapped[str | None] = mapped_column(Text)


people = Mapping(
    name="people",
    table="people",
    key=("id",),
    columns=(Column("id", "uuid"), Column("name", "text", descriptive=True)),
    query=select(Person.auth_id.label("id"), Person.name).where(Person.auth_id.is_not(None)),
)
clubs = Mapping(
    name="clubs",
    table="clubs",
    key=("id",),
    columns=(Column("id", "bigint"), Column("name", "text", descriptive=True)),
    query=select(Club.id, Club.name, Club.company_id).where(~Club.archived),
    references=(Reference("company_id", "bigint", table="companies"),),
)
memberships = Mapping(
    name="memberships",
    table="memberships",
    key=("club_id", "user_id"),
    columns=(Column("club_id", "bigint"), Column("user_id", "uuid"), Column("role", "text")),
    query=select(
        Member.club_id,
        Person.auth_id.label("user_id"),
        Member.role,
        Member.person_id,
        Club.company_id,
    )
    .join(Person, Person.id == Member.person_id)
    .join(Club, Club.id == Member.club_id)
    .where(~Member.left, ~Club.archived, Person.auth_id.is_not(None)),
    references=(
        Reference("person_id", "bigint", table="people"),
        Reference("company_id", "bigint", table="companies"),
    ),
    parents=(Parent("clubs", "club_id"), Parent("people", "user_id")),
)

registry = Registry("clubs", [people, clubs, memberships])
