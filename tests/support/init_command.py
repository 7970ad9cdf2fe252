"""`mirror init` in a directory of a test's own, and the registry that it writes."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mirror.cli.app import app
from mirror.model.registry import Registry, load_registry
from mirror.schema import guards_sql, model_sql, triggers_sql

MODULE = "mappings_of_mine"

Init = Callable[..., str]

# Models whose users have ids of the backend's own, and their parts.
HEADER = """
from datetime import datetime
from uuid import UUID
from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, Enum, ForeignKey, Index
from sqlalchemy import String, Table, Text, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    supabase_id: Mapped[UUID | None] = mapped_column(unique=True)
    name: Mapped[str]


class Board(Base):
    __tablename__ = "boards"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    title: Mapped[str]
"""
MEMBER = """
class Membership(Base):
    __tablename__ = "board_members"
    board_id: Mapped[int] = mapped_column(ForeignKey("boards.id"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True)
"""
ROLE = '    role: Mapped[str] = mapped_column(Enum("OWNER", "EDITOR", "VIEWER", name="role"))\n'
OWNED = '    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id"))\n'
CORE = """
from sqlalchemy import BigInteger, Boolean, Column, DateTime, Enum, ForeignKey, MetaData
from sqlalchemy import Table, Text, Uuid

metadata = MetaData()
users = Table("Users", metadata, Column("id", Uuid, primary_key=True), Column("isActive", Boolean))
rooms = Table(
    "rooms", metadata, Column("id", BigInteger, primary_key=True), Column("class", Text),
    Column("deletedAt", DateTime)
)
room_members = Table(
    "room_members", metadata,
    Column("roomId", ForeignKey("rooms.id"), primary_key=True),
    Column("userId", ForeignKey("Users.id"), primary_key=True),
    Column("level", Enum("read", "write", name="level")),
)
"""


@pytest.fixture
def init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Init]:
    """Return a function that runs the command in an empty directory and returns what it prints.

    `models` is the text of the module app.models there. The command's errors are raised.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def run(*arguments: str, models: str = "") -> str:
        forget()
        if models:
            (tmp_path / "app").mkdir(exist_ok=True)
            (tmp_path / "app" / "models.py").write_text(models)
            arguments = ("--models", "app.models", *arguments)
        result = CliRunner().invoke(app, ["init", "--output", f"{MODULE}.py", *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    yield run
    forget()


def forget() -> None:
    """Forget the modules of an earlier run, so that they are read again."""
    for module in ("app", "app.models", MODULE):
        sys.modules.pop(module, None)


def written_registry() -> Registry:
    """Return the registry of the written module; its SQL can be printed."""
    found = load_registry(MODULE)
    for printed in (model_sql, guards_sql, triggers_sql):
        assert printed(found)
    return found


def written_text() -> str:
    """Return the text of the written module."""
    return Path(f"{MODULE}.py").read_text()
