"""The table of settings has each default, each limit, and the processes that read it."""

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo

from mirror.capture.doorbell import DoorbellSettings
from mirror.capture.variables import BACKEND
from mirror.cli import health, relay
from mirror.settings import Settings, variable
from mirror.sync.wiring import build_relay, primary_database
from mirror.worker.celery_app import _celery_settings

PAGE = (Path(__file__).parent.parent.parent / "docs" / "settings.md").read_text(encoding="utf-8")
SET = {
    "PRIMARY_DATABASE_URL": "postgresql://localhost/primary",
    "PRIMARY_LISTEN_URL": "postgresql://localhost/primary",
    "REDIS_URL": "redis://localhost",
}
DOORBELL = {
    "MIRROR_DOORBELL": "mode",
    "MIRROR_DOORBELL_SECONDS": "seconds",
    "MIRROR_DOORBELL_QUIET_SECONDS": "quiet_seconds",
}


def rows() -> dict[str, list[str]]:
    """Return the cells behind each variable's name: meaning, default and limits, readers."""
    table = PAGE.split("| variable |")[1].split("\n\n")[0]
    cells = [line[2:-2].split(" | ") for line in table.splitlines()[2:]]
    return {each[0].strip("`"): [cell.strip() for cell in each[1:]] for each in cells}


ROWS = rows()


def shown(value: object) -> str:
    """Return a value as the table has it: numbers without an empty fraction, texts as code."""
    if value is None:
        return ""
    if isinstance(value, str):
        return f"`{value}`"
    number = cast("float", value)
    return str(int(number) if number == int(number) else number)


def limits(field: FieldInfo) -> str:
    """Return the allowed values of a number or of a word as the table has them."""
    kinds = [field.annotation, *get_args(field.annotation)]
    found = dict.fromkeys(word for kind in kinds for word in get_args(kind))
    if words := [word for word in found if isinstance(word, str)]:
        return ", ".join(map(shown, words))
    lowest = [shown(each.ge) for each in field.metadata if isinstance(each, Ge)]
    lowest += [f"more than {shown(each.gt)}" for each in field.metadata if isinstance(each, Gt)]
    highest = [shown(each.le) for each in field.metadata if isinstance(each, Le)]
    return " to ".join(lowest + highest) if highest else "".join(f"{low} or more" for low in lowest)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_table_has_the_default_and_the_limits_of_a_setting(name: str) -> None:
    """Those of the class that reads it."""
    field = Settings.model_fields[name]
    allowed = f"({limits(field)})" if limits(field) else ""
    assert ROWS[variable(name)][1] == f"{shown(field.default)} {allowed}".strip()


def test_the_table_has_the_defaults_of_the_doorbell() -> None:
    """A backend reads these itself."""
    for name, field in DOORBELL.items():
        assert ROWS[name][1].split(" (")[0] == shown(getattr(DoorbellSettings(), field))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[..., set[str]]:
    """Return a function that returns which variables a call reads from settings."""
    for name, value in SET.items():
        monkeypatch.setenv(name, value)

    def variables(call: Callable[[Settings], Any], source: Callable[..., Any]) -> set[str]:
        seen: set[str] = set()

        class Recorder(Settings):
            def __getattribute__(self, name: str) -> Any:
                if name in Settings.model_fields:
                    seen.add(name)
                return super().__getattribute__(name)

        settings = Recorder.model_validate({})
        seen.clear()
        call(settings)
        # The function of the command itself is not run: it would not end.
        for node in ast.walk(ast.parse(inspect.getsource(source))):
            if isinstance(node, ast.Attribute) and node.attr in Settings.model_fields:
                seen.add(node.attr)
        return {variable(name) for name in seen}

    return variables


def named(process: str) -> set[str]:
    """Return the variables that the table says a process reads."""
    return {name for name, cells in ROWS.items() if process in cells[2].split(", ")}


def test_the_table_says_what_a_backend_reads() -> None:
    """Its own variables, and the broker's URL."""
    assert named("backend") == BACKEND | {"REDIS_URL"}


def test_the_table_says_what_a_relay_reads(read: Callable[..., set[str]]) -> None:
    """It rings in its own thread, by the doorbell's limits."""
    expected = read(build_relay, relay.relay)
    limits_of_bell = {"MIRROR_DOORBELL_SECONDS", "MIRROR_DOORBELL_QUIET_SECONDS"}
    assert named("relay") == expected | limits_of_bell


def test_the_table_says_what_beat_reads(read: Callable[..., set[str]]) -> None:
    """It connects to no database."""

    def logs(settings: Settings) -> None:
        _celery_settings(settings)
        assert settings.log_format
        assert settings.log_level

    assert named("beat") == read(logs, _celery_settings)


def test_the_table_says_what_health_reads(read: Callable[..., set[str]]) -> None:
    """Of a worker, beat, or a relay."""
    assert named("health") == read(primary_database, health.health)
