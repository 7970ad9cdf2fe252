"""Sync pass: brings keys and scopes up to date from one snapshot of the primary.

A pass expands scopes to keys, reads the rows, writes them, and follows the target's answers:
parents that a row needs, children that come with a new parent. All its writes carry one fence. Keys
of which the target has a newer read are left to the caller, for a pass over a new snapshot.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from mirror.capture.outbox import Event, Lane
from mirror.errors import InvalidKey, MappingError, Rejected, TooSlow, Unexplained
from mirror.model.keys import Key, key_order
from mirror.model.mapping import EVERYTHING, Mapping
from mirror.model.registry import Registry
from mirror.sync.row_queries import Row
from mirror.sync.snapshot import Snapshot
from mirror.sync.targets.base import Target
from mirror.sync.targets.writing import Answer, Answers, ScopePage, Section

log = structlog.stdlib.get_logger(__name__)

DesiredRows = dict[str, dict[Key, Row | None]]
"""By mapping and key: the desired row; None means that there must be no row."""

MappingKey = tuple[str, Key]
"""A mapping's name and a key of it."""


@dataclass
class PendingKeys:
    """Keys and scopes to bring up to date."""

    keys: dict[str, set[Key]] = field(default_factory=lambda: defaultdict(set))
    """By mapping."""
    scopes: list[Event] = field(default_factory=list)
    """Without duplicates, in canonical form."""
    revoked: set[MappingKey] = field(default_factory=set)
    """Keys of parents whose children may be gone: those with a revocation, and those that have
    parents themselves. Such a parent may have been deleted with its own parent and created again
    under another; then the event of that other parent finds neither it nor its children."""
    new_parents: set[MappingKey] = field(default_factory=set)
    """Keys of parents that the target refused because it lacks them: their children come along."""


def pending_keys(registry: Registry, events: Iterable[Event]) -> PendingKeys:
    """Return the keys and scopes of some events, without duplicates.

    Raises:
        MappingError: no such mapping or reference.
        InvalidKey: a key of the wrong arity or type.
    """
    pending = PendingKeys()
    scopes: dict[tuple[str, str, Key], Event] = {}
    for event in events:
        mapping = registry[event.mapping]
        if event.reference is None:
            key = mapping.canonical(event.key)
            pending.keys[mapping.name].add(key)
            if registry.children(mapping) and (event.lane is Lane.REVOCATION or mapping.parents):
                pending.revoked.add((mapping.name, key))
            continue
        scope = _canonical_scope(mapping, event)
        name = (scope.mapping, event.reference, scope.key)
        known = scopes.setdefault(name, scope)
        if scope.lane < known.lane:
            scopes[name] = scope
    pending.scopes = list(scopes.values())
    return pending


