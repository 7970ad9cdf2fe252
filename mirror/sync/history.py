"""History: records in the primary how long events took until they were in force.

A delay is an upper bound. It begins with the transaction that recorded the event, which is before
its commit, and ends when the worker has settled the event, which is after the target's commit. A
worker keeps what it has counted in memory and adds it about once a second: many workers share a few
rows. If it crashes meanwhile, that second is missing from the history.
"""

import json
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Final

import structlog

from mirror.capture.outbox import Lane
from mirror.capture.statements import statement
from mirror.errors import MirrorError
from mirror.sync.connections import Database

log = structlog.stdlib.get_logger(__name__)

BOUNDS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 45, 60, 120, 300, 900, 3600, 86_400, inf)
"""The upper bounds of the buckets, in seconds."""

# In seconds.
_PAUSE: Final = 1.0
_PAUSE_AFTER_ERROR: Final = 60.0


@dataclass(frozen=True)
class Delivered:
    """One event that is in force."""

    id: int
    lane: Lane
    mapping: str
    seconds: float
    """Its delay."""


class History:
    """The part of the history that one worker adds.

    Args:
        database: the primary; it has no open transaction when `write` is called.
        revocations: how many of the last revocations the primary keeps; 0: no history at all.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        database: Database,
        *,
        revocations: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.kept = revocations > 0
        """Whether there is a history."""
        self._database = database
        self._limit = revocations
        self._now = clock
        self._write_after = 0.0
        self._events: Counter[tuple[int, float]] = Counter()
        """By lane and bucket."""
        self._seconds: Counter[tuple[int, float]] = Counter()
        self._revocations: deque[tuple[Delivered, float]] = deque(maxlen=max(revocations, 1))
        """With the time at which each was in force."""

    def add(self, delivered: Iterable[Delivered]) -> None:
        """Count events that are in force since a moment ago."""
        now = self._now()
        for each in delivered:
            seconds = max(each.seconds, 0.0)
            bucket = int(each.lane), BOUNDS[bisect_left(BOUNDS, seconds)]
            self._events[bucket] += 1
            self._seconds[bucket] += seconds  # type: ignore[assignment]
            if each.lane is Lane.REVOCATION:
                self._revocations.append((each, now))

    def write(self, *, at_once: bool = False) -> None:
        """Write what was counted, at most once a second, or `at_once`.

        An error is logged, not raised: what was counted is dropped, and for a minute nothing is
        written. No event may wait for its own history.
        """
        now = self._now()
        if not self._events or (now < self._write_after and not at_once):
            return
        self._write_after = now + _PAUSE
        delays = [
            [lane, str(bound), count, self._seconds[lane, bound]]
            for (lane, bound), count in self._events.items()
        ]
        revocations = [
            [each.id, each.mapping, each.seconds, now - at] for each, at in self._revocations
        ]
        for counted in (self._events, self._seconds, self._revocations):
            counted.clear()
        try:
            self._database.call(
                statement("add_history"),
                [json.dumps(delays), json.dumps(revocations), str(self._limit)],
            )
        except MirrorError as error:
            self._write_after = now + _PAUSE_AFTER_ERROR
            log.warning("history not written", reason=str(error))
