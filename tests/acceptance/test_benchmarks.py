"""The benchmarks run; what they measure is for an idle machine to say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FIGURES = {
    "capture": "create trip + hooks",
    "policies": "a page of 50 messages + RLS",
    "shares": "share of an event: target",
    "outbox": "an empty claim, a million drained events kept",
    "reconcile": "reconcile, 10,000 drifted, 20,000 memberships",
}


@pytest.mark.parametrize("part", FIGURES)
def test_a_part_of_the_benchmarks_runs(part: str, tmp_path: Path) -> None:
    """With few rows, and writes what it found as a table and as JSON."""
    file = tmp_path / "last.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--json", file, part],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    values = json.loads(file.read_text())["figures"][FIGURES[part]]["values"]
    assert values
    assert f"| {FIGURES[part]} |" in done.stdout
