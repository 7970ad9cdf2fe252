"""The command that runs tests on other versions of PostgreSQL, where it cannot."""

import platform
from pathlib import Path

import pytest

from mirror.devstack import node
from mirror.errors import ConfigError
from tests import matrix


def test_another_platform_is_told_which_pairs_were_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of them, and why; nobody takes it for a success."""
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert matrix.main([]) == 1
    told = capsys.readouterr().out
    for primary, target in matrix.PAIRS:
        assert f"SKIPPED: primary {primary}, target {target}" in told
    assert "riscv64" in told


def test_without_npm_the_pair_that_was_asked_for_is_skipped_aloud(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With what to install."""
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(matrix, "PACKAGE", tmp_path)

    def missing(name: str) -> str:
        raise ConfigError(f"{name} is missing; install Node, or permission-mirror[embedded].")

    (tmp_path / "package-lock.json").touch()
    monkeypatch.setattr(node, "find_program", missing)
    assert matrix.main(["--primary=14", "--target=15"]) == 1
    told = capsys.readouterr().out
    assert told.startswith("SKIPPED: primary 14, target 15: NOTHING WAS TESTED.\n")
    assert "install Node" in told


def test_every_file_that_the_pairs_run_exists() -> None:
    """Or pytest would end before the first test."""
    root = Path(matrix.__file__).parent.parent
    assert [path for path in matrix.TESTS if not (root / path).exists()] == []
