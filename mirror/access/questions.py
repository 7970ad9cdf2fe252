"""Grants: which mirrored rows let a user do with a resource, as access declarations tell it.

What follows a permission, or compares permissions, asks declarations for their questions and knows
nothing else of them: another permission model is other questions.
"""

from collections.abc import Mapping as MappingABC
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Protocol, runtime_checkable

from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.schema.quoting import identifier, literal

Values = MappingABC[str, str | None]
"""A row's values as texts, by column."""


class Given(Enum):
    """What a question is about."""

    USER = "user"
    """The user's id, as auth.uid() returns it."""
    RESOURCE = "resource"
    """What the user asks for."""


@dataclass(frozen=True)
class FromRow:
    """The value of a column in a row that was found before."""

    row: int
    """Its place among the way's rows."""
    column: str


@dataclass(frozen=True)
class Constant:
    """A fixed value."""

    value: str


@dataclass(frozen=True)
class Lookup:
    """A row that has to be there: one of a mapping in which these columns hold these values."""

    mapping: str
    by: MappingABC[str, Given | FromRow | Constant]


@dataclass(frozen=True)
class AccessPath:
    """One way to be granted something: all of these rows are there, and in force."""

    rows: tuple[Lookup, ...]
    level: str | None = None
    """What it grants; None: what `column` of the last row says."""
    column: str | None = None


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

    def call(self, resource: str) -> str:
        """Return the call, as people write it."""
        arguments = (resource, *self.arguments) if self.each else self.arguments
        return f"mirror.{identifier(self.function)}({', '.join(map(literal, arguments))})"


@dataclass(frozen=True)
class Grant:
    """What rows grant."""

    levels: frozenset[str] = frozenset()
    """Every level that they reach; empty: they grant nothing."""
    reason: str | None = None
    """Why they grant nothing, in words with the values that decide."""


@dataclass(frozen=True, kw_only=True)
class AccessQuestion:
    """What may a user do with a resource of one kind? Any of the ways will do."""

    noun: str
    """What the resource is called; one word, as `mirror explain --trip`."""
    via: str
    """What guards call that which decides."""
    levels: tuple[str, ...]
    """From weakest to strongest; each includes those before it."""
    ways: tuple[AccessPath, ...]
    helpers: tuple[Helper, ...]
    """The functions that policies ask, one for each level, in that order."""

    def reaching(self, level: str | None) -> Grant:
        """Return what a level includes; one that is none includes nothing."""
        if level not in self.levels:
            known = ", ".join(self.levels)
            return Grant(reason=f"its level is {level}, which is none of {known}")
        return Grant(frozenset(self.levels[: self.levels.index(level) + 1]))

    def grant(self, way: AccessPath, place: int, mapping: Mapping, row: Values) -> Grant:
        """Return what the row at a place of a way leaves of what can be granted at all."""
        reason = inactive_reason(mapping, row)
        if reason is not None:
            return Grant(reason=reason)
        if place < len(way.rows) - 1:
            return Grant(frozenset(self.levels))
        return self.reaching(way.level if way.column is None else row[way.column])

    def reads(self, mapping: Mapping) -> tuple[str, str] | None:
        """Return by which column, and for which level, a mirrored table can be read.

        None: nobody reads it, or what its policy asks is not this, or more than this.
        """
        if mapping.readable is None:
            return None
        said = "".join(mapping.readable.using.split())
        for helper in self.helpers:
            mine = helper.call("")
            for column in mapping.columns:
                form = f"{identifier(column.name)} = any((select {mine})::{column.type}[])"
                if said == "".join(form.split()):
                    return column.name, helper.level
        return None


@runtime_checkable
class AccessDeclaration(Protocol):
    """An access declaration that can tell which rows decide."""

    def questions(self, registry: Registry) -> Sequence[AccessQuestion]:
        """Return what it decides."""
        ...


def access_questions(registry: Registry) -> dict[str, AccessQuestion]:
    """Return everything that a registry's `access` decides, by noun."""
    return {
        question.noun: question
        for access in registry.access
        if isinstance(access, AccessDeclaration)
        for question in access.questions(registry)
    }


def inactive_reason(mapping: Mapping, row: Values) -> str | None:
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
