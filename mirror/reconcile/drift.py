"""Drift: describes a row that differs although no event for it is under way."""

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
    """The visible row is right, but the target's ledger row for the key is wrong. So a later event
    about a scope (all rows with one value of a reference) would not reach this row."""


class Direction(StrEnum):
    """Whether a row allows more in the target than in the primary (OVER), or less (UNDER).

    NEITHER: it allows the same on both sides.
    """

    OVER = "over-grant"
    UNDER = "under-grant"
    NEITHER = "neither"


class Cause(StrEnum):
    """The likely cause of a drift, with its remedy."""

    MISSED = "no event recorded this change: a hook is missing where the change is made"
    BURIED = "its event is buried: fix the error that `mirror status` shows, then `mirror retry`"
    WITHHELD = "it was withheld, and its event is gone, which may have been discarded"
    BY_HAND = "the target was edited by hand after the mirror last wrote to it"
    ORPHAN = "no event recorded that its parent went: a hook is missing where parents are deleted"
    NEW = "the target never had it: a first load, or a missing hook where rows are created"
    OUTDATED = (
        "last written before the model's latest migration: run `mirror resync`; if that was done, "
        "a hook is missing"
    )


@dataclass(frozen=True)
class Drift:
    """One row that differs between the sides although no event for it is under way."""

    key: Key
    kind: Kind
    cause: Cause
    direction: Direction = Direction.NEITHER
    expired: bool = False
    """The time in the column that the mapping declares as `expires` has passed."""
    parents: frozenset[MappingKey] = frozenset()
    """If the primary has the row, but lacks one of its ancestors: the chain of parents up to the
    missing one. Because of it, the row does not belong in the target."""

    def __post_init__(self) -> None:
        known = {Kind.MISSING: Direction.UNDER, Kind.EXTRA: Direction.OVER}
        if self.kind in known:
            object.__setattr__(self, "direction", known[self.kind])


def direction_of_change(
    registry: Registry, mapping: Mapping, primary_row: Row, target_row: Row
) -> Direction:
    """Return OVER, UNDER or NEITHER for a row that has other values in the target.

    It is NEITHER if only descriptive columns differ, or if the row grants nothing on either side;
    OVER, too, if the direction cannot be determined.
    """
    names = [column.name for column in mapping.columns]
    differing = {name for name, a, b in zip(names, primary_row, target_row, strict=False) if a != b}
    descriptive = {column.name for column in mapping.columns if column.descriptive}
    if differing <= descriptive:
        return Direction.NEITHER
    primary_active = _is_active(mapping, dict(zip(names, primary_row, strict=False)))
    target_active = _is_active(mapping, dict(zip(names, target_row, strict=False)))
    if primary_active != target_active:
        return Direction.OVER if target_active else Direction.UNDER
    if not primary_active:
        return Direction.NEITHER
    if mapping.expires is not None and differing - descriptive == {mapping.expires}:
        place = names.index(mapping.expires)
        later = _expiry(target_row[place]) > _expiry(primary_row[place])
        return Direction.OVER if later else Direction.UNDER
    for column, levels in _level_columns(registry, mapping):
        if differing - descriptive == {column}:
            place = names.index(column)
            higher = _rank(levels, target_row[place]) > _rank(levels, primary_row[place])
            return Direction.OVER if higher else Direction.UNDER
    return Direction.OVER


def _level_columns(registry: Registry, mapping: Mapping) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each column of the mapping that holds a level of a Membership or of Grants.

    With the column come the declaration's levels, from weakest to strongest. Columns of
    `Membership.also` are left out: a changed role there counts as an over-grant.
    """
    for access in registry.access:
        if isinstance(access, Membership) and access.mapping == mapping.name:
            if isinstance(access.role, str):
                yield access.role, access.levels
        elif isinstance(access, Grants) and access.mapping == mapping.name:
            yield access.level, access.levels


def _is_active(mapping: Mapping, row: dict[str, str | None]) -> bool:
    return all(row[name] in values for name, values in mapping.active.items())


def _expiry(text: str | None) -> datetime:
    """Return the time that a timestamptz, as PostgreSQL prints it in UTC, stands for.

    None means that the row never expires: then it is the last time that Python has. Times outside
    of Python's range become its first or its last one.
    """
    if text is None:
        return _LAST
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        before = text.startswith("-") or text.endswith("BC")
        return _FIRST if before else _LAST


def _rank(levels: Sequence[str], role: str | None) -> int:
    """Return the position of a role among the levels: 0 for the weakest.

    -1 for a role that is not among them: it grants nothing.
    """
    return levels.index(role) if role in levels else -1
