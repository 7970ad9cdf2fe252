"""Heartbeats: the parts of the mirror note in the primary that they are at work."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from mirror.capture.statements import statement
from mirror.errors import Permanent
from mirror.sync.connections import Database

Part = Literal["drain", "sweep", "relay"]

_SECONDS = 60.0


class Heartbeat:
    """One part's note in one process, written at most once a minute."""

    def __init__(self, part: Part, clock: Callable[[], float] = time.monotonic) -> None:
        self.part = part
        self._clock = clock
        self._noted_at: float | None = None

    def beat(self, database: Database) -> None:
        """Note it, over a connection that is in no transaction.

        A primary that was migrated before there were notes gets none.

        Raises:
            Transient: the primary does not answer.
        """
        now = self._clock()
        if self._noted_at is not None and now < self._noted_at + _SECONDS:
            return
        self._noted_at = now
        with suppress(Permanent):
            # With its bound in time: whoever locks the row must not hold up the events.
            database.call(statement("beat"), [self.part])
