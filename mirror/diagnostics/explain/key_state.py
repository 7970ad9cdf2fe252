"""Facts: what both sides know of one key, read once for all steps."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mirror.access.questions import Values
from mirror.diagnostics.explain.events import QueuedEvent, queued_events
from mirror.model.keys import Key
from mirror.model.mapping import EVERYTHING, Mapping
from mirror.model.registry import Registry
from mirror.reconcile.drift import Drift
from mirror.reconcile.judge import Judge
from mirror.reconcile.pending_events import references_of
from mirror.sync.drain import Drain
from mirror.sync.row_queries import Row
from mirror.sync.snapshot import Snapshot
from mirror.sync.stamp import Stamp
from mirror.sync.sync_pass import MappingKey
from mirror.sync.targets.asking import Trace
from mirror.sync.targets.reading import UNKNOWN, KnownRow


@dataclass(frozen=True)
class KeyState:
    """What is known of one key of a mapping."""

    mapping: Mapping
    key: Key
    stamp: Stamp
    """Of the primary's snapshot."""
    row: Row | None
    """What the mapping's query yields, whether its parents are there or not."""
    parents: dict[MappingKey, bool]
    """Its parents, and their own: whether the primary yields them."""
    known: KnownRow
    """What the target knows."""
    trace: Trace
    drift: Drift | None
    """How the two differ, if nothing is under way that would explain it."""
    under_way: bool
    """They differ, and something is."""
    events: tuple[QueuedEvent, ...]
    """What waits, or is buried, that bears on the key."""

    @property
    def name(self) -> str:
        """The key as commands take it."""
        return f"{self.mapping.name} {','.join(self.key)}"

    @property
    def lacking(self) -> tuple[MappingKey, ...]:
        """The parents that keep the row out, if it is there itself."""
        if self.row is None:
            return ()
        return tuple(name for name, there in self.parents.items() if not there)

    @property
    def wanted(self) -> Values | None:
        """The row that belongs in the target."""
        return None if self.lacking else values(self.mapping, self.row)

    @property
    def held(self) -> Values | None:
        """The row that the target has."""
        return values(self.mapping, self.known.row)

    @property
    def differ(self) -> bool:
        """Whether the two differ."""
        return self.under_way or self.drift is not None

    @property
    def newer(self) -> bool:
        """Whether the target knows a read of this key, or of a scope of it, newer than this one."""
        fences = [scope[3:] for scope in self.trace.scopes]
        newest = max([(self.known.epoch, self.known.fence), *fences])
        return newest > (self.stamp.epoch, self.stamp.fence)


def values(mapping: Mapping, row: Row | None) -> Values | None:
    """Return a row's values by column."""
    if row is None:
        return None
    return dict(zip((column.name for column in mapping.columns), row, strict=False))


def read_key_state(drain: Drain, mapping: Mapping, key: Key, user: str) -> KeyState:
    """Read everything about a key, on both sides.

    Raises:
        MirrorError: one of them does not answer, is not migrated, or holds other declarations.
    """
    facts = _read_key_state(drain, mapping, key, user)
    # A change that was mirrored in between looks like a primary that went back; once more tells.
    return _read_key_state(drain, mapping, key, user) if facts.newer else facts


def _read_key_state(drain: Drain, mapping: Mapping, key: Key, user: str) -> KeyState:
    registry, source, target = drain.registry, drain.source, drain.target
    before = target.rows(mapping, [key]).get(key, UNKNOWN)
    with source.snapshot() as snapshot:
        row = snapshot.rows(mapping, [key]).get(key)
        rows = [one for one in (row, before.row) if one is not None]
        parents = dict(_parents(registry, snapshot, mapping, key, rows))
        scopes = [(mapping.name, *scope) for scope in references_of(mapping, key, rows)]
        scopes += [(name, EVERYTHING, "") for name in {mapping.name, *(p[0] for p in parents)}]
        events = queued_events(source.database, [(mapping.name, key), *parents], scopes)
        stamp = snapshot.stamp
    verdict = Judge(registry, source, target).judge(mapping, [key])
    own = [scope for scope in scopes if scope[0] == mapping.name]
    return KeyState(
        mapping=mapping,
        key=key,
        stamp=stamp,
        row=row,
        parents=parents,
        known=target.rows(mapping, [key]).get(key, UNKNOWN),
        trace=target.trace(user, own),
        # A row whose time is over grants nothing, and goes with the next sweep.
        drift=next((drift for drift in verdict.drifts if not drift.expired), None),
        under_way=bool(verdict.in_flight),
        events=tuple(events),
    )


def _parents(
    registry: Registry, snapshot: Snapshot, mapping: Mapping, key: Key, rows: Iterable[Row]
) -> Iterator[tuple[MappingKey, bool]]:
    """Yield each parent, and its own, with whether the primary yields it."""
    names = [column.name for column in mapping.columns]
    for parent in mapping.parents:
        other = registry[parent.mapping]
        found = {row[names.index(parent.column)] for row in rows}
        if parent.column in mapping.key:
            found.add(key[mapping.key.index(parent.column)])
        above = [(value,) for value in found if value is not None]
        there = snapshot.rows(other, above)
        for one in above:
            yield (other.name, one), one in there
            yield from _parents(registry, snapshot, other, one, filter(None, [there.get(one)]))