def _canonical_scope(mapping: Mapping, event: Event) -> Event:
    """Return a scope event with its values spelled as the target's functions spell them.

    The target stores a scope under its value's text; another spelling would be another scope.
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


def children_scopes(registry: Registry, name: str, keys: Sequence[Key]) -> list[list[Event]]:
    """Return, for each mapping of children, the scopes under these keys of mapping `name`.

    They are revocations: the children may be gone.
    """
    if not keys:
        return []
    return [
        [Event(Lane.REVOCATION, child.name, key, parent.column) for key in keys]
        for child, parent in registry.children(registry[name])
    ]


class SyncPass:
    """Writes the rows of one snapshot. Call `run` once, then read the attributes.

    `announce` records events at once, even if the claim is rolled back later. `keep_alive` is
    called often.
    """

    def __init__(
        self,
        registry: Registry,
        snapshot: Snapshot,
        target: Target,
        announce: Callable[[Sequence[Event]], object],
        keep_alive: Callable[[], object],
        *,
        batch_size: int,
    ) -> None:
        self.stale: dict[str, set[Key]] = defaultdict(set)
        """Keys, by mapping, of which the target has a newer read."""
        self.newest_fence = 0
        """The newest fence of those reads."""
        self.large: list[tuple[MappingKey, bool]] = []
        """Parents whose children have to be removed page by page first, and whether each has a row
        to be written then: one that was gone and came back."""
        self.continuations: list[Event] = []
        """Events to continue with: the rest of large scopes."""
        self._registry = registry
        self._snapshot = snapshot
        self._target = target
        self._announce = announce
        self._keep_alive = keep_alive
        self._batch_size = batch_size
        self._queued: DesiredRows = defaultdict(dict)
        """Rows for the next call."""
        self._with_children: set[MappingKey] = set()
        """Queued parents whose children are queued too."""
        self._tried: set[MappingKey] = set()
        self._settled: dict[MappingKey, bool] = {}
        """Written keys, and whether each has a row."""
        self._orphans: dict[MappingKey, Row] = {}

    def run(self, pending: PendingKeys) -> None:
        """Bring the pending keys and scopes up to date.

        Raises:
            TooOld: the snapshot is older than the target's horizon.
        """
        for name, keys in pending.keys.items():
            self._queue(self._registry[name], keys)
        new_parents: DesiredRows = defaultdict(dict)
        for name, key in pending.new_parents:
            new_parents[name][key] = self._queued[name][key]
        # Together: a query for each of them would take most of the time of a batch.
        for name, rows in new_parents.items():
            self._queue_with_children(self._registry[name], rows)
        self._expand([*pending.scopes, *self._recreated(pending)])
        self._apply_all()
        # A parent may have been written after its child, so orphans that now have all parents are
        # sent again. The others must have no row in the target: an earlier row of the key, under
        # another parent, is deleted. So is, in the second round, an orphan that was refused again.
        for check_parents in (True, False):
            for (name, key), row in self._orphans.items():
                if (name, key) not in self._settled and key not in self.stale[name]:
                    has_parents = check_parents and self._has_parents(self._registry[name], row)
                    self._queued[name][key] = row if has_parents else None
            self._apply_all()

    def _queue(self, mapping: Mapping, keys: Iterable[Key]) -> None:
        missing = [key for key in keys if key not in self._queued[mapping.name]]
        rows = self._snapshot.rows(mapping, missing)
        self._queued[mapping.name].update({key: rows.get(key) for key in missing})

    def _recreated(self, pending: PendingKeys) -> list[Event]:
        """Return the scopes under parents that have a revocation and a row.

        The parent may have been deleted and created again: the primary then deleted its children
        without an event for each.
        """
        return [
            scope
            for name, key in pending.revoked
            if self._queued[name].get(key) is not None
            for scopes in children_scopes(self._registry, name, [key])
            for scope in scopes
        ]

    def split_scope(self, scope: Event, *, unread: bool = False) -> tuple[list[Event], bool]:
        """Return events for the keys on a scope's first page, and one for the rest of the scope.

        As events of their own, keys that can be mirrored do not wait for one that cannot. Returns
        also whether the primary has listed its keys.
        """
        listed = None
        if not unread:
            # Otherwise the keys that the target has are more urgent: they may allow too much.
            with suppress(Rejected, TooSlow, Unexplained):
                listed = self._page([scope])
        keys, last = self._known(scope) if listed is None else listed
        events = [Event(scope.lane, scope.mapping, key) for key in keys]
        if last is not None:
            events.append(_next_page(scope, last))
        return events, listed is not None

    def _known(self, scope: Event) -> tuple[list[Key], Key | None]:
        """Return the keys that the target has on a scope's page, and the last if there are more."""
        page = _scope_page(self._registry, [scope])
        (keys,) = self._target.open_scopes(self._snapshot.stamp, [page], limit=self._batch_size)
        return keys, keys[-1] if len(keys) == self._batch_size else None

    # Writing

    def _apply_all(self) -> None:
        """Send the queued rows, then those that the answers ask for, until none is queued."""
        while any(self._queued.values()):
            sent, self._queued = self._queued, defaultdict(dict)
            with_children, self._with_children = self._with_children, set()
            sections = _sections(self._registry, sent, with_children)
            self._keep_alive()
            answers = self._target.apply(self._snapshot.stamp, sections)
            self._record(sent, answers)
            for name, answer in answers.items():
                self._queue_with_children(
                    self._registry[name], {key: sent[name][key] for key in answer.new_parents}
                )
            self._queue_parents(
                [(name, key) for name, answer in answers.items() for key in answer.orphans]
            )

    def _record(self, sent: DesiredRows, answers: Answers) -> None:
        for name, answer in answers.items():
            refused = {*answer.stale, *answer.orphans, *answer.new_parents, *answer.large}
            self.large += [((name, key), sent[name][key] is not None) for key in answer.large]
            for key, row in sent[name].items():
                self._tried.add((name, key))
                if key not in refused:
                    self._settled[name, key] = row is not None
                elif row is not None and key in answer.orphans:
                    self._orphans[name, key] = row
            self.stale[name].update(answer.stale)
            self.newest_fence = max(self.newest_fence, answer.newest_fence or 0)
            log_retained(answer)

    def _queue_parents(self, orphans: list[MappingKey]) -> None:
        """Queue each orphan again with its parents, if one of those was not tried yet."""
        parents: dict[str, dict[Key, None]] = defaultdict(dict)
        for name, key in orphans:
            row = self._orphans[name, key]
            for parent, parent_key in _parents(self._registry[name], row):
                if (parent, parent_key) in self._tried:
                    continue
                self._queued[name][key] = row
                if parent_key not in self._queued[parent]:
                    parents[parent][parent_key] = None
        for parent, keys in parents.items():
            mapping = self._registry[parent]
            self._queue_with_children(mapping, keys | self._snapshot.rows(mapping, list(keys)))

    def _has_parents(self, mapping: Mapping, row: Row) -> bool:
        return all(self._settled.get(parent, False) for parent in _parents(mapping, row))

    def _queue_with_children(self, mapping: Mapping, rows: dict[Key, Row | None]) -> None:
        """Queue rows with all their descendants, for one call.

        With two calls, a worker that crashed between them would leave parents without children.
        """
        self._queued[mapping.name].update(rows)
        parents = [key for key, row in rows.items() if row is not None]
        self._with_children.update((mapping.name, key) for key in parents)
        if not parents:
            return
        values = [key[0] for key in parents]
        limit = 4 * self._batch_size
        for child, parent in self._registry.children(mapping):
            self._keep_alive()
            found = self._snapshot.rows_in_scope(child, parent.column, values, limit=limit)
            if len(found) == limit:
                # Too many for one call: record events for them before the parents are written.
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
        """Queue the keys of each scope; past a limit, leave the rest as continuations.

        A revoked scope of parents, or one of parents that have parents themselves, may mean that
        they were deleted and created again, and their children deleted with them. So it brings the
        scopes of the children that these keys have.
        """
        groups: dict[tuple[str, str, Key], list[Event]] = defaultdict(list)
        for event in scopes:
            value_count = 0 if event.reference == EVERYTHING else 1
            groups[event.mapping, str(event.reference), event.key[value_count:]].append(event)
        remaining = list(groups.values())
        read = 0
        while remaining:
            events = remaining.pop()
            everything = events[0].reference == EVERYTHING
            if read >= 4 * self._batch_size:
                self.continuations += events
                continue
            rows, last = self._page(events)
            if last is not None and len(events) > 1:
                middle = len(events) // 2
                remaining += [events[:middle], events[middle:]]
                continue
            read += len(rows)
            self._queued[events[0].mapping].update(rows)
            if last is not None:
                self.continuations.append(_next_page(events[0], last))
            may_be_gone = self._registry[events[0].mapping].parents or any(
                event.lane is Lane.REVOCATION for event in events
            )
            if not everything and may_be_gone:
                keys = [key for key, row in rows.items() if row is not None]
                remaining += children_scopes(self._registry, events[0].mapping, keys)

    def _page(self, events: list[Event]) -> tuple[dict[Key, Row | None], Key | None]:
        """Return one page of scopes in key order, and its last key if there may be more.

        `events` differ only in the reference's value. The page has the keys that the primary has
        in the scope and those that the target's ledger has there: a row that left the scope is in
        the ledger alone.
        """
        self._keep_alive()
        page = _scope_page(self._registry, events)
        mapping, limit = page.mapping, self._batch_size
        known = self._target.open_scopes(self._snapshot.stamp, [page], limit=limit)[0]
        rows = self._snapshot.rows_in_scope(
            mapping, page.reference, page.values, after=page.after, limit=limit
        )
        merged = sorted({*known, *rows}, key=lambda key: key_order(mapping.key_columns, key))
        more = len(known) == limit or len(rows) == limit or len(merged) > limit
        keys = merged[:limit]
        moved = self._snapshot.rows(mapping, [key for key in keys if key not in rows])
        found = {key: rows.get(key, moved.get(key)) for key in keys}
        return found, keys[-1] if more else None


