"""The benchmarks run and compare commits; these tests judge no figure."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.against import compare

HOME = Path(__file__).parent.parent.parent

FIGURES = {
    "capture": "create trip + hooks",
    "policies": "a page of 50 messages + RLS",
    "shares": "share of an event: target",
    "start": "mirror --version",
    "outbox": "an empty claim, a million drained events kept",
    "reconcile": "reconcile, 10,000 drifted, 20,000 memberships",
    "workers": "many workers: 3",
    "scale": "a drain of one event, 20,000 memberships",
    "soak": "soak, mirror run: tables of ours at the end, rewritten",
}

# A benchmark that takes no time: the library itself contains the figures.
STAND_IN = """
import json, sys
from mirror import FIGURES
file, part = sys.argv[-2:]
with open(file, "w") as written:
    json.dump({"figures": FIGURES}, written)
"""


def run(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run the benchmarks with small sizes; return the finished process."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", *arguments],
        cwd=HOME,
        capture_output=True,
        text=True,
        check=False,
    )


def lines(file: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON lines file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


# One part shows in `make test` that parts run; `make bench-quick` runs all, too.
@pytest.mark.parametrize(
    "part",
    [part if part == "start" else pytest.param(part, marks=pytest.mark.long) for part in FIGURES],
)
@pytest.mark.timeout(300)
def test_a_part_of_the_benchmarks_runs(part: str, tmp_path: Path) -> None:
    """The run uses few rows, writes a table and JSON, and saves each figure when it is measured."""
    file, kept = tmp_path / "last.json", tmp_path / "figures.jsonl"
    done = run("--json", file, "--keep", kept, part)
    assert done.returncode == 0, done.stderr[-2000:]
    values = json.loads(file.read_text())["figures"][FIGURES[part]]["values"]
    assert values
    assert f"| {FIGURES[part]} |" in done.stdout
    assert any(line.startswith(f"{FIGURES[part]}: ") for line in done.stdout.splitlines())
    each = [line for line in lines(kept) if line["figure"] == FIGURES[part]]
    assert [value for line in each for value in line["values"]] == values
    assert {line["part"] for line in each} == {part}


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_soak_that_is_cut_off_draws_its_curves(tmp_path: Path) -> None:
    """A quick run draws only where it is told to, so the picture of README.md stays."""
    shown = (HOME / "benchmarks" / "soak.svg").read_bytes()
    picture, samples = tmp_path / "soak.svg", tmp_path / "samples.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "soak"]
    command += ["--picture", str(picture), "--samples", str(samples)]
    with subprocess.Popen(command, cwd=HOME, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        # Each way checks once in 1.5 s, so the warm-up of 2 s is over then.
        for _ in range(10):
            assert any("a reconcile: " in line for line in process.stdout)
        process.terminate()
        rest = process.stdout.read()
    assert process.returncode == 128 + signal.SIGTERM
    assert "| soak, mirror run: connections |" in rest
    assert picture.read_text().count("<polyline") == 16
    assert [way["name"] for way in json.loads(samples.read_text())] == [
        "mirror run",
        "Celery, 2 processes",
    ]
    assert (HOME / "benchmarks" / "soak.svg").read_bytes() == shown


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_working_tree_is_compared_with_a_commit(tmp_path: Path) -> None:
    """The commit is checked out into another directory and measures itself."""
    kept = tmp_path / "figures.jsonl"
    done = run("--against", "HEAD", "--runs", "1", "--keep", kept, "outbox")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line for line in done.stdout.splitlines() if line.startswith("| an empty claim |")]
    assert [row.count(" ms ") for row in rows] == [2]
    claims = [line for line in lines(kept) if line["figure"] == "an empty claim"]
    assert [len(line["values"]) for line in claims] == [20, 20]


# The next tests use a small repository of their own.


def git(home: Path, *arguments: str) -> str:
    """Run git in a directory; return its output."""
    command = ["git", "-C", str(home), "-c", "user.name=test", "-c", "user.email=t@example.com"]
    done = subprocess.run([*command, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(home: Path) -> str:
    """Commit everything; return the commit's short name."""
    git(home, "init")
    git(home, "add", "--all")
    git(home, "commit", "--message", "test")
    return git(home, "rev-parse", "--short=7", "HEAD")


