"""Against: runs parts of an older commit and of the working tree in turns, and prints ratios.

The older commit is checked out into a temporary git worktree. Its own `benchmarks` package measures
its own library there, in processes of its own, with the packages of the virtual environment that
runs this, and with those that only the older commit pins. Both commits measure a part one directly
after the other, and which of them is first alternates, so that slow changes of the machine's speed
affect both alike.
"""

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from statistics import median

from benchmarks.measuring import ENOUGH_FOR_P99, Figure, append_line, described, shown

HOME = Path(__file__).parent.parent

# The file that pins the Python packages. Both commits run with those of the working tree.
_PINNED = "requirements/dev.txt"

# With fewer runs, all ratios are often on the same side of one by chance.
_ENOUGH_RUNS = 3

_IMPORTED = """
import benchmarks, mappings, mirror
print(benchmarks.__file__, mappings.__file__, mirror.__file__, sep="\\n")
"""


@dataclass(frozen=True)
class BenchmarkedTree:
    """One of the two commits that are compared, in a directory of its own."""

    name: str
    tree: Path
    commit: str
    packages: Path | None = None
    """A directory of packages that only this commit needs."""

    def measure(self, part: str, sizes: Sequence[str]) -> dict[str, Figure]:
        """Run a part in a process of its own; return its figures by name.

        Raises:
            SystemExit: the part fails, or the process would import the other commit's modules.
        """
        self._check_imports()
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "figures.json"
            # Its table is not shown: the comparison prints the same figures.
            self._python("-m", "benchmarks", *sizes, "--json", str(file), part)
            found = json.loads(file.read_text(encoding="utf-8"))["figures"]
        return {name: Figure(**figure) for name, figure in found.items()}

    def _check_imports(self) -> None:
        for file in self._python("-c", _IMPORTED).splitlines():
            if not Path(file).is_relative_to(self.tree):
                raise SystemExit(f"{self.name} would import {file}, which is not in {self.tree}.")

    def _python(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.tree,
            env={**os.environ, "PYTHONPATH": ":".join(map(str, self._paths()))},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{self.name}: {' '.join(arguments)} exits with {done.returncode}.")
        return done.stdout

    def _paths(self) -> Iterator[Path]:
        yield self.tree
        if self.packages is not None:
            yield self.packages

    def sizes(self, part: str) -> set[float]:
        """Return all numbers in a part's source; among them are its numbers of rows and rounds.

        Raises:
            SystemExit: there is no such part.
        """
        file = self.tree / "benchmarks" / f"{part}.py"
        if not file.exists():
            raise SystemExit(f"{self.name} has no part {part}.")
        return {
            node.value
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant)
            if isinstance(node.value, int | float) and not isinstance(node.value, bool)
        }


