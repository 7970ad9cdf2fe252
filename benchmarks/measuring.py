"""Measuring: the figures of one run, the ratios of their medians, and the goals of these ratios.

A report prints and keeps each measurement at once, so that a run that is cut off has its figures.
"""

import json
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

# Of fewer values, the 99th percentile is the largest one.
ENOUGH_FOR_P99 = 100


@dataclass
class Figure:
    """A quantity that was measured several times, in one unit."""

    unit: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median of all values."""
        return median(self.values)

    @property
    def p99(self) -> float:
        """The 99th percentile of all values; the largest one of fewer than a hundred."""
        if len(self.values) < ENOUGH_FOR_P99:
            return max(self.values)
        return quantiles(self.values, n=100, method="inclusive")[98]


@dataclass(frozen=True)
class Ratio:
    """The ratio of two figures, and its goal."""

    what: str
    value: float
    goal: float
    at_least: bool

    @property
    def reached(self) -> bool:
        """Whether the goal was reached."""
        compare = operator.ge if self.at_least else operator.le
        return bool(compare(self.value, self.goal))


class Report:
    """All figures of one run.

    Args:
        keep: a JSON lines file; each measurement is appended to it at once.
        context: further entries of each line of that file, for example the commit.
    """

    def __init__(
        self, keep: Path | None = None, context: Mapping[str, object] | None = None
    ) -> None:
        self.figures: dict[str, Figure] = {}
        self.ratios: list[Ratio] = []
        self.part = ""
        """The part that is being measured."""
        self._keep = keep
        self._context = context or {}

    def add(self, what: str, unit: str, *values: float) -> None:
        """Add values to a figure, print their median, and keep them.

        The unit is `s`, `ms`, `µs`, `MB`, `bytes`, `%`, `connections`, `/s` or `rows/s`.
        """
        self.figures.setdefault(what, Figure(unit)).values.extend(values)
        print(f"{what}: {described(Figure(unit, list(values)))}", flush=True)
        if self._keep is not None:
            append_line(
                self._keep,
                {**self._context, "part": self.part, "figure": what},
                Figure(unit, list(values)),
            )

    def ratio(
        self,
        what: str,
        of: str,
        to: str,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        by: Callable[[Figure], float] = lambda figure: figure.median,
    ) -> None:
        """Add the ratio of one figure to another, of their medians unless `by` says otherwise.

        The goal is `at_least` or `at_most`. Nothing is added if a figure was not measured.
        """
        goal = at_least if at_least is not None else at_most
        if goal is None or of not in self.figures or to not in self.figures:
            return
        value = by(self.figures[of]) / by(self.figures[to])
        self.ratios.append(Ratio(what, value, goal, at_least is not None))

    def markdown(self) -> str:
        """Return two tables: the ratios, and the figures behind them."""
        lines = ["| ratio | measured | goal | |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {r.what} | {r.value:.3g} | {'≥' if r.at_least else '≤'} {r.goal:g} |"
            f" {'' if r.reached else 'not reached'} |"
            for r in self.ratios
        ]
        lines += [
            "",
            "| figure | median | from, to | p99 | values |",
            "| --- | --- | --- | --- | --- |",
        ]
        for what, figure in self.figures.items():
            numbers = [figure.median, min(figure.values), max(figure.values), figure.p99]
            middle, low, high, tail = map(shown, numbers)
            lines.append(
                f"| {what} | {middle} {figure.unit} | {low}, {high} | {tail} |"
                f" {len(figure.values)} |"
            )
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write all figures and ratios as JSON."""
        content: dict[str, Any] = {
            "figures": {what: vars(figure) for what, figure in self.figures.items()},
            "ratios": [{**vars(ratio), "reached": ratio.reached} for ratio in self.ratios],
        }
        path.write_text(json.dumps(content, indent=2) + "\n")


def append_line(path: Path, context: Mapping[str, object], figure: Figure) -> None:
    """Append a measurement to a JSON lines file: the time, its context, its unit and values."""
    line = {"at": datetime.now(UTC).isoformat(timespec="seconds"), **context, **vars(figure)}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def described(figure: Figure) -> str:
    """Return the median with its unit, and the number of values if there are several."""
    count = len(figure.values)
    return f"{shown(figure.median)} {figure.unit}" + (f", median of {count}" if count > 1 else "")


def shown(value: float) -> str:
    """Return a number as text: below a hundred with three digits, above without a fraction."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 - as it says
