"""Pending events: which keys have a change under way, by the outbox and retries in one snapshot.

Events that a worker has claimed stay visible in other processes' snapshots of the outbox until
their change is in the target.
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

# With more events than this, the drain is so far behind that no row can be judged.
_MOST: Final = 20_000


def references_of(mapping: Declared, key: Key, rows: Iterable[Row]) -> set[tuple[str, str]]:
    """Return the scopes that contain a key, each as (name of the reference, value).

    The values are those in the key itself and in `rows`, versions of the key's row.
    """
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
    """The events about some keys, and about scopes of their mappings, that are not applied yet."""

    keys: dict[tuple[str, Key], int | None] = field(default_factory=dict)
    """By mapping and key: None if an event waits or is claimed; otherwise a buried event's id."""
    scopes: dict[str, dict[tuple[str, str], int | None]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    """By mapping, then by reference and value: as in `keys`."""
    too_many: bool = False
    """Not all events were read; any key may have one."""

    @property
    def empty(self) -> bool:
        """Whether there are no events at all."""
        return not (self.too_many or self.keys or any(self.scopes.values()))

    def find(self, mapping: str, key: Key, references: Iterable[tuple[str, str]]) -> "KeyStatus":
        """Return the KeyStatus of a key, by the pending events about it.

        Events about `references`, which are the key's scopes as `references_of` returns them, and
        events about the whole mapping count, too.
        """
        scopes = self.scopes.get(mapping, {})
        found = [self.keys[mapping, key]] if (mapping, key) in self.keys else []
        names = [(EVERYTHING, ""), *references]
        found += [scopes[name] for name in names if name in scopes]
        buried = [event for event in found if event is not None]
        return KeyStatus(
            under_way=self.too_many or len(buried) < len(found),
            buried=buried[0] if buried else None,
        )

    def any_scope(self, mapping: str) -> bool:
        """Return whether an event of any scope of a mapping is under way, or may be.

        It may be if there were too many events to read.
        """
        return self.too_many or None in self.scopes.get(mapping, {}).values()


@dataclass(frozen=True)
class KeyStatus:
    """Whether events about one key, or about its scopes, are not applied yet."""

    under_way: bool
    """An event waits or is claimed, so a difference is no drift yet."""
    buried: int | None
    """The id of a buried event; None: there is none."""


def read_pending(
    database: Database,
    registry: Registry,
    keys: Mapping[str, Iterable[Key]],
    *,
    ignored: Iterable[int] = (),
) -> PendingEvents:
    """Return the events about these keys, and about any scope of their mappings, not applied yet.

    These wait, are claimed, are retried or are buried. `keys` are by mapping name. `ignored` are
    the ids of retries to leave out: the reconcile's own.
    """
    wanted = [[name, list(key)] for name, some in keys.items() for key in some]
    found = database.execute(
        statement("find_pending_events"),
        {
            "keys": json.dumps(wanted),
            "mappings": list(keys),
            "own": list(ignored),
            "most": _MOST + len(wanted),
        },
    )
    pending = PendingEvents(too_many=len(found) == _MOST + len(wanted))
    for mapping, reference, values, buried in found:
        if reference is None:
            _add(pending.keys, (mapping, tuple(values)), buried)
        else:
            value = (
                "" if reference == EVERYTHING else _canonical(registry, mapping, reference, values)
            )
            _add(pending.scopes[mapping], (reference, value), buried)
    return pending


def _add(events: dict, name: object, buried: int | None) -> None:  # type: ignore[type-arg]
    """Add an event of the key or scope `name`; `buried` is its id if it is buried, else None.

    An event that is under way takes precedence over a buried one.
    """
    if events.get(name, buried) is not None or buried is None:
        events[name] = buried


def _canonical(registry: Registry, mapping: str, reference: str, values: list[str]) -> str:
    # Events that are written by hand may spell a value differently.
    with suppress(MirrorError, LookupError):
        return registry[mapping].canonical_reference(reference, values[0])
    return values[0] if values else ""
