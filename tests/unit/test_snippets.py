"""The Python snippets of the README and of docs/ run, in the order in which a page shows them.

A snippet that needs a server or a web framework is skipped, with a comment before it: `<!-- skip:
next -->`; a second comment says which test runs it. The tutorial and the pages of docs/howto/ are
played on servers: tests/acceptance/test_tutorial.py, test_howto.py.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import ForeignKey, Select, column, select, table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

from mappings.trips import registry
from tests.support.blocks import PAGES as ALL_PAGES
from tests.support.blocks import ROOT, continues_tutorial

PAGES = [
    path
    for path in ALL_PAGES
    if "```python" in path.read_text(encoding="utf-8") and not continues_tutorial(path)
]
SYBIL = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()], path=str(ROOT))


class Base(DeclarativeBase):
    """The base class of the reader's models."""


class Workspace(Base):
    """A table that the query of projects joins."""

    __tablename__ = "workspaces"
    id: Mapped[int] = mapped_column(primary_key=True)
    archived: Mapped[bool]


class Project(Base):
    """A mirrored entity."""

    __tablename__ = "projects"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"))


class Member(Base):
    """A member of a project."""

    __tablename__ = "members"
    project_id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(primary_key=True)
    role: Mapped[str]
    status: Mapped[str]


class User(Base):
    """A user; one column is the user's id in Supabase."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    supabase_id: Mapped[str | None]


class Membership(Base):
    """The role of a user in a trip."""

    __tablename__ = "trip_memberships"
    trip_id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(primary_key=True)
    role: Mapped[str]


def rights_of(source: str) -> Select[Any]:
    """Return the rights of the page on flat grants that a table gives."""
    labels = ("user_id", "resource_type", "resource_id", "workspace_id", "granted_at")
    columns: list[Any] = [column(label) for label in (*labels, "permission_level")]
    return select(*columns).select_from(table(source))


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader's application, `app.models`, and the secret of their project."""
    models: Any = ModuleType("app.models")
    for model in (Workspace, Project, Member, User, Membership):
        setattr(models, model.__name__, model)
    monkeypatch.setitem(sys.modules, "app", ModuleType("app"))
    monkeypatch.setitem(sys.modules, "app.models", models)
    monkeypatch.setenv("SUPABASE_JWT_SECRET", "a secret of 32 bytes or more, made up")


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_snippets_of_a_page_run(path: Path) -> None:
    """They run one after the other, in one namespace."""
    document = SYBIL.parse(path)
    document.namespace |= {
        "make_session": sessionmaker(),
        "registry": registry,
        "sources": [rights_of("company_members"), rights_of("workspace_members")],
    }
    for example in document.examples():
        example.evaluate()


def test_a_snippet_that_fails_is_noticed(tmp_path: Path) -> None:
    """The error has the page and the line."""
    page = tmp_path / "page.md"
    page.write_text("A page.\n\n```python\nfrom mirror import Nothing\n```\n")
    (example,) = SYBIL.parse(page).examples()
    with pytest.raises(ImportError, match="Nothing"):
        example.evaluate()
    assert example.line == 3
