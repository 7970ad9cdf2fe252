"""The tables of settings, commands and helpers name all that exist, and nothing else."""

import ast
import dataclasses
import inspect
import re
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import mirror
from mirror.cli.main import COMMANDS
from mirror.model.registry import Registry
from mirror.schema import guards_sql, model_sql
from mirror.settings import Settings, variable

ROOT = Path(__file__).parent.parent.parent
GUIDE = (ROOT / "docs" / "guide.md").read_text()
SETTINGS = (ROOT / "docs" / "settings.md").read_text().split("| variable |")[1]
COMMANDS_PAGE = (ROOT / "docs" / "commands.md").read_text()


def test_every_setting_is_in_the_table_and_no_other() -> None:
    """The table includes the doorbell's settings, which the backend reads itself."""
    named = set(re.findall(r"`([A-Z][A-Z_]+)`", SETTINGS))
    doorbell = {"DOORBELL", "DOORBELL_SECONDS", "DOORBELL_QUIET_SECONDS"}
    expected = {variable(name) for name in Settings.model_fields}
    aliases = {"SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_ANON_KEY"}
    expected |= {f"MIRROR_{name}" for name in doorbell} | aliases
    assert named == expected


def test_every_command_is_in_the_table_and_no_other() -> None:
    """The names are compared."""
    rows = [line.split("|")[1] for line in COMMANDS_PAGE.splitlines() if line.startswith("|")]
    named = {name for row in rows for name in re.findall(r"`mirror (\w+)", row)}
    assert named == set(COMMANDS)


def test_the_helpers_named_are_those_that_the_model_installs() -> None:
    """A policy copied from the guide must find its function."""
    model = Path(__file__).parent.parent.parent / "migrations" / "supabase" / "0002_trips.sql"
    installed = set(re.findall(r"function mirror\.(\w+)\(", model.read_text()))
    named = set(re.findall(r"mirror\.(my_trips|my_trip_\w+|is_trip_\w+|has_trip_\w+)\(", GUIDE))
    assert named
    assert named <= installed


def test_the_example_of_a_readers_own_model_can_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its declarations are valid, and print a migration with the helpers that it names."""

    class Base(DeclarativeBase):
        pass

    class Workspace(Base):
        __tablename__ = "workspaces"
        id: Mapped[int] = mapped_column(primary_key=True)
        archived: Mapped[bool]

    class Project(Base):
        __tablename__ = "projects"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]
        workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"))

    class Member(Base):
        __tablename__ = "members"
        project_id: Mapped[int] = mapped_column(primary_key=True)
        user_id: Mapped[int] = mapped_column(primary_key=True)
        role: Mapped[str]
        status: Mapped[str]

    models: Any = ModuleType("app.models")
    models.Workspace, models.Project, models.Member = Workspace, Project, Member
    monkeypatch.setitem(sys.modules, "app", ModuleType("app"))
    monkeypatch.setitem(sys.modules, "app.models", models)
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL) if "Registry(" in b)
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102 - our own guide
    registry = names["registry"]
    assert isinstance(registry, Registry)
    assert "create or replace function mirror.my_projects(" in model_sql(registry)
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL) if "Guard(" in b)
    exec(block, names)  # noqa: S102 - the same
    guards = [names["documents"], names["comments"]]
    printed = guards_sql(Registry("app", list(registry), access=registry.access, guards=guards))
    assert "project_id = any((select mirror.my_projects('VIEWER'))::bigint[])" in printed


def test_the_reference_has_every_public_declaration() -> None:
    """A page that lists classes by hand would forget a new one."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"auto(?:class|function):: mirror\.(\w+)$", page, re.MULTILINE)
    assert sorted(listed) == sorted(mirror.__all__)


def test_the_reference_explains_every_field_of_a_declaration() -> None:
    """Sphinx leaves a field without a docstring out of the page."""
    for name in mirror.__all__:
        declaration = getattr(mirror, name)
        if not dataclasses.is_dataclass(declaration):
            continue
        (tree,) = ast.parse(inspect.getsource(cast("type", declaration))).body
        assert isinstance(tree, ast.ClassDef)
        for field, after in pairwise([*tree.body, ast.Pass()]):
            if isinstance(field, ast.AnnAssign):
                assert isinstance(after, ast.Expr), f"{name}: {ast.unparse(field)}"
