"""Health: whether one part of the mirror is at work, by its heartbeats in the primary."""

import socket
from typing import Final

from mirror.capture.statements import statement
from mirror.sync.connections import Database

_HEARTBEATS: Final[dict[str, list[str]]] = {
    "worker": ["drain"],
    "beat": ["sweep"],
    "relay": ["relay"],
    "run": ["run", "relay"],
}
"""The heartbeats that each part writes. A worker writes that of beat, which has woken it."""

# These count on any machine: while there are no events, beat wakes only one of all workers.
_ANYWHERE: Final = {"worker", "beat"}


def idle_seconds(database: Database, part: str) -> float | None:
    """Return the seconds since a part, such as `worker`, was last at work; None if it never was.

    `relay` and `run` are those of this machine; a worker, and beat, may be on any. After an outage
    of the primary, the seconds count from its start.

    Raises:
        Transient: the primary does not answer.
        NotMigrated: it has no heartbeats.
    """
    names = _HEARTBEATS[part]
    machine = None if part in _ANYWHERE else socket.gethostname()
    found = dict(database.execute(statement("read_health"), {"parts": names, "machine": machine}))
    return max(found[name] for name in names) if len(found) == len(names) else None
