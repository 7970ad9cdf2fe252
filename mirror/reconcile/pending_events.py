"""Pending: which keys have a change under way, as the outbox of one snapshot tells.

Events that a worker holds are still in the outbox of everybody else's snapshot, until what they
are about is in the target.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from mirror.capture.statements import statement
from mirror.errors import MirrorError
from mirror.model.keys import Key
from mirror.model.mapping import EVERYTHING
from mirror.model.mapping import Mapping as Declared
from mirror.model.registry import Registry
from mirror.sync.connections import Database
from mirror.sync.row_queries import Row

# Scopes beyond this many: the drain is so far behind that nothing can be judged.
_MOST: Final = 20_000


def references_of(mapping: Declared, key: Key, rows: Iterable[Row]) -> set[tuple[str, str]]:
    """Return the references, with their values, under which a key is or was, by these rows."""
    names = [name for name, _ in mapping.row_layout]
    found = {
        (reference.name, str(row[names.index(reference.name)]))
        for reference in mapping.all_references
        for row in rows
    }
    return found | {
        (reference.name, key[mapping.key.index(reference.name)])
        for reference in mapping.all_references
        if reference.name in mapping.key
    }


@dataclass
class PendingEvents:
    """What the events say that are waiting, or buried."""

    keys: dict[tuple[str, Key], int | None] = field(default_factory=dict)
    """By mapping and key: the buried event's number; None for one that is under way."""
    scopes: dict[str, dict[tuple[str, str], int | None]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    """By mapping, then reference and value, likewise."""
    too_many: bool = False

    def find(self, mapping: str, key: Key, references: Iterable[tuple[str, str]]) -> "Found":
        """Say whether a key's own events, or its scopes', are under way or buried."""
        scopes = self.scopes.get(mapping, {})
        found = [self.keys[mapping, key]] if (mapping, key) in self.keys else []
        names = [(EVERYTHING, ""), *references]
        found += [scopes[name] for name in names if name in scopes]
        buried = [event for event in found if event is not None]
        return Found(
            under_way=self.too_many or len(buried) < len(found),
            buried=buried[0] if buried else None,
        )

    def any_scope(self, mapping: str) -> bool:
        """Whether some scope of a mapping is under way, whatever its value."""
        return self.too_many or None in self.scopes.get(mapping, {}).values()


@dataclass(frozen=True)
class Found:
    """What is pending for one key."""

    under_way: bool
    buried: int | None


def read_pending(
    database: Database,
    registry: Registry,
    keys: Mapping[str, Iterable[Key]],
    *,
    own: Iterable[int] = (),
) -> PendingEvents:
    """Return the events that concern these keys, and every scope of their mappings.

    `own` are retries that the reconcile itself has set, for the case that it dies.
    """
    wanted = [[name, list(key)] for name, some in keys.items() for key in some]
    found = database.execute(
        statement("find_pending_events"),
        {
            "keys": json.dumps(wanted),
            "mappings": list(keys),
            "own": list(own),
            "most": _MOST + len(wanted),
        },
    )
    pending = PendingEvents(too_many=len(found) == _MOST + len(wanted))
    for mapping, reference, values, buried in found:
        if reference is None:
            _note(pending.keys, (mapping, tuple(values)), buried)
        else:
            value = (
                "" if reference == EVERYTHING else _canonical(registry, mapping, reference, values)
            )
            _note(pending.scopes[mapping], (reference, value), buried)
    return pending


def _note(events: dict, name: object, buried: int | None) -> None:  # type: ignore[type-arg]
    """Note an event; one under way counts more than a buried one."""
    if events.get(name, buried) is not None or buried is None:
        events[name] = buried


def _canonical(registry: Registry, mapping: str, reference: str, values: list[str]) -> str:
    # Whoever writes events by hand may spell a value otherwise.
    with suppress(MirrorError, LookupError):
        return registry[mapping].canonical_reference(reference, values[0])
    return values[0] if values else ""
