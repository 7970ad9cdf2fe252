"""Chains: the rows on one side by which a user reaches a resource, as far as they are there."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from mirror.access.questions import (
    AccessPath,
    AccessQuestion,
    FromRow,
    Given,
    Grant,
    Lookup,
    Values,
)
from mirror.diagnostics.explain.key_state import values
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.reconcile.judge import missing_ancestors
from mirror.sync.row_queries import Row
from mirror.sync.snapshot import Snapshot
from mirror.sync.targets.base import Target

_MOST: Final = 100
"""How many rows of one look are followed."""

ColumnValues = dict[str, str]
"""What columns have to hold."""


class RowReader(Protocol):
    """One of the two databases, for looking rows up."""

    def rows(self, mapping: Mapping, wanted: ColumnValues) -> dict[Key, Values]:
        """Return the rows that count there, in which columns hold these values."""
        ...


@dataclass(frozen=True)
class FoundRow:
    """One row of a chain."""

    mapping: Mapping
    key: Key
    row: Values


@dataclass(frozen=True)
class FoundPath:
    """One way, and the rows of it that are there; the first that is not ends it."""

    way: AccessPath
    links: tuple[FoundRow, ...]
    grant: Grant
    missing: tuple[Mapping, ColumnValues] | None = None
    """Where the next row should be."""

    @property
    def keys(self) -> tuple[tuple[Mapping, Key], ...]:
        """Each row's key, that of the missing one too, if what it is looked for by tells it."""
        known = tuple((link.mapping, link.key) for link in self.links)
        absence_reason = self.missing and key_from(*self.missing)
        return (
            known
            if self.missing is None or absence_reason is None
            else (*known, (self.missing[0], absence_reason))
        )


def key_from(mapping: Mapping, wanted: ColumnValues) -> Key | None:
    """Return the key that these values make, if they hold all of it."""
    return tuple(wanted[name] for name in mapping.key) if set(mapping.key) <= set(wanted) else None


def find_paths(
    registry: Registry, question: AccessQuestion, side: RowReader, user: str, resource: str
) -> list[FoundPath]:
    """Return every chain on one side, those that break off included; the strongest first."""
    given = {Given.USER: user, Given.RESOURCE: resource}
    found = [
        chain
        for way in question.ways
        for chain in _follow(registry, question, side, given, way, ())
    ]
    # Of those that break off, the one that gets farthest tells most.
    return sorted(found, key=lambda c: (len(c.grant.levels), len(c.links)), reverse=True)


def combined_grant(found: Iterable[FoundPath]) -> Grant:
    """Return what several paths grant together; the reason is that of the first."""
    grants = [chain.grant for chain in found]
    levels = frozenset(level for grant in grants for level in grant.levels)
    return Grant(levels, None if levels else next((grant.reason for grant in grants), None))


def _follow(
    registry: Registry,
    question: AccessQuestion,
    side: RowReader,
    given: dict[Given, str],
    way: AccessPath,
    links: tuple[FoundRow, ...],
) -> Iterator[FoundPath]:
    look = way.rows[len(links)]
    mapping = registry[look.mapping]
    wanted = lookup_values(look, given, links)
    found = {} if wanted is None else side.rows(mapping, wanted)
    if not found:
        found_by = ", ".join(look.by)
        reason = Grant(
            reason=f"there is no row of {mapping.name}"
            if wanted is not None
            else f"a row of {mapping.name} is found by {found_by}, and one of them is NULL"
        )
        yield FoundPath(way, links, reason, None if wanted is None else (mapping, wanted))
        return
    for key, row in found.items():
        grant = question.grant(way, len(links), mapping, row)
        reached = (*links, FoundRow(mapping, key, row))
        if len(reached) == len(way.rows) or not grant.levels:
            yield FoundPath(way, reached, grant)
        else:
            yield from _follow(registry, question, side, given, way, reached)


def lookup_values(
    look: Lookup, given: dict[Given, str], links: tuple[FoundRow, ...]
) -> ColumnValues | None:
    """Return what a row's columns have to hold; None where a row before has NULL there."""
    wanted = {}
    for name, value in look.by.items():
        if isinstance(value, Given):
            text: str | None = given[value]
        else:
            text = links[value.row].row[value.column] if isinstance(value, FromRow) else value.value
        if text is None:
            return None
        wanted[name] = text
    return wanted


class PrimaryRows:
    """The rows that belong in the target, as one snapshot of the primary has them."""

    def __init__(self, registry: Registry, snapshot: Snapshot) -> None:
        self._registry = registry
        self._snapshot = snapshot
        self._known: dict[tuple[str, tuple[tuple[str, str], ...]], dict[Key, Values]] = {}

    def rows(self, mapping: Mapping, wanted: ColumnValues) -> dict[Key, Values]:
        """Return the rows that count there, in which columns hold these values."""
        name = (mapping.name, tuple(sorted(wanted.items())))
        if name not in self._known:
            found = self._snapshot.rows_with(mapping, wanted, limit=_MOST)
            self._known[name] = self._counting(mapping, found)
        return self._known[name]

    def fetch(self, mapping: Mapping, several: Iterable[ColumnValues]) -> None:
        """Read rows that will be asked for in one go, where what they are asked by is a key."""
        names = {key_from(mapping, wanted): wanted for wanted in several}
        keys = {key: wanted for key, wanted in names.items() if key is not None}
        rows = self._counting(mapping, self._snapshot.rows(mapping, list(keys)))
        for key, wanted in keys.items():
            row = rows.get(key)
            same = row is not None and all(row[name] == text for name, text in wanted.items())
            name = (mapping.name, tuple(sorted(wanted.items())))
            self._known[name] = {key: row} if row is not None and same else {}

    def _counting(self, mapping: Mapping, found: dict[Key, Row]) -> dict[Key, Values]:
        """Leave out those whose parents are not there."""
        lacking = missing_ancestors(
            self._registry, self._snapshot, mapping, found, (), defaultdict(set)
        )
        named = {key: values(mapping, row) for key, row in found.items() if key not in lacking}
        return {key: row for key, row in named.items() if row is not None}


class TargetRows:
    """The rows that the target has."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def rows(self, mapping: Mapping, wanted: ColumnValues) -> dict[Key, Values]:
        """Return the rows that count there, in which columns hold these values."""
        keys = self._target.keys(mapping, wanted, most=_MOST)
        known = self._target.rows(mapping, keys) if keys else {}
        named = {key: values(mapping, one.row) for key, one in known.items()}
        return {key: row for key, row in named.items() if row is not None}
