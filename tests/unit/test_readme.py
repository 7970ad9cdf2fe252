"""The README's tables name what there is, all of it and nothing else."""

import re
from pathlib import Path

from mirror.cli.main import app
from mirror.config import Settings, variable

README = (Path(__file__).parent.parent.parent / "README.md").read_text()


def section(title: str) -> str:
    """Return one section's text."""
    return README.split(f"## {title}\n")[1].split("\n## ")[0]


def test_every_setting_is_in_the_table_and_no_other() -> None:
    """The doorbell's, which the backend reads for itself, included."""
    named = set(re.findall(r"`([A-Z][A-Z_]+)`", section("Settings")))
    doorbell = {"DOORBELL", "DOORBELL_SECONDS", "DOORBELL_QUIET_SECONDS"}
    wanted = {variable(name) for name in Settings.model_fields}
    wanted |= {f"MIRROR_{name}" for name in doorbell} | {"SUPABASE_SERVICE_ROLE_KEY"}
    assert named == wanted


def test_every_command_is_in_the_table_and_no_other() -> None:
    """By name."""
    rows = [line.split("|")[1] for line in section("Commands").splitlines() if "`mirror " in line]
    named = {name for row in rows for name in re.findall(r"`mirror (\w+)", row)}
    commands = {
        command.name or getattr(command.callback, "__name__", "")
        for command in app.registered_commands
    }
    assert named == commands


def test_the_helpers_named_are_those_that_the_model_installs() -> None:
    """A policy copied from the README finds its function."""
    model = Path(__file__).parent.parent.parent / "migrations" / "supabase" / "0002_trips.sql"
    installed = set(re.findall(r"function mirror\.(\w+)\(", model.read_text()))
    named = set(re.findall(r"mirror\.(my_trips|my_trip_\w+|is_trip_\w+|has_trip_\w+)\(", README))
    assert named
    assert named <= installed
