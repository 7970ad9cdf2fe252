"""A backend whose ORM models are hard to capture.

Keys differ from the primary key, attributes are not named like their columns, an enum's names
differ from its values; there is joined inheritance, a many-to-many table and an unmirrored table.
"""

from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, Column, ForeignKey, Table, Text, column, select, table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, synonym

from mirror.model import mapping as declared
from mirror.model.registry import Registry


class Base(DeclarativeBase):
    """The backend's metadata."""


class Level(StrEnum):
    """SQLAlchemy stores the names of the members, not their values."""

    FIRST = "first grade"
    SECOND = "second grade"


class Person(Base):
    """A person of the school; teachers are persons."""

    __tablename__ = "persons"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    kind: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text, default="")
    shoe_size: Mapped[int | None]


class Teacher(Person):
    """A person with a room, in a table of its own."""

    __tablename__ = "teachers"
    __mapper_args__ = {"polymorphic_identity": "teacher"}  # noqa: RUF012

    id: Mapped[int] = mapped_column(ForeignKey("persons.id"), primary_key=True)
    room: Mapped[str | None] = mapped_column(Text)


tutors = Table(
    "tutors",
    Base.metadata,
    Column("course_id", ForeignKey("courses.id"), primary_key=True),
    Column("person_id", ForeignKey("persons.id"), primary_key=True),
)


class Course(Base):
    """A course, to which seats belong."""

    __tablename__ = "courses"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    title: Mapped[str] = mapped_column(Text, default="")
    closed: Mapped[bool] = mapped_column(default=False)
    seats: Mapped[list["Seat"]] = relationship(cascade="all, delete-orphan")
    tutors: Mapped[list[Person]] = relationship(secondary=tutors)


class Seat(Base):
    """The mirror's key is course and pupil; the table's primary key is a number."""

    __tablename__ = "seats"

    number: Mapped[int] = mapped_column("id", BigInteger, primary_key=True)
    course_key: Mapped[int | None] = mapped_column("course_id", ForeignKey("courses.id"))
    pupil: Mapped[UUID]
    state: Mapped[str] = mapped_column(Text, default="taken")
    scribble: Mapped[str | None] = mapped_column(Text)
    course_alias = synonym("course_key")


class Grade(Base):
    """The key is an enum; the schema is named here and omitted in the mapping."""

    __tablename__ = "grades"
    __table_args__ = {"schema": "public"}  # noqa: RUF012

    level: Mapped[Level] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(Text, default="")


class Note(Base):
    """No mapping reads it."""

    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    body: Mapped[str] = mapped_column(Text, default="")


_grades = table("grades", column("level", Text), column("title", Text))

registry = Registry(
    "schools",
    [
        declared.Mapping(
            name="teachers",
            table="teachers",
            key=("id",),
            columns=(
                declared.Column("id", "bigint"),
                declared.Column("name", "text", descriptive=True),
                declared.Column("room", "text"),
            ),
            query=select(Person.__table__.c.id, Person.__table__.c.name, Teacher.__table__.c.room)
            .select_from(Person.__table__)
            .join(Teacher.__table__, Teacher.__table__.c.id == Person.__table__.c.id),
        ),
        declared.Mapping(
            name="seats",
            table="seats",
            key=("course_id", "pupil"),
            columns=(
                declared.Column("course_id", "bigint"),
                declared.Column("pupil", "uuid"),
                declared.Column("state", "text"),
            ),
            query=select(Seat.__table__.c.course_id, Seat.__table__.c.pupil, Seat.__table__.c.state)
            .select_from(Seat.__table__)
            .join(Course.__table__, Course.__table__.c.id == Seat.__table__.c.course_id)
            .where(~Course.__table__.c.closed),
            references=(declared.Reference("course_id", "bigint", table="courses"),),
        ),
        declared.Mapping(
            name="tutors",
            table="tutors",
            key=("course_id", "person_id"),
            columns=(
                declared.Column("course_id", "bigint"),
                declared.Column("person_id", "bigint"),
            ),
            query=select(tutors.c.course_id, tutors.c.person_id),
        ),
        declared.Mapping(
            name="grades",
            table="grades",
            key=("level",),
            columns=(declared.Column("level", "text"), declared.Column("title", "text")),
            query=select(_grades.c.level, _grades.c.title),
        ),
    ],
)
