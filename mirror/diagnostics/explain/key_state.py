"""Key state: everything that both sides know about one key, read once for all steps."""

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
from mirror.sync.pairing import Parting
from mirror.sync.row_queries import Row
from mirror.sync.snapshot import Snapshot, Stamp
from mirror.sync.stepping import find_parting
from mirror.sync.sync_pass import MappingKey
from mirror.sync.targets.asking import Trace
from mirror.sync.targets.reading import UNKNOWN, KnownRow


@dataclass(frozen=True)
class KeyState:
    """The state of one key of a mapping on both sides."""

    mapping: Mapping
    key: Key
    stamp: Stamp
    """The stamp of the primary's snapshot."""
    row: Row | None
    """The row that the mapping's query yields, even if its parents are missing."""
    parents: dict[MappingKey, bool]
    """Its parents and their parents, by mapping and key: whether the primary has the row."""
    known: KnownRow
    """The row and the ledger row of the target."""
    trace: Trace
    """Facts of the target beside rows: its primary, the fences of scopes, whether Auth knows the
    user."""
    parting: Parting | None
    """Why primary and target do not belong together; None if they do."""
    drift: Drift | None
    """How the sides differ; None: they do not, or a change that explains it is under way."""
    in_flight: bool
    """Whether the sides differ, and a change that explains it is under way."""
    events: tuple[QueuedEvent, ...]
    """Waiting and buried events that concern the key."""

    @property
    def name(self) -> str:
        """The mapping and the key, as arguments of `mirror sync`."""
        return f"{self.mapping.name} {','.join(self.key)}"

    @property
    def missing_parents(self) -> tuple[MappingKey, ...]:
        """The parents whose absence keeps an existing row out of the target."""
        if self.row is None:
            return ()
        return tuple(parent for parent, exists in self.parents.items() if not exists)

    @property
    def primary_values(self) -> Values | None:
        """The values that belong in the target; None: no row belongs there."""
        if self.row is None or self.missing_parents:
            return None
        return values_by_column(self.mapping, self.row)

    @property
    def target_values(self) -> Values | None:
        """The values that the target has; None: it has no row."""
        return None if self.known.row is None else values_by_column(self.mapping, self.known.row)

    @property
    def differs(self) -> bool:
        """Whether the two sides differ; an expired row that only the target has does not count."""
        return self.in_flight or self.drift is not None

    @property
    def withheld(self) -> tuple[MappingKey, str] | None:
        """The key itself or an ancestor that the target withholds, and why; None: neither is."""
        for name, key in [(self.mapping.name, self.key), *self.parents]:
            reason = self.trace.withheld.get((name, key))
            if reason is not None:
                return (name, key), reason
        return None

    @property
    def target_is_newer(self) -> bool:
        """Whether the target has recorded a newer read of the key or its scopes than this one."""
        fences = [scope[3:] for scope in self.trace.scopes]
        newest = max([(self.known.epoch, self.known.fence), *fences])
        return newest > (self.stamp.epoch, self.stamp.fence)


def values_by_column(mapping: Mapping, row: Row) -> Values:
    """Return a row's values by column."""
    return dict(zip((column.name for column in mapping.columns), row, strict=False))


def read_key_state(drain: Drain, mapping: Mapping, key: Key, user: str) -> KeyState:
    """Read and return the state of a key on both sides, and whether Auth knows the user.

    Raises:
        MirrorError: a side does not answer, is not migrated, or has other declarations.
    """
    state = _read(drain, mapping, key, user)
    # A change mirrored between the two reads looks like a primary that was restored to an earlier
    # time. A second read tells the two apart.
    return _read(drain, mapping, key, user) if state.target_is_newer else state


def _read(drain: Drain, mapping: Mapping, key: Key, user: str) -> KeyState:
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
    own_scopes = [scope for scope in scopes if scope[0] == mapping.name]
    return KeyState(
        mapping=mapping,
        key=key,
        stamp=stamp,
        row=row,
        parents=parents,
        known=target.rows(mapping, [key]).get(key, UNKNOWN),
        trace=target.trace(user, own_scopes),
        parting=find_parting(source, target),
        # An expired row grants nothing, and the next sweep deletes it: that is no drift.
        drift=next((drift for drift in verdict.drifts if not drift.expired), None),
        in_flight=bool(verdict.in_flight or verdict.withheld),
        events=tuple(events),
    )


def _parents(
    registry: Registry, snapshot: Snapshot, mapping: Mapping, key: Key, rows: Iterable[Row]
) -> Iterator[tuple[MappingKey, bool]]:
    """Yield each parent of a key, and each of their parents, with whether the primary has it."""
    names = [column.name for column in mapping.columns]
    for parent in mapping.parents:
        parent_mapping = registry[parent.mapping]
        values = {row[names.index(parent.column)] for row in rows}
        if parent.column in mapping.key:
            values.add(key[mapping.key.index(parent.column)])
        parent_keys = [(value,) for value in values if value is not None]
        found = snapshot.rows(parent_mapping, parent_keys)
        for parent_key in parent_keys:
            yield (parent_mapping.name, parent_key), parent_key in found
            parent_rows = filter(None, [found.get(parent_key)])
            yield from _parents(registry, snapshot, parent_mapping, parent_key, parent_rows)
