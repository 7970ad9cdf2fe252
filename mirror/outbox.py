"""The outbox as writers see it: events, and the table they go into.

An event says that a key, or everything in a scope, may have changed. It never says how: the
drain reads the present state, so order, duplicates and even events of a savepoint that rolled
back do no harm.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from sqlalchemy import BigInteger, Column, MetaData, SmallInteger, Table, Text
from sqlalchemy.dialects.postgresql import ARRAY

from mirror.errors import MappingError
from mirror.keys import Key
from mirror.registry import Registry

EVERYTHING: Final = "*"
"""The reference that means a whole mapping."""


class Lane(IntEnum):
    """Which events go first."""

    REVOCATION = 0
    """May take access away: deletes, role and status changes."""
    GRANT = 1

    @classmethod
    def named(cls, name: str) -> "Lane":
        """Return the lane called `revocation` or `grant`."""
        try:
            return cls[name.upper()]
        except KeyError:
            raise ValueError(f"lane {name!r}: expected 'revocation' or 'grant'.") from None


@dataclass(frozen=True)
class Event:
    """Something about a key, or about a scope, may have changed."""

    lane: Lane
    mapping: str
    key: Key
    """A key; for a scope its value, followed by the key after which to go on, if any."""
    reference: str | None = None
    """None: `key` is a key. Otherwise the scope's reference, or EVERYTHING."""


def key_event(registry: Registry, mapping: str, key: object, lane: str) -> Event:
    """Return the event of one key.

    Raises:
        MappingError: no such mapping.
        InvalidKey: the key has the wrong arity or type, or holds None.
    """
    return Event(Lane.named(lane), mapping, registry[mapping].canonical(key))


def scope_event(registry: Registry, mapping: str, reference: str, value: object, lane: str) -> Event:
    """Return the event of all keys under one value of a reference.

    Raises:
        MappingError: no such mapping, or it has no such reference.
        InvalidKey: the value has the wrong type, or is None.
    """
    declared = registry[mapping]
    if declared.reference(reference) is None:
        known = ", ".join(ref.name for ref in declared.all_references) or "none"
        raise MappingError(
            f"mapping {mapping!r} has no reference {reference!r} (declared: {known})."
        )
    text = declared.canonical_reference(reference, value)
    return Event(Lane.named(lane), mapping, (text,), reference)


table = Table(
    "outbox",
    MetaData(schema="mirror"),
    Column("lane", SmallInteger, nullable=False),
    Column("id", BigInteger, primary_key=True),
    Column("mapping", Text, nullable=False),
    Column("reference", Text),
    Column("key", ARRAY(Text), nullable=False),
)
"""What a writer fills; the rest has defaults. A MetaData of its own: Alembic never sees it."""


def values(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Return the rows of one multi-row insert."""
    return [
        {
            "lane": int(event.lane),
            "mapping": event.mapping,
            "reference": event.reference,
            "key": list(event.key),
        }
        for event in events
    ]
