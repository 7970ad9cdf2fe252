"""Grants: what one mirrored row gives to whom, as an access declaration reads it.

What follows a permission, or compares permissions, asks declarations only through `Deciding`, so
that another permission model is another declaration.
"""

from collections.abc import Mapping as MappingABC
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

from mirror.mapping import Mapping

Values = MappingABC[str, str | None]
"""A row's values as texts, by column."""


@dataclass(frozen=True)
class Grant:
    """What a row grants."""

    levels: frozenset[str] = frozenset()
    """Every level that it reaches; empty: it grants nothing."""
    reason: str | None = None
    """Why it grants nothing, in words with the values that decide."""


@dataclass(frozen=True)
class Helper:
    """A function in the target's schema `mirror` that answers for the caller."""

    function: str
    arguments: tuple[str, ...]
    level: str
    """What the caller needs to be let through."""
    each: bool = False
    """It takes a resource, before its arguments, and returns whether; otherwise it returns the
    resources, as an array."""


@runtime_checkable
class Deciding(Protocol):
    """An access declaration by which one row of a mapping lets a user do with a resource."""

    @property
    def mapping(self) -> str:
        """Name of the mapping whose rows decide."""
        ...

    @property
    def noun(self) -> str:
        """What the resource is called."""
        ...

    @property
    def seat(self) -> tuple[str, str]:
        """The columns that hold the user and the resource; together they tell rows apart."""
        ...

    @property
    def helpers(self) -> tuple[Helper, ...]:
        """The functions that policies ask, one for each level, from the weakest on."""
        ...

    def reads(self, mapping: Mapping) -> tuple[str, str] | None:
        """Return by which column, and for which level, a mirrored table can be read.

        None: nobody reads it, or what decides about that is not this, or more than this.
        """
        ...

    def grant(self, mapping: Mapping, row: Values) -> Grant:
        """Return what a row of that mapping, with all of its columns, grants now."""
        ...


def dormant(mapping: Mapping, row: Values) -> str | None:
    """Return why a row is not in force now, by `active` and `expires`; None: it is."""
    for name, values in sorted(mapping.active.items()):
        if row[name] not in values:
            return f"{name} is {row[name]}, and only {', '.join(sorted(values))} counts"
    if mapping.expires is not None and _lapsed(row[mapping.expires]):
        return f"{mapping.expires} is past ({row[mapping.expires]})"
    return None


def _lapsed(moment: str | None) -> bool:
    """Return whether a timestamptz, as PostgreSQL prints it in UTC, is past; None never is."""
    if moment is None or moment == "infinity":
        return False
    try:
        return datetime.fromisoformat(moment) <= datetime.now(UTC)
    except ValueError:
        # Years that Python has not: before 1, or after 9999.
        return moment == "-infinity" or moment.endswith(" BC")
