"""Found paths: follows a question's access paths through the rows of one database.

An access path is a sequence of rows that together grant a user access to a resource. A found path
holds the rows of it that exist, up to the first that is missing.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from mirror.access.questions import (
    AccessPath,
    AccessQuestion,
    FromRow,
    Given,
    HeldLevels,
    Lookup,
    Values,
    decides_by_key,
    inactive_reason,
)
from mirror.diagnostics.explain.key_state import values_by_column
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.reconcile.judge import missing_ancestors
from mirror.sync.row_queries import Row
from mirror.sync.snapshot import Snapshot
from mirror.sync.targets.base import Target

_MAX_ROWS: Final = 100
"""How many rows of one lookup are followed."""

Filter = dict[str, str]
"""Values that a row must have, as texts by column."""


class RowReader(Protocol):
    """Finds rows in one of the two databases."""

    def rows(
        self, mapping: Mapping, filter_: Filter, *, present: bool = False
    ) -> dict[Key, Values]:
        """Return the mirrored rows with these values by key, at most `_MAX_ROWS`.

        `present`: in the target, only those that the ledger has, too.
        """
        ...


@dataclass(frozen=True)
class FoundRow:
    """One row of a found path."""

    mapping: Mapping
    key: Key
    values: Values


@dataclass(frozen=True)
class FoundPath:
    """An access path, the rows of it that exist before the first missing one, and their grant."""

    path: AccessPath
    rows: tuple[FoundRow, ...]
    grant: HeldLevels
    missing: tuple[Mapping, Filter] | None = None
    """Where the next row was searched; None: no row is missing, or it cannot be searched for."""

    @property
    def keys(self) -> tuple[tuple[Mapping, Key], ...]:
        """The key of each row, and of the missing one if its filter contains the whole key."""
        known = tuple((row.mapping, row.key) for row in self.rows)
        if self.missing is None:
            return known
        missing_key = key_from(*self.missing)
        return known if missing_key is None else (*known, (self.missing[0], missing_key))


def key_from(mapping: Mapping, filter_: Filter) -> Key | None:
    """Return the key that these values contain; None: they do not contain all of its columns."""
    return (
        tuple(filter_[name] for name in mapping.key) if set(mapping.key) <= set(filter_) else None
    )


def find_paths(
    registry: Registry, question: AccessQuestion, reader: RowReader, user: str, resource: str
) -> list[FoundPath]:
    """Follow each access path from the user to the resource through the rows of one database.

    Each access path has at least one found path in the result: if a row is missing, with the rows
    before that one. The found path that grants most levels comes first.
    """
    given = {Given.USER: user, Given.RESOURCE: resource}
    found = [
        one
        for path in question.paths
        for one in _follow(registry, question, reader, given, path, ())
    ]
    # Among incomplete paths, the longest one explains most.
    return sorted(found, key=lambda one: (len(one.grant.levels), len(one.rows)), reverse=True)


def combined_grant(paths: Iterable[FoundPath]) -> HeldLevels:
    """Return all levels that the paths grant; if there are none, the reason of the first path."""
    grants = [path.grant for path in paths]
    levels = frozenset(level for grant in grants for level in grant.levels)
    reason = None if levels else next((grant.reason for grant in grants), None)
    return HeldLevels(levels, reason=reason)


def _follow(
    registry: Registry,
    question: AccessQuestion,
    reader: RowReader,
    given: dict[Given, str],
    path: AccessPath,
    before: tuple[FoundRow, ...],
) -> Iterator[FoundPath]:
    """Yield the found paths of one access path that begin with the rows `before`.

    The last one may be incomplete: the next row is missing, or a row grants nothing.
    """
    lookup = path.rows[len(before)]
    mapping = registry[lookup.mapping]
    filter_ = lookup_filter(lookup, given, before)
    present = decides_by_key(mapping, path.compared(len(before)))
    found = {} if filter_ is None else reader.rows(mapping, filter_, present=present)
    if not found:
        reason = HeldLevels(
            reason=f"{mapping.name} has no such row"
            if filter_ is not None
            else f"a row of {mapping.name} is found by {', '.join(lookup.by)}, and one of these "
            f"values is NULL"
        )
        yield FoundPath(path, before, reason, None if filter_ is None else (mapping, filter_))
        return
    for key, values in found.items():
        grant = question.grant(path, len(before), mapping, values)
        rows = (*before, FoundRow(mapping, key, values))
        if len(rows) == len(path.rows) or not grant.levels:
            yield FoundPath(path, rows, grant)
        else:
            yield from _follow(registry, question, reader, given, path, rows)


def lookup_filter(
    lookup: Lookup, given: dict[Given, str], before: tuple[FoundRow, ...]
) -> Filter | None:
    """Return the values that a lookup's row must have; None: one of them is NULL in an earlier row.

    `before` are the rows that the earlier lookups of the access path found.
    """
    filter_ = {}
    for name, source in lookup.by.items():
        if isinstance(source, Given):
            value: str | None = given[source]
        elif isinstance(source, FromRow):
            value = before[source.row].values[source.column]
        else:
            value = source.value
        if value is None:
            return None
        filter_[name] = value
    return filter_


class PrimaryRowReader:
    """Finds the rows that belong in the target, in one snapshot of the primary.

    `with_expired`: also those that have expired, but not those below them.
    """

    def __init__(
        self, registry: Registry, snapshot: Snapshot, *, with_expired: bool = False
    ) -> None:
        self._registry = registry
        self._ancestors = snapshot
        self._snapshot = snapshot.with_expired() if with_expired else snapshot
        self._cache: dict[tuple[str, tuple[tuple[str, str], ...]], dict[Key, Values]] = {}

    def rows(
        self,
        mapping: Mapping,
        filter_: Filter,
        *,
        present: bool = False,  # noqa: ARG002 - for the target
    ) -> dict[Key, Values]:
        """Return the mirrored rows with these values, at most `_MAX_ROWS`."""
        name = (mapping.name, tuple(sorted(filter_.items())))
        if name not in self._cache:
            found = self._snapshot.rows_with(mapping, filter_, limit=_MAX_ROWS)
            self._cache[name] = self._with_parents(mapping, found)
        return self._cache[name]

    def prefetch(self, mapping: Mapping, filters: Iterable[Filter]) -> None:
        """Read the rows for all filters that contain a whole key; keep them for calls of `rows`."""
        by_key = {key_from(mapping, filter_): filter_ for filter_ in filters}
        filters_by_key = {key: filter_ for key, filter_ in by_key.items() if key is not None}
        found = self._with_parents(mapping, self._snapshot.rows(mapping, list(filters_by_key)))
        for key, filter_ in filters_by_key.items():
            row = found.get(key)
            matches = row is not None and all(row[name] == text for name, text in filter_.items())
            name = (mapping.name, tuple(sorted(filter_.items())))
            self._cache[name] = {key: row} if row is not None and matches else {}

    def _with_parents(self, mapping: Mapping, rows: dict[Key, Row]) -> dict[Key, Values]:
        """Return the rows without those whose parents are missing."""
        orphans = missing_ancestors(
            self._registry, self._ancestors, mapping, rows, (), defaultdict(set)
        )
        return {
            key: values_by_column(mapping, row) for key, row in rows.items() if key not in orphans
        }


class TargetRowReader:
    """Finds rows in the target."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def rows(
        self, mapping: Mapping, filter_: Filter, *, present: bool = False
    ) -> dict[Key, Values]:
        """Return the mirrored rows with these values, at most `_MAX_ROWS`.

        Those whose ancestors have expired are left out. `present`: only those that the ledger has.
        """
        keys = self._target.keys(mapping, filter_, limit=_MAX_ROWS)
        known = self._target.rows(mapping, keys) if keys else {}
        found = {
            key: (values_by_column(mapping, one.row), one.expired)
            for key, one in known.items()
            if one.row is not None and (one.present or not present)
        }
        return {
            key: values
            for key, (values, expired) in found.items()
            if not expired or inactive_reason(mapping, values) is not None
        }
