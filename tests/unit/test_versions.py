"""`make test-versions`: which interpreters it finds, and what it says of those it does not."""

import sys
from pathlib import Path

import pytest

from tests import versions

HERE = f"3.{sys.version_info.minor}"
NOWHERE = "3.999"


@pytest.fixture(autouse=True)
def _only_this_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with one Python, beside a program of its name that fails."""
    (tmp_path / f"python{HERE}").write_text("#!/bin/sh\nexit 127\n")
    (tmp_path / f"python{HERE}").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{Path(sys.executable).parent}")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path))


def test_the_versions_are_those_that_the_classifiers_promise() -> None:
    """At least the one that runs this."""
    assert HERE in versions.promised()


def test_an_interpreter_is_found_behind_one_that_does_not_run() -> None:
    """As pyenv has a shim for each version, of which only the chosen ones run."""
    assert versions.interpreter(HERE) == Path(sys.executable).parent / f"python{HERE}"
    assert versions.interpreter(NOWHERE) is None


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_a_missing_version_is_named_and_the_others_decide(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, passed: bool, code: int
) -> None:
    """A version that was not tested is never reported as passed."""
    monkeypatch.setattr(versions, "passes", lambda *_: passed)
    assert versions.main([NOWHERE, HERE]) == code
    printed = capsys.readouterr().out
    assert f"Python {NOWHERE} is not on this machine: NOT TESTED" in printed
    assert f"Python {HERE} {'passed' if passed else 'FAILED'}" in printed


def test_to_find_none_is_an_error() -> None:
    """A run that tests nothing must not pass."""
    assert versions.main([NOWHERE]) == 2
