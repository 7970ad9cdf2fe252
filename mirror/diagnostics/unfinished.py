"""Unfinished: the events that need a person's attention, from the primary.

These are revocations that may not be in force yet, and dead events by their cause.
"""

from dataclasses import dataclass

from mirror.capture.statements import statement
from mirror.diagnostics.event import subject_of
from mirror.sync.connections import Database


@dataclass(frozen=True)
class OpenRevocation:
    """A revocation that may not be in force in the target."""

    id: int
    mapping: str
    reference: str | None
    """None: it is about a key. Otherwise the scope's reference; `*`: the whole mapping."""
    key: tuple[str | None, ...]
    """The key; for a scope, the value of its reference."""
    age_seconds: float
    """Seconds since it was recorded."""
    state: str
    """`waiting`, `set apart` or `dead`."""

    @property
    def subject(self) -> str:
        """The mapping with the key, or with the scope."""
        return subject_of(self.mapping, self.reference, self.key)


@dataclass(frozen=True)
class BuriedCause:
    """The dead events of one mapping that have the same error."""

    mapping: str
    error: str
    digest: str
    """A hash of the error, by which a form names this cause."""
    events: int
    """How many."""
    first: tuple[int, ...]
    """The numbers of at most ten of them."""
    oldest_seconds: float
    """Age of the oldest of them."""


def read_open_revocations(database: Database, *, limit: int) -> tuple[OpenRevocation, ...]:
    """Return the oldest revocations that may not be in force, the oldest first.

    Raises:
        MirrorError: the primary does not answer, or is not migrated.
    """
    rows = database.execute(statement("read_open_revocations"), {"limit": limit})
    return tuple(
        OpenRevocation(number, mapping, reference, tuple(key), age, state)
        for number, mapping, reference, key, age, state in rows
    )


def read_buried_causes(database: Database, *, limit: int) -> tuple[BuriedCause, ...]:
    """Return the causes of dead events, those with the most events first.

    Raises:
        MirrorError: the primary does not answer, or is not migrated.
    """
    rows = database.execute(statement("read_buried_causes"), [limit])
    return tuple(
        BuriedCause(mapping, error, digest, events, tuple(first), age)
        for mapping, error, digest, events, first, age in rows
    )


def read_buried_ids(
    database: Database, *, event: int | None = None, mapping: str = "", digest: str = ""
) -> list[int]:
    """Return the number of an event if it is dead; or those of the dead events of one cause.

    Raises:
        MirrorError: the primary does not answer, or is not migrated.
    """
    which = {"event": event, "mapping": mapping, "digest": digest}
    return [number for (number,) in database.execute(statement("read_buried_ids"), which)]
