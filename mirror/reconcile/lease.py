"""Lease: allows one reconcile at a time, and has workers finish its loads if it crashes.

The lease is a row that expires. A session-level lock would not work behind a pooler.
"""

import os
import socket
import time
from collections.abc import Container, Iterable
from uuid import uuid4

from mirror.capture.outbox import Lane
from mirror.capture.statements import statement
from mirror.errors import Transient
from mirror.model.mapping import EVERYTHING
from mirror.sync.connections import Database

MARK = "for the case that the reconcile which is loading this ends before its time"
"""Stands for the error of a retry that is there in case the reconcile crashes."""


class LeaseLost(Transient):
    """Raised when another reconcile has taken the lease, because this one renewed it too late."""


class Lease:
    """The right to reconcile: one process has it at a time, for as long as it renews it."""

    def __init__(self, database: Database, *, seconds: float = 120.0) -> None:
        self.database = database
        self.seconds = seconds
        self.holder = f"{socket.gethostname()}:{os.getpid()}"
        self.recovery_retries: dict[int, str] = {}
        """By the id of each retry that workers run if this process crashes: its mapping's name."""
        self._token = uuid4()
        self._renewed = 0.0

    def take(self) -> bool:
        """Take or renew the lease; return whether this process has it now.

        False: another process holds it. Recovery retries that a crashed reconcile left become this
        process's own.
        """
        self._renewed = time.monotonic()
        parameters = {"token": self._token, "holder": self.holder, "seconds": self.seconds}
        if not self.database.execute(statement("take_lease"), parameters):
            return False
        # This process takes over the recovery retries of one that crashed.
        found = self.database.execute(statement("renew_recovery"), [self.seconds, MARK])
        self.recovery_retries.update(found)
        return True

    def held_by(self) -> str | None:
        """Return the holder of the lease as `host:process id`; None if the lease is free."""
        found = self.database.execute(statement("read_lease_holder"))
        return found[0][0] if found else None

    def renew(self) -> None:
        """Renew the lease if a quarter of its time has passed since it was last renewed.

        Raises:
            LeaseLost: another process has taken it.
        """
        if time.monotonic() < self._renewed + self.seconds / 4:
            return
        if not self.take():
            holder = self.held_by() or "another process"
            raise LeaseLost(f"primary: {holder} reconciles now; run this again afterwards.")

    def release(self) -> None:
        """Give the lease back. Recovery retries that are left become due, so workers run them."""
        self.database.execute(statement("release_recovery"), [list(self.recovery_retries)])
        self.recovery_retries.clear()
        self.database.execute(statement("release_lease"), [self._token])

    def add_recovery(self, mappings: Iterable[str]) -> None:
        """Record, for each mapping that has none yet, a retry of an event about the whole mapping.

        While this process renews the lease, these recovery retries do not become due. If it
        crashes, workers run them, and so read these mappings as a whole.
        """
        found = self.database.execute(
            statement("record_recovery"),
            {
                "lane": int(Lane.GRANT),
                "everything": EVERYTHING,
                "mappings": sorted(set(mappings) - set(self.recovery_retries.values())),
                "seconds": self.seconds,
                "mark": MARK,
            },
        )
        self.recovery_retries.update(found)

    def remove_recovery(self, mappings: Container[str]) -> None:
        """Delete the recovery retries of these mappings, because all their rows are written."""
        finished = [number for number, name in self.recovery_retries.items() if name in mappings]
        self.database.execute(statement("delete_retries"), {"ids": finished})
        for number in finished:
            del self.recovery_retries[number]
