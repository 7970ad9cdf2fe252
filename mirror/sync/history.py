"""History: records in the primary how events ended, and how long they took until in force.

A delay is an upper bound. It begins with the transaction that recorded the event, which is before
its commit, and ends when the worker has settled the event, which is after the target's commit. A
worker keeps the events in memory and adds them about once a second: many workers share a few rows.
If it or the server crashes meanwhile, that
second is missing from the history.
"""

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from math import inf
from typing import Final

import structlog

from mirror.capture.statements import statement
from mirror.errors import MirrorError
from mirror.sync.connections import Database

log = structlog.stdlib.get_logger(__name__)

BOUNDS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 45, 60, 120, 300, 900, 3600, 86_400, inf)
"""The upper bounds of the buckets, in seconds."""

# In seconds.
_PAUSE: Final = 1.0
_PAUSE_AFTER_ERROR: Final = 60.0

# So many batches are kept in memory until they are written; older ones are dropped.
_MOST: Final = 1_000


@dataclass(frozen=True)
class Delivered:
    """Events of one mapping that are in force."""

    mapping: str
    ids: str
    """Their ids, revocations first: an array literal of PostgreSQL."""
    ages: str
    """The seconds from the start of each one's transaction until the claim: likewise."""
    revocations: int
    """The number of revocations."""
    seconds: float
    """From the claim until they were in force."""
    apart: Collection[int] = ()
    """Ids among these that were set apart, so they are not in force."""


class History:
    """The part of the history that one worker adds.

    It passes arrays on as texts, so a worker computes nothing for single events.

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
        self._database = database
        self._limit = revocations
        self._now = clock
        self._write_after = 0.0
        self._delivered: deque[tuple[Delivered, float]] = deque(maxlen=_MOST)
        """With the time at which each batch was in force."""
        self._dead: Counter[str] = Counter()
        """By mapping, how many events have become dead."""

    def add(self, delivered: Delivered) -> None:
        """Add events that are in force since a moment ago."""
        if self._limit > 0:
            self._delivered.append((delivered, self._now()))

    @property
    def due(self) -> bool:
        """Whether `write` would write, other than at once."""
        return self._waiting and self._now() >= self._write_after

    @property
    def _waiting(self) -> bool:
        return bool(self._delivered or self._dead)

    def add_dead(self, mapping: str) -> None:
        """Add an event that is dead."""
        if self._limit > 0:
            self._dead[mapping] += 1

    def write(self, *, at_once: bool = False) -> None:
        """Write the events that were added, at most once a second, or `at_once`.

        An error is logged, not raised: these events are dropped, and for a minute nothing is
        written. No event may wait for its own history.
        """
        if not (self._waiting if at_once else self.due):
            return
        now = self._now()
        self._write_after = now + _PAUSE
        delivered = [
            {**vars(each), "apart": list(each.apart), "batch": batch, "ago": now - at}
            for batch, (each, at) in enumerate(self._delivered)
        ]
        dead = dict(self._dead)
        self._delivered.clear()
        self._dead.clear()
        bounds = f"{{{','.join(map(str, BOUNDS))}}}"
        try:
            self._database.call(
                statement("add_history"),
                [json.dumps(delivered), bounds, str(self._limit), json.dumps(dead)],
                durable=False,
            )
        except MirrorError as error:
            self._write_after = now + _PAUSE_AFTER_ERROR
            log.warning("history not written", reason=str(error))
