"""Throttle: pauses a reconcile while more urgent work waits."""

import time
from collections.abc import Callable

from mirror.capture.statements import statement
from mirror.sync.connections import Database

_LONGEST_PAUSE = 10.0
_CHECK_SECONDS = 1.0


class Throttle:
    """Pauses a reconcile while many events wait, or after the target was slow.

    No pause is longer than ten seconds. If no worker runs, the number of waiting events never
    falls, and then only the reconcile keeps the target right.

    Args:
        database: the primary.
        backlog: pause while more events than this wait.
        latency_seconds: pause after an answer of the target that took longer than this.
        sleep: waits for some seconds.
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
        """Seconds of all pauses."""
        self._sleep = sleep
        self._checked_at = float("-inf")

    def tick(self, seconds: float = 0.0) -> None:
        """Pause if too many events wait, or if `seconds` is too long, and return after the pause.

        `seconds` is the time that the target took for its last answer; 0: it was not asked.
        """
        if seconds > self.latency_seconds:
            self._pause(min(seconds, _LONGEST_PAUSE))
        if time.monotonic() < self._checked_at + _CHECK_SECONDS:
            return
        waited = 0.0
        while waited < _LONGEST_PAUSE and self._is_behind():
            self._pause(_CHECK_SECONDS / 2)
            waited += _CHECK_SECONDS / 2
        self._checked_at = time.monotonic()

    def _pause(self, seconds: float) -> None:
        self._sleep(seconds)
        self.paused += seconds

    def _is_behind(self) -> bool:
        counted = self.database.execute(statement("count_backlog"), [self.backlog + 1])
        return bool(counted[0][0] > self.backlog)
