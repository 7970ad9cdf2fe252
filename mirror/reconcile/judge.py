"""Judge: reads suspects again, and decides for each whether it drifted, how, and why.

The order of the reads makes this exact beside live traffic. One snapshot of the primary gives the
desired rows and the pending events; the target is read after it. A change that was committed before
the snapshot is either in the target or still has its event. A change that was committed after it
and is in the target has left a fence in the ledger that is newer than the snapshot's.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.reconcile.drift import Cause, Drift, Kind, direction_of_change
from mirror.reconcile.pending_events import KeyStatus, PendingEvents, read_pending, references_of
from mirror.sync.row_queries import Row
from mirror.sync.snapshot import Snapshot, Source
from mirror.sync.sync_pass import MappingKey
from mirror.sync.targets.base import Target
from mirror.sync.targets.catalog import WITHDRAWING
from mirror.sync.targets.reading import UNKNOWN, KnownRow


@dataclass
class Verdict:
    """The suspects that differ; all others are equal on both sides."""

    drifts: list[Drift] = field(default_factory=list)
    in_flight: list[Key] = field(default_factory=list)
    """Keys that differ, but have a change under way."""
    withheld: list[Key] = field(default_factory=list)
    """Keys whose change is under way and cannot be read or written, so that they grant nothing."""


@dataclass(frozen=True)
class _PrimaryState:
    """The state of some keys in one snapshot of the primary."""

    epoch: int
    fence: int
    rows: dict[Key, Row]
    """Rows that belong in the target."""
    orphans: dict[Key, Row]
    """Rows of the query whose parents are not mirrored."""
    missing_parents: dict[Key, set[MappingKey]]
    """For each orphan, the chain of parents up to the missing one."""
    pending: PendingEvents


class Judge:
    """Decides for keys of any mapping whether their rows drifted.

    `ignored` are the ids of retries that do not count as changes under way: the reconcile's own.
    """

    def __init__(
        self, registry: Registry, source: Source, target: Target, *, ignored: Collection[int] = ()
    ) -> None:
        self.registry = registry
        self.source = source
        self.target = target
        self.ignored = ignored
        self.transferred = 0
        """Characters of rows that were read."""

    def judge(self, mapping: Mapping, keys: Sequence[Key]) -> Verdict:
        """Read these keys on both sides again; return which of them differ.

        A key that differs has drifted, unless a change of it is under way. A key that is withheld
        counts as absent from the target. Keys that are equal on both sides are in no list of the
        result.
        """
        verdict = Verdict()
        for drift, under_way, withheld in self._read_and_compare(mapping, keys):
            if not under_way:
                verdict.drifts.append(drift)
            elif withheld:
                verdict.withheld.append(drift.key)
            else:
                verdict.in_flight.append(drift.key)
        return verdict

    def differences(self, mapping: Mapping, keys: Sequence[Key]) -> list[Drift]:
        """Return how those of these keys differ now that do, also if a change is under way."""
        return [difference for difference, *_ in self._read_and_compare(mapping, keys)]

    def _read_and_compare(
        self, mapping: Mapping, keys: Sequence[Key]
    ) -> Iterator[tuple[Drift, bool, bool]]:
        """Yield how a key differs, whether a change of it is under way, and whether it is withheld.

        A parent whose children are being removed does not count as withheld.
        """
        # The first read finds the references and parents that the target's rows contain. Where the
        # key contains all of them, it is not needed.
        references = {reference.name for reference in mapping.all_references}
        before = {} if references <= set(mapping.key) else self.target.rows(mapping, keys)
        with self.source.snapshot() as snapshot:
            primary = self._read_primary(snapshot, mapping, keys, before)
        after = self.target.rows(mapping, keys)
        self.transferred += _size(primary.rows.values()) + sum(
            _size(known.row for known in read.values() if known.row) for read in (before, after)
        )
        for key in keys:
            known = after.get(key, UNKNOWN)
            status = self._key_status(mapping, key, primary, (before.get(key, UNKNOWN), known))
            drift = self._compare(mapping, key, primary, known, status)
            if drift is not None:
                newer = (known.epoch, known.fence) > (primary.epoch, primary.fence)
                withheld = known.withheld not in {None, WITHDRAWING}
                yield drift, status.under_way or newer, withheld

    # Reading

    def _read_primary(
        self,
        snapshot: Snapshot,
        mapping: Mapping,
        keys: Sequence[Key],
        target_rows: dict[Key, KnownRow],
    ) -> _PrimaryState:
        rows = snapshot.rows(mapping, keys)
        involved: dict[str, set[Key]] = defaultdict(set)
        involved[mapping.name].update(keys)
        others = [known.row for known in target_rows.values() if known.row is not None]
        others += [_row_of_key(mapping, key) for key in keys]
        missing = missing_ancestors(self.registry, snapshot, mapping, rows, others, involved)
        pending = read_pending(self.source.database, self.registry, involved, ignored=self.ignored)
        return _PrimaryState(
            epoch=snapshot.stamp.epoch,
            fence=snapshot.stamp.fence,
            rows={key: row for key, row in rows.items() if key not in missing},
            orphans={key: row for key, row in rows.items() if key in missing},
            missing_parents=missing,
            pending=pending,
        )

    def _key_status(
        self, mapping: Mapping, key: Key, primary: _PrimaryState, known: Sequence[KnownRow]
    ) -> KeyStatus:
        """Return the KeyStatus of a key, by the events that were pending in the primary's snapshot.

        `under_way` is True if an event of the key, of one of its scopes or of one of its parents
        waits or is claimed; `buried` is the id of a buried event of the key or of its scopes.
        `known` are the target's rows of the key, as read before and after the snapshot.
        """
        if primary.pending.empty:
            return KeyStatus(under_way=False, buried=None)
        rows = [primary.rows.get(key), primary.orphans.get(key), *(each.row for each in known)]
        known_rows = [row for row in rows if row is not None]
        references = references_of(mapping, key, known_rows)
        status = primary.pending.find(mapping.name, key, references)
        if status.under_way:
            return status
        for parent in mapping.parents:
            place = _place(mapping, parent.column)
            values = {row[place] for row in known_rows} | (
                {key[mapping.key.index(parent.column)]} if parent.column in mapping.key else set()
            )
            for value in values - {None}:
                parent_key = (str(value),)
                if _parent_is_pending(primary.pending, self.registry[parent.mapping], parent_key):
                    return KeyStatus(under_way=True, buried=status.buried)
        return status

    # Comparing

    def _compare(
        self,
        mapping: Mapping,
        key: Key,
        primary: _PrimaryState,
        known: KnownRow,
        status: KeyStatus,
    ) -> Drift | None:
        """Return how a key's rows and its ledger row differ; None: they are as they should be."""
        primary_row, target_row = primary.rows.get(key), known.row
        cause = _cause(known, status, orphan=key in primary.orphans)
        if primary_row is None and target_row is None:
            # Only the ledger still has it, or a mark.
            return Drift(key, Kind.LEDGER, cause) if known.present or known.withheld else None
        if target_row is None or (known.withheld and primary_row is not None):
            return Drift(key, Kind.MISSING, cause)
        if primary_row is None:
            parents = frozenset(primary.missing_parents.get(key, ()))
            return Drift(key, Kind.EXTRA, cause, expired=known.expired, parents=parents)
        # The visible columns come first, then the references that only the ledger stores.
        visible = len(mapping.columns)
        if primary_row[:visible] != target_row[:visible]:
            direction = direction_of_change(self.registry, mapping, primary_row, target_row)
            return Drift(key, Kind.CHANGED, cause, direction=direction)
        if primary_row != target_row or not known.present:
            return Drift(key, Kind.LEDGER, cause)
        return None


