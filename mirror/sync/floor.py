"""Floor: from where on to look for events.

While somebody holds an old snapshot, the index of the outbox keeps the entries of all that was
drained since, and each look from its beginning would pass them. A floor is a transaction id below
which there are no events and will be none: every transaction below it has ended, and what it
recorded is gone. Who finds a floor keeps it to itself; nothing is stored.
"""

import time
from collections.abc import Callable
from typing import Final

from mirror.capture.statements import statement
from mirror.sync.connections import Database

# Rows that came with another server's transaction ids, by a dump, may lie below.
_SECONDS: Final = 300.0


class Floor:
    """What one reader of the outbox knows of where events begin."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self.value = 0
        """Transaction id; 0 is below all."""
        self._database = database
        self._clock = clock
        self._begun = clock()

    @property
    def stale(self) -> bool:
        """Whether it is time to look from the beginning again."""
        return self._clock() > self._begun + _SECONDS

    def advance(self) -> None:
        """Find out how high it is by now; from the beginning, if it is stale."""
        if self.stale:
            self.forget()
        self.value = self._database.execute(statement("find_floor"), {"floor": self.value})[0][0]

    def forget(self) -> None:
        """Look from the beginning again, such as after a server came back: it may be another."""
        self.value = 0
        self._begun = self._clock()