def log_retained(answer: Answer) -> None:
    """Log the rows that could not be deleted."""
    for mapping, keys in answer.retained.items():
        log.warning("held back by a foreign key", mapping=mapping, rows=len(keys))


def _scope_page(registry: Registry, events: Sequence[Event]) -> ScopePage:
    """Return the page that scopes ask for which differ only in the reference's value."""
    first = events[0]
    everything = first.reference == EVERYTHING
    values = ("",) if everything else tuple(event.key[0] for event in events)
    after = first.key if everything else first.key[1:]
    return ScopePage(registry[first.mapping], str(first.reference), values, after)


def _next_page(scope: Event, last: Key) -> Event:
    value = () if scope.reference == EVERYTHING else scope.key[:1]
    return Event(scope.lane, scope.mapping, value + last, scope.reference)


def _parents(mapping: Mapping, row: Row) -> list[MappingKey]:
    """Return the parents that a row refers to."""
    names = [column.name for column in mapping.columns]
    values = [(parent.mapping, row[names.index(parent.column)]) for parent in mapping.parents]
    return [(name, (value,)) for name, value in values if value is not None]


def _sections(
    registry: Registry, rows: DesiredRows, with_children: set[MappingKey]
) -> list[Section]:
    """Return the sections of one call, parents first."""
    sections = []
    for mapping in registry:
        if not rows.get(mapping.name):
            continue
        section = Section(mapping)
        for key, row in rows[mapping.name].items():
            if row is None:
                section.deleted.append(key)
            elif (mapping.name, key) in with_children:
                section.with_children.append(row)
            else:
                section.rows.append(row)
        sections.append(section)
    return sections
