"""Health: whether one part of the mirror is at work, by its heartbeats in the primary."""

from typing import Final, Literal

from mirror.capture.statements import statement
from mirror.sync.connections import Database

Part = Literal["worker", "beat", "relay", "run"]

# The heartbeats that each part has to write. Beat's is written by the worker that it wakes, so on
# that worker's machine.
_HEARTBEATS: Final[dict[Part, list[str]]] = {
    "worker": ["drain"],
    "beat": ["sweep"],
    "relay": ["relay"],
    "run": ["run", "relay"],
}


def idle_seconds(database: Database, part: Part, machine: str | None) -> float | None:
    """Return the seconds since a part was last at work, on one machine or (None) on any.

    None: it never was. After an outage of the primary, the seconds count from its start.

    Raises:
        Transient: the primary does not answer.
        NotMigrated: it has no heartbeats.
    """
    names = _HEARTBEATS[part]
    parameters = {"parts": names, "machine": None if part == "beat" else machine}
    found = dict(database.execute(statement("read_health"), parameters))
    return max((found[name] for name in names), default=None) if len(found) == len(names) else None
