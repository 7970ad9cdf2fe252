"""Event groups: claimed events of one mapping, whose keys travel as texts.

The texts are array literals of PostgreSQL, from which a worker takes single values only if it has
to work on each event.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final

MAX_PARTS: Final = 4
"""Keys with more parts do not travel as texts: `mirror.claim_next` returns so many arrays."""


@dataclass(frozen=True)
class EventGroup:
    """Claimed events of one mapping, as `mirror.claim_next` returns them."""

    mapping: str
    scopes: bool
    """These events are scopes; otherwise they are keys."""
    parts: int
    """The number of parts that each of the keys has."""
    revocations: int
    grants: int
    oldest: int
    """The lowest transaction id."""
    newest: int
    """The highest transaction id."""
    origin: int
    """The lowest transaction id whose change these events may be the rest of."""
    ids: str
    """The ids of the events, revocations first: an array literal of PostgreSQL."""
    ages: str
    """The seconds since the start of the transaction that recorded each: likewise."""
    keys: list[str]
    """For each of the first `MAX_PARTS` parts, that part of every key: an array literal."""
    suspects: str | None
    """Those of the ids that a worker may have crashed on: likewise; None if there are none."""

    @property
    def suspected(self) -> set[str]:
        """The ids of `suspects`."""
        return set() if self.suspects is None else set(values(self.suspects))

    @property
    def innocent(self) -> str:
        """The other ids, as an array literal."""
        if self.suspects is None:
            return self.ids
        suspected = self.suspected
        return (
            "{" + ",".join(number for number in values(self.ids) if number not in suspected) + "}"
        )


FIELDS: Final = len(fields(EventGroup))
"""The number of columns in which `mirror.claim_next` returns a group."""


def count_events(groups: Iterable[EventGroup]) -> int:
    """Return the number of events in some groups."""
    return sum(group.revocations + group.grants for group in groups)


def values(literal: str) -> list[str]:
    """Return the values of an array literal with one value or more, all of them numbers."""
    return literal[1:-1].split(",")