def write(home: Path, figures: dict[str, Any], benchmark: str = STAND_IN) -> None:
    """Write a library and a benchmark of it with one part, `speed`."""
    for name, text in (
        ("benchmarks/__init__.py", ""),
        ("benchmarks/__main__.py", benchmark),
        ("benchmarks/speed.py", "EVENTS = 500\n"),
        ("mappings/__init__.py", ""),
        ("mirror/__init__.py", f"FIGURES = {figures!r}\n"),
    ):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(text)
    # Two versions written in one second may have the same size, so Python must compile them again.
    for compiled in home.rglob("*.pyc"):
        compiled.unlink()


def figure(*values: float, unit: str = "/s") -> dict[str, object]:
    """Return a figure as benchmarks write it."""
    return {"unit": unit, "values": values}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty directory for a repository."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_each_commit_measures_its_own_library(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Uncommitted changes of the working tree count; for a rate, a ratio above one is better."""
    write(home, {"events": figure(100, 300), "a claim": figure(2, 2, unit="ms")})
    old = commit(home)
    write(home, {"events": figure(400, 400), "a claim": figure(3, 3, unit="ms")})
    compare(old, ["speed"], [], runs=3, home=home)
    out = capsys.readouterr().out
    assert "| events | 200 /s | 400 /s | 2 | 2, 2 | better |" in out
    assert "| a claim | 2 ms | 3 ms | 1.5 | 1.5, 1.5 | worse |" in out


def test_commits_take_turns_in_being_first(home: Path, tmp_path: Path) -> None:
    """The output keeps every figure with its commit and its run."""
    write(home, {"events": figure(100)})
    old = commit(home)
    write(home, {"events": figure(101)})
    kept = tmp_path / "figures.jsonl"
    compare(old, ["speed"], [], runs=3, keep=kept, home=home)
    new = f"{old}-dirty"
    order = [(line["run"], line["commit"]) for line in lines(kept)]
    assert order == [(1, old), (1, new), (2, new), (2, old), (3, old), (3, new)]


def test_figures_without_a_counterpart_are_named(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So are figures of parts with other sizes, and figures with more values in one commit."""
    write(home, {"rows": figure(100), "longer": figure(1, 2)})
    old = commit(home)
    write(home, {"events": figure(100), "longer": figure(1, 2, 3)})
    (home / "benchmarks" / "speed.py").write_text("EVENTS = 700\n")
    compare(old, ["speed"], [], runs=1, home=home)
    out = capsys.readouterr().out
    assert f"Only {old} has measured: rows." in out
    assert "Only the working tree has measured: events." in out
    assert "Not compared, because the numbers of values differ: longer (2 and 3)." in out
    assert f"sizes may differ: only {old} has 500 in benchmarks/speed.py." in out
    assert "sizes may differ: only the working tree has 700 in benchmarks/speed.py." in out


def test_a_comparison_that_is_cut_off_keeps_its_figures(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints the ratios measured so far and removes the worktree."""
    write(home, {"events": figure(100)})
    old = commit(home)
    left = tmp_path / "runs"
    left.write_text("2")
    failing = f"""
from pathlib import Path
left = Path({str(left)!r})
left.write_text(str(int(left.read_text()) - 1))
if left.read_text() == "0":
    raise SystemExit("out of memory")
"""
    write(home, {"events": figure(200)}, failing + STAND_IN)
    kept = tmp_path / "figures.jsonl"
    with pytest.raises(SystemExit, match=r"the working tree: .* exits with 1"):
        compare(old, ["speed"], [], runs=3, keep=kept, home=home)
    assert [line["values"] for line in lines(kept)] == [[100], [200]]
    assert "| events | 100 /s | 200 /s | 2 | 2, 2 | too few runs |" in capsys.readouterr().out
    assert len(git(home, "worktree", "list").splitlines()) == 1


def test_a_commit_that_would_measure_another_library_is_refused(home: Path) -> None:
    """A commit without a package `mirror` would import the installed one."""
    write(home, {"events": figure(100)})
    library = (home / "mirror" / "__init__.py").read_text()
    (home / "mirror" / "__init__.py").unlink()
    old = commit(home)
    (home / "mirror" / "__init__.py").write_text(library)
    with pytest.raises(SystemExit, match=rf"{old} would import .*mirror/__init__.py"):
        compare(old, ["speed"], [], runs=1, home=home)
