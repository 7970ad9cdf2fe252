"""Throttle: let a reconcile stand aside while there is more urgent work."""

import time
from collections.abc import Callable

from mirror.capture.statements import statement
from mirror.sync.connections import Database

_LONGEST_PAUSE = 10.0
_LOOK_EVERY = 1.0


class Throttle:
    """Pauses while the drain's backlog is long, or the target slow.

    Never for ever: with no worker running the backlog would not shrink, and a reconcile is what
    then keeps the target right.
    """

    def __init__(
        self,
        database: Database,
        *,
        backlog: int,
        latency_seconds: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.database = database
        self.backlog = backlog
        self.latency_seconds = latency_seconds
        self.paused = 0.0
        """Seconds, in all."""
        self._sleep = sleep
        self._looked = float("-inf")

    def tick(self, seconds: float = 0.0) -> None:
        """Pause if need be; `seconds` is what the target took for its last answer."""
        if seconds > self.latency_seconds:
            self._pause(min(seconds, _LONGEST_PAUSE))
        if time.monotonic() < self._looked + _LOOK_EVERY:
            return
        waited = 0.0
        while waited < _LONGEST_PAUSE and self._behind():
            self._pause(_LOOK_EVERY / 2)
            waited += _LOOK_EVERY / 2
        self._looked = time.monotonic()

    def _pause(self, seconds: float) -> None:
        self._sleep(seconds)
        self.paused += seconds

    def _behind(self) -> bool:
        counted = self.database.execute(statement("count_backlog"), [self.backlog + 1])
        return bool(counted[0][0] > self.backlog)
