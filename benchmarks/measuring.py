"""What was measured: figures, ratios of their medians, and the goals that these have."""

import json
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

# Below a hundred values the 99th percentile is the largest one.
_HUNDRED = 100


@dataclass
class Figure:
    """One thing that was measured, each time in the same unit."""

    unit: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Of all values."""
        return median(self.values)

    @property
    def p99(self) -> float:
        """The 99th percentile of all values."""
        if len(self.values) < _HUNDRED:
            return max(self.values)
        return quantiles(self.values, n=100, method="inclusive")[98]


@dataclass(frozen=True)
class Ratio:
    """What two figures make, and what was aimed at."""

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
    """All figures of one run."""

    def __init__(self) -> None:
        self.figures: dict[str, Figure] = {}
        self.ratios: list[Ratio] = []

    def add(self, what: str, unit: str, *values: float) -> None:
        """Note values of a figure: `s`, `ms`, `MB`, `/s`."""
        self.figures.setdefault(what, Figure(unit)).values.extend(values)

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
        """Note what one figure is to another, by their medians if not told otherwise."""
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
            shown = [figure.median, min(figure.values), max(figure.values), figure.p99]
            middle, low, high, tail = (_shown(value) for value in shown)
            lines.append(
                f"| {what} | {middle} {figure.unit} | {low}, {high} | {tail} |"
                f" {len(figure.values)} |"
            )
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        content: dict[str, Any] = {
            "figures": {
                what: {"unit": figure.unit, "values": figure.values}
                for what, figure in self.figures.items()
            },
            "ratios": [{**vars(ratio), "reached": ratio.reached} for ratio in self.ratios],
        }
        path.write_text(json.dumps(content, indent=2) + "\n")


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= _HUNDRED else f"{value:.3g}"
