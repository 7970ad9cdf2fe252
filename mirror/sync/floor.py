"""Floor: the transaction id from which on a reader searches the outbox.

While a session holds an old snapshot, the outbox's index keeps an entry of every event that was
applied since, and a search from its start passes all of them. A floor is a transaction id below
which there are no events and will be none: every transaction below it has ended, and its events
are gone. Each process keeps its own floor in memory.
"""

import time
from collections.abc import Callable
from typing import Final

from mirror.capture.statements import statement
from mirror.sync.connections import Database

# A dump that is loaded brings rows with another server's transaction ids, which may be below the
# floor. So a floor counts only for this time.
_STALE_SECONDS: Final = 300.0


class Floor:
    """One reader's floor."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self.value = 0
        """A transaction id; 0 is below all."""
        self._database = database
        self._clock = clock
        self._reset_at = clock()

    @property
    def stale(self) -> bool:
        """Whether the next `advance` must search from the start of the outbox."""
        return self._clock() > self._reset_at + _STALE_SECONDS

    def advance(self) -> None:
        """Find the present floor: from the last one on, or from the start if that is stale."""
        if self.stale:
            self.reset()
        self.value = self._database.execute(statement("find_floor"), {"floor": self.value})[0][0]

    def reset(self) -> None:
        """Start from zero, for example after a lost connection: the server may be another."""
        self.value = 0
        self._reset_at = self._clock()
