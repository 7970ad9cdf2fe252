"""Sparkline: the delays of the last revocations, until they were in force, as a line."""

from dataclasses import dataclass
from typing import Final

from mirror.diagnostics.figures import Figures, known

WIDTH: Final = 240
HEIGHT: Final = 40
_FEWEST: Final = 2


@dataclass(frozen=True)
class Sparkline:
    """The delays of the last revocations as a line, and the numbers that say the same in words."""

    points: str
    """For the attribute `points` of an SVG polyline."""
    revocations: int
    last_seconds: float
    slowest_seconds: float


def sparkline(figures: Figures) -> Sparkline | None:
    """Return the line; None if fewer than two delays are known."""
    primary = known(figures.primary)
    last = [each.seconds for each in primary.revocations] if primary else []
    if len(last) < _FEWEST:
        return None
    slowest = max(last)
    across, up = WIDTH / (len(last) - 1), (HEIGHT - 4) / (slowest or 1)
    points = (
        f"{place * across:.1f},{HEIGHT - 2 - seconds * up:.1f}"
        for place, seconds in enumerate(last)
    )
    return Sparkline(" ".join(points), len(last), last[-1], slowest)
