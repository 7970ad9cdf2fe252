"""Lease: one reconcile at a time, and what has to happen if that one dies.

A row that expires: a session's lock would not survive a pooler.
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

_MARK = "for the case that the reconcile which is loading this ends before its time"


class LeaseLost(Transient):
    """Raised when another reconcile took over, because this one did not renew in time."""


class Lease:
    """The right to reconcile, for as long as it is renewed."""

    def __init__(self, database: Database, *, seconds: float = 120.0) -> None:
        self.database = database
        self.seconds = seconds
        self.holder = f"{socket.gethostname()}:{os.getpid()}"
        self.intents: dict[int, str] = {}
        """Retries that wait for this process's death, and the mapping of each."""
        self._token = uuid4()
        self._renewed = 0.0

    def take(self) -> bool:
        """Take or renew the lease; False if somebody else holds it."""
        self._renewed = time.monotonic()
        parameters = {"token": self._token, "holder": self.holder, "seconds": self.seconds}
        if not self.database.execute(statement("take_lease"), parameters):
            return False
        # What another intended that died is now this one's to do.
        found = self.database.execute(statement("renew_intents"), [self.seconds, _MARK])
        self.intents.update(found)
        return True

    def held_by(self) -> str | None:
        """Return who holds it."""
        found = self.database.execute(statement("read_lease_holder"))
        return found[0][0] if found else None

    def renew(self) -> None:
        """Renew in good time.

        Raises:
            LeaseLost: somebody else has it.
        """
        if time.monotonic() < self._renewed + self.seconds / 4:
            return
        if not self.take():
            raise LeaseLost(f"primary: {self.held_by() or 'somebody'} reconciles now; run it again")

    def release(self) -> None:
        """Give it back, and let workers see to what was not finished."""
        self.database.execute(statement("release_intents"), [list(self.intents)])
        self.intents.clear()
        self.database.execute(statement("release_lease"), [self._token])

    def intend(self, mappings: Iterable[str]) -> None:
        """Have workers read these mappings as a whole, should this process die."""
        found = self.database.execute(
            statement("record_intents"),
            {
                "lane": int(Lane.GRANT),
                "everything": EVERYTHING,
                "mappings": sorted(set(mappings) - set(self.intents.values())),
                "seconds": self.seconds,
                "mark": _MARK,
            },
        )
        self.intents.update(found)

    def done(self, mappings: Container[str]) -> None:
        """Nothing of these mappings is left for the workers."""
        finished = [number for number, name in self.intents.items() if name in mappings]
        self.database.execute(statement("delete_retries"), [finished])
        for number in finished:
            del self.intents[number]
