"""Delays: how long events took from their transaction's start until they were in force.

The primary counts them by lane, and keeps the last revocations; each delay is an upper bound.
"""

from dataclasses import dataclass
from typing import Final

from mirror.diagnostics.figures import Figures, known

WIDTH: Final = 240
HEIGHT: Final = 40
_FEWEST: Final = 2


@dataclass(frozen=True)
class LaneDelays:
    """The delays of one lane's events since the history began."""

    lane: str
    buckets: tuple[tuple[float | None, int], ...]
    """Seconds, and how many events took at most as long: cumulative; None: all of them."""
    seconds: float
    """The sum of their delays."""


@dataclass(frozen=True)
class Sparkline:
    """The delays of the last revocations as a line, and the numbers that say the same in words."""

    points: str
    """For the attribute `points` of an SVG polyline."""
    revocations: int
    last_seconds: float
    slowest_seconds: float


def lane_delays(figures: Figures) -> list[LaneDelays]:
    """Return the delays by lane; empty if the primary is unknown, or keeps no history."""
    found = getattr(known(figures.primary), "delays", ())
    return [LaneDelays(each.lane, each.buckets, each.seconds) for each in found]


def sparkline(figures: Figures) -> Sparkline | None:
    """Return the line; None if fewer than two delays are known."""
    last = [each.seconds for each in getattr(known(figures.primary), "revocations", ())]
    if len(last) < _FEWEST:
        return None
    slowest = max(last)
    across, up = WIDTH / (len(last) - 1), (HEIGHT - 4) / (slowest or 1)
    points = (
        f"{place * across:.1f},{HEIGHT - 2 - seconds * up:.1f}"
        for place, seconds in enumerate(last)
    )
    return Sparkline(" ".join(points), len(last), last[-1], slowest)
