"""Round: bring keys and scopes up to date as of one snapshot of the primary.

A round expands scopes to keys, reads the rows, writes them, and follows up what the target
answers: parents that a row needs, children that come with a parent. Everything in it is of one
fence; what the target has seen fresher is handed back, to be read again in the next round.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from mirror.capture.outbox import Event, Lane
from mirror.errors import InvalidKey, MappingError
from mirror.model.keys import Key, key_order
from mirror.model.mapping import EVERYTHING, Mapping
from mirror.model.registry import Registry
from mirror.sync.row_queries import Row
from mirror.sync.snapshot import Snapshot
from mirror.sync.targets.base import Target
from mirror.sync.targets.writing import ScopePage, Section

log = structlog.stdlib.get_logger(__name__)

DesiredRows = dict[str, dict[Key, Row | None]]
"""By mapping and key: the row as it should be, or None for no row."""

MappingKey = tuple[str, Key]
"""A mapping's name and a key of it."""


@dataclass
class PendingKeys:
    """What is to be mirrored: keys by mapping, and scopes."""

    keys: dict[str, set[Key]] = field(default_factory=lambda: defaultdict(set))
    scopes: list[Event] = field(default_factory=list)
    """Without duplicates, in canonical form."""
    revoked: set[MappingKey] = field(default_factory=set)
    """Parents of which something may have been taken away."""


def pending_keys(registry: Registry, events: Iterable[Event]) -> PendingKeys:
    """Return the work that events name, each thing once.

    Raises:
        MappingError: no such mapping or reference.
        InvalidKey: a key of the wrong arity or type.
    """
    work = PendingKeys()
    scopes: dict[tuple[str, str, Key], Event] = {}
    for event in events:
        mapping = registry[event.mapping]
        if event.reference is None:
            key = mapping.canonical(event.key)
            work.keys[mapping.name].add(key)
            if event.lane is Lane.REVOCATION and registry.children(mapping):
                work.revoked.add((mapping.name, key))
            continue
        scope = _canonical_scope(mapping, event)
        name = (scope.mapping, event.reference, scope.key)
        known = scopes.setdefault(name, scope)
        if scope.lane < known.lane:
            scopes[name] = scope
    work.scopes = list(scopes.values())
    return work


def _canonical_scope(mapping: Mapping, event: Event) -> Event:
    """Return a scope event as the target's functions would print its values.

    A scope is closed under its value's text: in another spelling it would close nothing.
    """
    value: Key = ()
    after = event.key
    if event.reference != EVERYTHING:
        if mapping.reference(str(event.reference)) is None:
            raise MappingError(f"mapping {mapping.name!r} has no reference {event.reference!r}")
        if not event.key:
            raise InvalidKey(f"mapping {mapping.name!r}: a scope without a value")
        value = (mapping.canonical_reference(str(event.reference), event.key[0]),)
        after = event.key[1:]
    if after:
        after = mapping.canonical(after)
    return Event(event.lane, mapping.name, value + after, event.reference)


