"""Judge: read suspects again, and say of each whether it drifted, which way, and what caused it.

The order of reads makes this exact beside live traffic. One snapshot of the primary gives the
desired rows and the events that wait; the target is read after it. A change from before the
snapshot is then either in the target or still has its event; one from after it, if the target has
it, has left a fence in the ledger that is newer than the snapshot's.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.reconcile.drift import Cause, Drift, Kind, changed_direction
from mirror.reconcile.pending_events import Found, PendingEvents, read_pending, references_of
from mirror.sync.row_queries import Row
from mirror.sync.snapshot import Snapshot, Source
from mirror.sync.sync_pass import MappingKey
from mirror.sync.targets.base import Target
from mirror.sync.targets.reading import UNKNOWN, KnownRow


@dataclass
class Verdict:
    """What became of some suspects; those that it does not name are equal on both sides."""

    drifts: list[Drift] = field(default_factory=list)
    in_flight: list[Key] = field(default_factory=list)


@dataclass(frozen=True)
class _PrimaryView:
    """What one snapshot says of some keys."""

    epoch: int
    fence: int
    rows: dict[Key, Row]
    """Those that belong in the target."""
    orphans: dict[Key, Row]
    """Those that the query yields, but whose parents are not mirrored."""
    lacking: dict[Key, set[MappingKey]]
    """Of those, the chain of parents that leads to one that is not there."""
    pending: PendingEvents


class Judge:
    """Judges keys of any mapping.

    `own` are retries that the run itself has set, for the case that it dies.
    """

    def __init__(
        self, registry: Registry, source: Source, target: Target, *, own: Collection[int] = ()
    ) -> None:
        self.registry = registry
        self.source = source
        self.target = target
        self.own = own
        self.moved = 0
        """Characters of rows that were read."""

    def judge(self, mapping: Mapping, keys: Sequence[Key]) -> Verdict:
        """Say which of these keys drifted, and for which something is under way."""
        # Only for the parents and references that rows in the target name; a key may name them all.
        named = {reference.name for reference in mapping.all_references}
        first = {} if named <= set(mapping.key) else self.target.rows(mapping, keys)
        with self.source.snapshot() as snapshot:
            primary = self._read(snapshot, mapping, keys, first)
        second = self.target.rows(mapping, keys)
        self.moved += _size(primary.rows.values()) + sum(
            _size(known.row for known in read.values() if known.row) for read in (first, second)
        )
        verdict = Verdict()
        for key in keys:
            known = second.get(key, UNKNOWN)
            found = self._pending(mapping, key, primary, (first.get(key, UNKNOWN), known))
            drift = self._compare(mapping, key, primary, known, found)
            if drift is None:
                continue
            newer = (known.epoch, known.fence) > (primary.epoch, primary.fence)
            if found.under_way or newer:
                verdict.in_flight.append(key)
            else:
                verdict.drifts.append(drift)
        return verdict

    # Reading

    def _read(
        self, snapshot: Snapshot, mapping: Mapping, keys: Sequence[Key], known: dict[Key, KnownRow]
    ) -> _PrimaryView:
        rows = snapshot.rows(mapping, keys)
        involved: dict[str, set[Key]] = defaultdict(set)
        involved[mapping.name].update(keys)
        there = [other.row for other in known.values() if other.row is not None]
        there += [_bare(mapping, key) for key in keys]
        lacking = missing_ancestors(self.registry, snapshot, mapping, rows, there, involved)
        pending = read_pending(self.source.database, self.registry, involved, own=self.own)
        return _PrimaryView(
            epoch=snapshot.stamp.epoch,
            fence=snapshot.stamp.fence,
            rows={key: row for key, row in rows.items() if key not in lacking},
            orphans={key: row for key, row in rows.items() if key in lacking},
            lacking=lacking,
            pending=pending,
        )

    def _pending(
        self, mapping: Mapping, key: Key, primary: _PrimaryView, known: Sequence[KnownRow]
    ) -> Found:
        rows = [primary.rows.get(key), primary.orphans.get(key), *(each.row for each in known)]
        there = [row for row in rows if row is not None]
        references = references_of(mapping, key, there)
        found = primary.pending.find(mapping.name, key, references)
        if found.under_way:
            return found
        for parent in mapping.parents:
            place = _place(mapping, parent.column)
            values = {row[place] for row in there} | (
                {key[mapping.key.index(parent.column)]} if parent.column in mapping.key else set()
            )
            for value in values - {None}:
                above = self._above(primary.pending, self.registry[parent.mapping], (str(value),))
                if above:
                    return Found(under_way=True, buried=found.buried)
        return found

    def _above(self, pending: PendingEvents, mapping: Mapping, key: Key) -> bool:
        """Whether a change of a parent, or of any of its own, is under way.

        A parent's references are not looked up: any scope of its mapping will do.
        """
        if pending.any_scope(mapping.name) or pending.find(mapping.name, key, ()).under_way:
            return True
        return any(
            pending.any_scope(parent.mapping)
            or any(
                event is None for (name, _), event in pending.keys.items() if name == parent.mapping
            )
            for parent in mapping.parents
        )

    # Comparing

    def _compare(
        self, mapping: Mapping, key: Key, primary: _PrimaryView, known: KnownRow, found: Found
    ) -> Drift | None:
        mine, theirs = primary.rows.get(key), known.row
        cause = _cause(known, found, orphan=key in primary.orphans)
        if mine is None and theirs is None:
            # Only the ledger still believes in it.
            return Drift(key, Kind.LEDGER, cause) if known.present else None
        if theirs is None:
            return Drift(key, Kind.MISSING, cause)
        if mine is None:
            parents = frozenset(primary.lacking.get(key, ()))
            return Drift(key, Kind.EXTRA, cause, expired=known.expired, parents=parents)
        count = len(mapping.columns)
        if mine[:count] != theirs[:count]:
            direction = changed_direction(self.registry, mapping, mine, theirs)
            return Drift(key, Kind.CHANGED, cause, direction=direction)
        if mine != theirs or not known.present:
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
    """Return, for rows that lack one, the chain of parents up to the one that is not there.

    Notes all parents' keys in `involved`, also those that `others`, rows as the target has
    them, name.
    """
    lacking: dict[Key, set[MappingKey]] = {}
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
                lacking.setdefault(key, set()).update(chain)
    return lacking


def _cause(known: KnownRow, found: Found, *, orphan: bool) -> Cause:
    if found.buried is not None:
        return Cause.BURIED
    if known.edited or (known.row is not None and not known.present):
        return Cause.BY_HAND
    if known.row is None and known.present:
        return Cause.BY_HAND
    if orphan:
        return Cause.ORPHAN
    if known.present is None:
        return Cause.NEW
    return Cause.OUTDATED if known.outdated else Cause.MISSED


def _bare(mapping: Mapping, key: Key) -> Row:
    """Return a row of which nothing is known but its key."""
    values = dict(zip(mapping.key, key, strict=True))
    return tuple(values.get(column.name) for column in mapping.columns)


def _place(mapping: Mapping, column: str) -> int:
    return [each.name for each in mapping.columns].index(column)


def _size(rows: Iterable[Row]) -> int:
    return sum(len(value or "") for row in rows for value in row)