def missing_ancestors(
    registry: Registry,
    snapshot: Snapshot,
    mapping: Mapping,
    rows: dict[Key, Row],
    others: Iterable[Row],
    involved: dict[str, set[Key]],
) -> dict[Key, set[MappingKey]]:
    """Return, for each row of `rows` that lacks an ancestor, the chain of parents up to that one.

    An ancestor is missing if the primary's query does not yield it. `others` are rows as the target
    has them. The keys of the parents and further ancestors of `rows` and `others` are added to
    `involved`, by mapping.
    """
    missing: dict[Key, set[MappingKey]] = {}
    for parent in mapping.parents:
        other = registry[parent.mapping]
        place = _place(mapping, parent.column)
        values = {row[place] for row in (*rows.values(), *others)}
        parents = [(value,) for value in values if value is not None]
        involved[other.name].update(parents)
        found = snapshot.rows(other, parents)
        above = missing_ancestors(registry, snapshot, other, found, (), involved)
        for key, row in rows.items():
            value = row[place]
            if value is not None and ((value,) not in found or (value,) in above):
                chain = {(other.name, (value,))} | above.get((value,), set())
                missing.setdefault(key, set()).update(chain)
    return missing


def _parent_is_pending(pending: PendingEvents, mapping: Mapping, key: Key) -> bool:
    """Return whether a change of the parent `key`, or of one of its own parents, is under way.

    The parent's row is not read. So an event of any scope of its mapping counts, and any event of
    the mappings of its own parents.
    """
    if pending.any_scope(mapping.name) or pending.find(mapping.name, key, ()).under_way:
        return True
    return any(
        pending.any_scope(parent.mapping)
        or any(event is None for (name, _), event in pending.keys.items() if name == parent.mapping)
        for parent in mapping.parents
    )


def _cause(known: KnownRow, status: KeyStatus, *, orphan: bool) -> Cause:
    if status.buried is not None:
        return Cause.BURIED
    if known.withheld:
        return Cause.WITHHELD
    if known.edited or (known.row is not None) is not bool(known.present):
        return Cause.BY_HAND
    if orphan:
        return Cause.ORPHAN
    if known.present is None:
        return Cause.NEW
    return Cause.OUTDATED if known.outdated else Cause.MISSED


def _row_of_key(mapping: Mapping, key: Key) -> Row:
    """Return a row with the values of this key; its other values are None."""
    values = dict(zip(mapping.key, key, strict=True))
    return tuple(values.get(column.name) for column in mapping.columns)


def _place(mapping: Mapping, column: str) -> int:
    return [each.name for each in mapping.columns].index(column)


def _size(rows: Iterable[Row]) -> int:
    return sum(len(value or "") for row in rows for value in row)