class SyncPass:
    """One snapshot's way to the target. `run` it once, then read what it left.

    `announce` records events at once, whatever becomes of the claim.
    """

    def __init__(
        self,
        registry: Registry,
        snapshot: Snapshot,
        target: Target,
        announce: Callable[[Sequence[Event]], object],
        *,
        batch_size: int,
    ) -> None:
        self.stale: dict[str, set[Key]] = defaultdict(set)
        """Keys of which the target has seen fresher reads."""
        self.newest_fence = 0
        """The newest fence among those."""
        self.continuations: list[Event] = []
        """Events for later: the rest of large scopes."""
        self._registry = registry
        self._snapshot = snapshot
        self._target = target
        self._announce = announce
        self._batch_size = batch_size
        self._wanted: DesiredRows = defaultdict(dict)
        self._with_children: set[MappingKey] = set()
        self._tried: set[MappingKey] = set()
        self._settled: dict[MappingKey, bool] = {}
        """What was written, and whether there is a row."""
        self._orphans: dict[MappingKey, Row] = {}

    def run(self, work: PendingKeys) -> None:
        """Mirror `work`.

        Raises:
            TooOld: the snapshot is older than the target's horizon.
        """
        for name, keys in work.keys.items():
            self._queue(self._registry[name], keys)
        self._expand([*work.scopes, *self._recreated(work)])
        self._apply_all()
        # A row whose parent is nowhere has no place here; nor has what an earlier row of its
        # key, under another parent, may have left. A parent may also have come after its child.
        for late in (True, False):
            for (name, key), row in self._orphans.items():
                if (name, key) not in self._settled and key not in self.stale[name]:
                    there = late and self._has_parents(self._registry[name], row)
                    self._wanted[name][key] = row if there else None
            self._apply_all()

    def _queue(self, mapping: Mapping, keys: Iterable[Key]) -> None:
        missing = [key for key in keys if key not in self._wanted[mapping.name]]
        rows = self._snapshot.rows(mapping, missing)
        self._wanted[mapping.name].update({key: rows.get(key) for key in missing})

    def _recreated(self, work: PendingKeys) -> list[Event]:
        """Return the scopes under parents that were revoked and are (again) there.

        Had they been deleted and made anew, their children would be gone without a word.
        """
        return [
            Event(Lane.REVOCATION, child.name, key, parent.column)
            for name, key in work.revoked
            if self._wanted[name].get(key) is not None
            for child, parent in self._registry.children(self._registry[name])
        ]

    def split_scope(self, scope: Event) -> list[Event]:
        """Return events for the keys on a scope's first page, and for the rest of the scope.

        Among keys of their own, one that cannot be mirrored holds up no other.
        """
        rows, last = self._page([scope])
        events = [Event(scope.lane, scope.mapping, key) for key in rows]
        if last is not None:
            events.append(_next_page(scope, last))
        return events

    # Writing

    def _apply_all(self) -> None:
        while any(self._wanted.values()):
            wanted, self._wanted = self._wanted, defaultdict(dict)
            whole, self._with_children = self._with_children, set()
            answers = self._target.apply(
                self._snapshot.stamp, _sections(self._registry, wanted, whole)
            )
            for name, answer in answers.items():
                refused = {*answer.stale, *answer.orphans, *answer.new_parents}
                for key, row in wanted[name].items():
                    self._tried.add((name, key))
                    if key not in refused:
                        self._settled[name, key] = row is not None
                    elif row is not None and key in answer.orphans:
                        self._orphans[name, key] = row
                self.stale[name].update(answer.stale)
                self.newest_fence = max(self.newest_fence, answer.newest_fence or 0)
                for kind, held in answer.retained.items():
                    log.warning("held back by a foreign key", mapping=kind, rows=len(held))
            for name, answer in answers.items():
                mapping = self._registry[name]
                self._queue_with_children(
                    mapping, {key: wanted[name][key] for key in answer.new_parents}
                )
                for key in answer.orphans:
                    self._queue_parents(mapping, key)

    def _queue_parents(self, mapping: Mapping, key: Key) -> None:
        """Want an orphan again, along with those of its parents that were not tried yet."""
        row = self._orphans[mapping.name, key]
        for name, parent_key in _parents(mapping, row):
            if (name, parent_key) in self._tried:
                continue
            self._wanted[mapping.name][key] = row
            if parent_key not in self._wanted[name]:
                parent = self._registry[name]
                self._queue_with_children(
                    parent, {parent_key: None} | self._snapshot.rows(parent, [parent_key])
                )

    def _has_parents(self, mapping: Mapping, row: Row) -> bool:
        return all(self._settled.get(parent, False) for parent in _parents(mapping, row))

    def _queue_with_children(self, mapping: Mapping, rows: dict[Key, Row | None]) -> None:
        """Want rows together with everything below them, all in one call.

        A worker that died between the two would leave the parents there and their children out.
        """
        self._wanted[mapping.name].update(rows)
        there = [key for key, row in rows.items() if row is not None]
        self._with_children.update((mapping.name, key) for key in there)
        if not there:
            return
        values = [key[0] for key in there]
        limit = 4 * self._batch_size
        for child, parent in self._registry.children(mapping):
            found = self._snapshot.rows_in_scope(child, parent.column, values, limit=limit)
            if len(found) == limit:
                # Too many: at least say so before the parents are there.
                self._announce(
                    [Event(Lane.GRANT, child.name, (value,), parent.column) for value in values]
                )
                continue
            self._queue_with_children(
                child,
                {key: row for key, row in found.items() if (child.name, key) not in self._settled},
            )

    # Expanding

    def _expand(self, scopes: list[Event]) -> None:
        """Read what is, and what is known, under each scope, up to a bound, the rest for later."""
        groups: dict[tuple[str, str, Key], list[Event]] = defaultdict(list)
        for event in scopes:
            value_count = 0 if event.reference == EVERYTHING else 1
            groups[event.mapping, str(event.reference), event.key[value_count:]].append(event)
        pending = list(groups.values())
        read = 0
        while pending:
            events = pending.pop()
            if read >= 4 * self._batch_size:
                self.continuations += events
                continue
            rows, last = self._page(events)
            if last is not None and len(events) > 1:
                middle = len(events) // 2
                pending += [events[:middle], events[middle:]]
                continue
            read += len(rows)
            self._wanted[events[0].mapping].update(rows)
            if last is not None:
                self.continuations.append(_next_page(events[0], last))

    def _page(self, events: list[Event]) -> tuple[dict[Key, Row | None], Key | None]:
        """Return one page of a scope in key order, and its last key if there may be more.

        The page holds the keys that the primary yields and those that the target's ledger
        knows: what left the scope is in the ledger alone.
        """
        mapping, reference = self._registry[events[0].mapping], str(events[0].reference)
        whole = reference == EVERYTHING
        values = ("",) if whole else tuple(event.key[0] for event in events)
        after = events[0].key if whole else events[0].key[1:]
        limit = self._batch_size
        page = ScopePage(mapping, reference, values, after)
        known = self._target.open_scopes(self._snapshot.stamp, [page], limit=limit)[0]
        rows = self._snapshot.rows_in_scope(mapping, reference, values, after=after, limit=limit)
        merged = sorted({*known, *rows}, key=lambda key: key_order(mapping.key_columns, key))
        more = len(known) == limit or len(rows) == limit or len(merged) > limit
        keys = merged[:limit]
        elsewhere = self._snapshot.rows(mapping, [key for key in keys if key not in rows])
        found = {key: rows.get(key, elsewhere.get(key)) for key in keys}
        return found, keys[-1] if more else None


def _next_page(scope: Event, last: Key) -> Event:
    value = () if scope.reference == EVERYTHING else scope.key[:1]
    return Event(scope.lane, scope.mapping, value + last, scope.reference)


def _parents(mapping: Mapping, row: Row) -> list[MappingKey]:
    """Return the parents that a row names."""
    names = [column.name for column in mapping.columns]
    values = [(parent.mapping, row[names.index(parent.column)]) for parent in mapping.parents]
    return [(name, (value,)) for name, value in values if value is not None]


def _sections(registry: Registry, wanted: DesiredRows, whole: set[MappingKey]) -> list[Section]:
    """Return what one call writes, parents first."""
    sections = []
    for mapping in registry:
        if not wanted.get(mapping.name):
            continue
        section = Section(mapping)
        for key, row in wanted[mapping.name].items():
            if row is None:
                section.deleted.append(key)
            elif (mapping.name, key) in whole:
                section.with_children.append(row)
            else:
                section.rows.append(row)
        sections.append(section)
    return sections