class CommitComparison:
    """The figures of both commits, run by run, and the ratios of the new ones to the old ones."""

    def __init__(self, old: str, new: str) -> None:
        self.old = old
        self.new = new
        self.runs: dict[str, list[dict[str, Figure]]] = {}
        """For each figure one entry a run, with the figure of each side that has measured it."""

    def add(self, run: int, side: str, figures: dict[str, Figure]) -> None:
        """Add the figures of one side in a run; `run` counts from 0."""
        for name, figure in figures.items():
            runs = self.runs.setdefault(name, [])
            runs.extend({} for _ in range(run + 1 - len(runs)))
            runs[run][side] = figure

    def markdown(self) -> str:
        """Return a table of the ratios, and name the figures that have none."""
        lines = [
            f"| figure | {self.old} | {self.new} | ratio: median | from, to | |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        notes = []
        for name, runs in self.runs.items():
            pairs = [(run[self.old], run[self.new]) for run in runs if len(run) > 1]
            if not pairs:
                (only,) = {side for run in runs for side in run}
                notes.append(f"Only {only} has measured: {name}.")
            elif counts := _unequal(pairs):
                notes.append(f"Not compared, because the numbers of values differ: {name}{counts}.")
            else:
                lines += _rows(name, pairs)
        return "\n".join([*lines, *([""] if notes else []), *notes])


def compare(
    revision: str,
    parts: Sequence[str],
    sizes: Sequence[str],
    *,
    runs: int,
    keep: Path | None = None,
    home: Path = HOME,
) -> CommitComparison:
    """Measure parts of an older commit and of the working tree in turns; print the ratios.

    Args:
        revision: any name that git knows the older commit by.
        parts: names of parts that both commits have.
        sizes: options of `python -m benchmarks` that both commits get.
        runs: how often each commit measures each part.
        keep: a JSON lines file; each figure is appended to it when its part has ended.
        home: the working tree.

    Raises:
        SystemExit: git does not know the commit, or a part fails.
    """
    with _checked_out(home, revision) as old:
        new = BenchmarkedTree("the working tree", home.resolve(), commit_of(home))
        print(f"{new.name} ({new.commit}) against {old.name}")
        for warning in _warnings(old, new, parts):
            print(f"Note: {warning}")
        comparison = CommitComparison(old.name, new.name)
        try:
            for run, part, side in _turns(old, new, parts, runs):
                print(f"\nRun {run + 1} of {runs}: {part} of {side.name}", flush=True)
                figures = side.measure(part, sizes)
                comparison.add(run, side.name, figures)
                context = {"commit": side.commit, "run": run + 1, "part": part}
                for name, figure in figures.items():
                    print(f"{name}: {described(figure)}", flush=True)
                    if keep is not None:
                        append_line(keep, {**context, "figure": name}, figure)
        finally:
            # Also when the run is cut off.
            print(f"\n{comparison.markdown()}", flush=True)
    return comparison


def _turns(
    old: BenchmarkedTree, new: BenchmarkedTree, parts: Sequence[str], runs: int
) -> Iterator[tuple[int, str, BenchmarkedTree]]:
    for run in range(runs):
        for part in parts:
            for side in (old, new) if run % 2 == 0 else (new, old):
                yield run, part, side


def commit_of(tree: Path) -> str:
    """Return the short hash of a working tree's commit, with `-dirty` if files differ from it."""
    return _git(tree, "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*")


@contextmanager
def _checked_out(home: Path, revision: str) -> Iterator[BenchmarkedTree]:
    """Yield an older commit in a temporary worktree."""
    commit = _git(home, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    with tempfile.TemporaryDirectory(prefix="against-") as directory:
        tree = Path(directory).resolve() / commit[:7]
        _git(home, "worktree", "add", "--quiet", "--detach", str(tree), commit)
        try:
            packages = _install_others(tree, home, into=Path(directory) / "packages")
            yield BenchmarkedTree(commit[:7], tree, commit[:7], packages)
        finally:
            _git(home, "worktree", "remove", "--force", str(tree))


def _git(tree: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(tree), *arguments],  # noqa: S607 - git is on the PATH
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _install_others(old: Path, new: Path, *, into: Path) -> Path | None:
    """Install the packages that only the older commit pins; return their directory, or None."""
    pinned, known = _pins(old / _PINNED), _pins(new / _PINNED)
    others = [pin for name, pin in pinned.items() if name not in known]
    if not others:
        return None
    into.mkdir()
    (into / "pinned.txt").write_text("\n".join(others), encoding="utf-8")
    options = ["--quiet", "--no-deps", "--require-hashes", "--target", str(into)]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "-r", str(into / "pinned.txt")],
        check=True,
    )
    return into


def _pins(file: Path) -> dict[str, str]:
    """Return the pins of a requirements file with their hashes, by the package's name."""
    if not file.exists():
        return {}
    pins = re.split(r"\n(?=[A-Za-z0-9])", file.read_text(encoding="utf-8"))
    return {re.split(r"[\[=]", pin)[0].lower(): pin for pin in pins if "==" in pin}


def _warnings(old: BenchmarkedTree, new: BenchmarkedTree, parts: Sequence[str]) -> Iterator[str]:
    pins = [side.tree / _PINNED for side in (old, new)]
    if len({path.read_bytes() if path.exists() else b"" for path in pins}) > 1:
        yield (
            f"{_PINNED} differs; both run with the packages of {new.name},"
            f" and {old.name} with those that it alone pins."
        )
    for part in parts:
        then, now = old.sizes(part), new.sizes(part)
        for side, numbers in ((old, then - now), (new, now - then)):
            if numbers:
                found = ", ".join(f"{number:g}" for number in sorted(numbers))
                yield f"sizes may differ: only {side.name} has {found} in benchmarks/{part}.py."


def _unequal(pairs: Sequence[tuple[Figure, Figure]]) -> str:
    """Return a text with both numbers of values if they differ in a run; else an empty string."""
    for old, new in pairs:
        if len(old.values) != len(new.values):
            return f" ({len(old.values)} and {len(new.values)})"
    return ""


def _rows(name: str, pairs: Sequence[tuple[Figure, Figure]]) -> Iterator[str]:
    """Yield a row for the medians, and one for the 99th percentiles of figures that have them."""
    unit = pairs[0][0].unit
    more_is_better = unit.endswith("/s")
    several = len(pairs[0][0].values) >= ENOUGH_FOR_P99
    for title, of in ((name, attrgetter("median")), (f"{name}, p99", attrgetter("p99"))):
        numbers = [(of(old), of(new)) for old, new in pairs]
        ratios = [new / old for old, new in numbers if old]
        before, after = (median(side) for side in zip(*numbers, strict=True))
        row = f"| {title} | {shown(before)} {unit} | {shown(after)} {unit} |"
        if ratios:
            low, high = min(ratios), max(ratios)
            row += f" {median(ratios):.3g} | {low:.3g}, {high:.3g} |"
            if len(ratios) < _ENOUGH_RUNS:
                row += " too few runs |"
            elif low <= 1 <= high:
                row += " within the spread |"
            else:
                row += " better |" if (low > 1) is more_is_better else " worse |"
        yield row if ratios else f"{row} | | |"
        if not several:
            return
