"""Heartbeats: parts of the mirror record in the primary that they are running."""

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from mirror.capture.statements import statement
from mirror.errors import Permanent
from mirror.sync.connections import Database

Part = Literal["drain", "sweep", "relay", "run", "purge"]

_SECONDS = 30.0


class Heartbeat:
    """One part's heartbeat in one process, written at most every half minute.

    The row is that of the part on this machine (`drain@HOST`), for `mirror health`.
    """

    def __init__(self, part: Part, clock: Callable[[], float] = time.monotonic) -> None:
        self.part = part
        self._clock = clock
        self._written_at: float | None = None

    @property
    def due(self) -> bool:
        """Whether `beat` would write."""
        return self._is_due(self._clock())

    def _is_due(self, now: float) -> bool:
        return self._written_at is None or now >= self._written_at + _SECONDS

    def beat(self, database: Database) -> None:
        """Write the heartbeat, over a connection without an open transaction.

        A primary that was migrated by an early version has no table for it; then this does nothing.

        Raises:
            Transient: the primary does not answer.
        """
        now = self._clock()
        if not self._is_due(now):
            return
        self._written_at = now
        with suppress(Permanent):
            # `call` limits the time: a lock on the row must not delay the events.
            name = f"{self.part}@{socket.gethostname()}"
            database.call(statement("beat"), [name], durable=False)


def forget_heartbeats(database: Database) -> None:
    """Delete the heartbeats of machines that have been gone for a week.

    Raises:
        Transient: the primary does not answer.
    """
    with suppress(Permanent):
        database.call(statement("forget_heartbeats"), [])
