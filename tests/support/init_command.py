"""`mirror init` in a directory of a test's own, and the registry that it writes."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mirror.cli.main import app
from mirror.model.registry import Registry, load_registry
from mirror.schema import guards_sql, model_sql, triggers_sql

MODULE = "mappings_of_mine"

Init = Callable[..., str]


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
