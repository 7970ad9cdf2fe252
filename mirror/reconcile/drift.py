"""Drift: a row that differs though no event for it is under way."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from mirror.access import Grants, Membership
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.sync.row_queries import Row
from mirror.sync.sync_pass import MappingKey

_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)


class Kind(StrEnum):
    """How a row differs."""

    MISSING = "missing"
    """The primary has it, the target does not."""
    EXTRA = "extra"
    """The target has it, the primary does not."""
    CHANGED = "changed"
    """Both have it, with other values."""
    LEDGER = "ledger"
    """The visible row is right, but what the target remembers of it is not: a later change of one
    of its scopes would miss it."""


class Direction(StrEnum):
    """Whether the target allows more or less than the primary."""

    OVER = "over-grant"
    UNDER = "under-grant"
    NEITHER = "neither"


class Cause(StrEnum):
    """What a drift looks like, in words that a person can act on."""

    MISSED = "no event told of this change: a hook is missing where it was made"
    BURIED = "its event is buried: mend what `mirror status` says of it, then `mirror retry`"
    BY_HAND = "somebody wrote to the target by hand since the mirror last did"
    ORPHAN = "its parent's removal was never captured: a hook is missing where parents are deleted"
    NEW = "the target never heard of it: a first load, or a missing hook where rows are created"
    OUTDATED = (
        "last written before the model's latest migration: `mirror resync` did not follow it, or a "
        "hook is missing"
    )


@dataclass(frozen=True)
class Drift:
    """One row that drifted."""

    key: Key
    kind: Kind
    cause: Cause
    direction: Direction = Direction.NEITHER
    expired: bool = False
    """It grants nothing any more by the column that the mapping declares as `expires`."""
    parents: frozenset[MappingKey] = frozenset()
    """Why the primary's row does not belong in the target: the parents that are gone."""

    def __post_init__(self) -> None:
        sure = {Kind.MISSING: Direction.UNDER, Kind.EXTRA: Direction.OVER}
        if self.kind in sure:
            object.__setattr__(self, "direction", sure[self.kind])


def changed_direction(registry: Registry, mapping: Mapping, mine: Row, theirs: Row) -> Direction:
    """Say whether a changed row allows more in the target (`theirs`) than in the primary.

    Where that cannot be told, it counts as more.
    """
    names = [column.name for column in mapping.columns]
    differing = {name for name, a, b in zip(names, mine, theirs, strict=False) if a != b}
    descriptive = {column.name for column in mapping.columns if column.descriptive}
    if differing <= descriptive:
        return Direction.NEITHER
    here = _active(mapping, dict(zip(names, mine, strict=False)))
    there = _active(mapping, dict(zip(names, theirs, strict=False)))
    if here != there:
        return Direction.OVER if there else Direction.UNDER
    if not here:
        return Direction.NEITHER
    if mapping.expires is not None and differing - descriptive == {mapping.expires}:
        place = names.index(mapping.expires)
        return Direction.OVER if _ends(theirs[place]) > _ends(mine[place]) else Direction.UNDER
    for column, levels in _orders(registry, mapping):
        if differing - descriptive == {column}:
            place = names.index(column)
            mine_level, their_level = (_level(levels, row[place]) for row in (mine, theirs))
            return Direction.OVER if their_level > mine_level else Direction.UNDER
    return Direction.OVER


def _orders(registry: Registry, mapping: Mapping) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the columns that hold a role or a level, each with its order."""
    for access in registry.access:
        if isinstance(access, Membership) and access.mapping == mapping.name:
            if isinstance(access.role, str):
                yield access.role, access.levels
        elif isinstance(access, Grants) and access.mapping == mapping.name:
            yield access.level, access.levels


def _active(mapping: Mapping, row: dict[str, str | None]) -> bool:
    return all(row[name] in values for name, values in mapping.active.items())


def _ends(moment: str | None) -> datetime:
    """Return when a row ends, from a timestamptz as PostgreSQL prints it in UTC; None never does.

    Where Python has no such year, the last that it has, or the first.
    """
    if moment is None:
        return _LAST
    try:
        return datetime.fromisoformat(moment)
    except ValueError:
        before = moment.startswith("-") or moment.endswith("BC")
        return _FIRST if before else _LAST


def _level(levels: Sequence[str], role: str | None) -> int:
    """Return a role's rank; one that is not among the levels counts for nothing."""
    return levels.index(role) if role in levels else -1
