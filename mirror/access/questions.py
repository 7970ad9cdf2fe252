"""Questions: which mirrored rows decide whether a user has access to a resource.

Each access declaration describes its decisions as `AccessQuestion` values: the mirrored rows that
must exist, the level that they grant, and the helper functions that decide by them in the target.
Commands that explain or compare permissions read these questions only, so they work with any
permission model.
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
    """A value that is given when a question is asked."""

    USER = "user"
    """The user's id, as auth.uid() returns it."""
    RESOURCE = "resource"
    """The id of the resource, or the name of the permission, that the user needs."""


@dataclass(frozen=True)
class FromRow:
    """The value of a column in a row that an earlier lookup of the same path found."""

    row: int
    """The lookup's position in the path, from 0."""
    column: str


@dataclass(frozen=True)
class Constant:
    """A fixed value."""

    value: str


@dataclass(frozen=True)
class Lookup:
    """A row that must exist: a row of a mapping in which these columns hold these values."""

    mapping: str
    by: MappingABC[str, Given | FromRow | Constant]


@dataclass(frozen=True)
class AccessPath:
    """One way to get access: all of these rows exist, are active, and have not expired."""

    rows: tuple[Lookup, ...]
    level: str | None = None
    """The level that it grants; None: the value of `column` in the last row."""
    column: str | None = None


@dataclass(frozen=True)
class Helper:
    """A function in the target's schema `mirror` that answers for the caller."""

    function: str
    arguments: tuple[str, ...]
    level: str
    """The level that the caller needs."""
    each: bool = False
    """True: it takes a resource before its other arguments, and returns a boolean. False: it
    returns an array of resources."""

    def call(self, resource: str) -> str:
        """Return the call as one writes it in a policy."""
        arguments = (resource, *self.arguments) if self.each else self.arguments
        return f"mirror.{identifier(self.function)}({', '.join(map(literal, arguments))})"


@dataclass(frozen=True)
class HeldLevels:
    """The levels that rows grant."""

    levels: frozenset[str] = frozenset()
    """Every level that they grant; empty: none."""
    reason: str | None = None
    """Why they grant none, in words, with the deciding values."""


@dataclass(frozen=True, kw_only=True)
class AccessQuestion:
    """Which levels does a user have on a resource of one kind? One path suffices for access."""

    noun: str
    """The name of the kind, one word; an option of `mirror explain`, as in `--trip`."""
    via: str
    """The name by which guards refer to the declaration, in their `via`."""
    levels: tuple[str, ...]
    """From weakest to strongest; each includes those before it."""
    paths: tuple[AccessPath, ...]
    helpers: tuple[Helper, ...]
    """The functions that policies call, one for each level, in that order."""

    def granted_by(self, level: str | None) -> HeldLevels:
        """Return the levels that `level` includes; none if it is not one of `levels`."""
        if level not in self.levels:
            known = ", ".join(self.levels)
            return HeldLevels(reason=f"its level is {level}, which is not one of {known}")
        return HeldLevels(frozenset(self.levels[: self.levels.index(level) + 1]))

    def grant(self, path: AccessPath, position: int, mapping: Mapping, row: Values) -> HeldLevels:
        """Return the levels that a path can still grant, given its row at a position.

        A row before the last one allows all levels, if it is active.
        """
        reason = inactive_reason(mapping, row)
        if reason is not None:
            return HeldLevels(reason=reason)
        if position < len(path.rows) - 1:
            return HeldLevels(frozenset(self.levels))
        return self.granted_by(path.level if path.column is None else row[path.column])

    def reads(self, mapping: Mapping) -> tuple[str, str] | None:
        """Return the column and the level by which clients may read a mirrored table.

        None if no client reads it, or if its policy is not exactly a call of one of the helpers.
        """
        if mapping.readable is None:
            return None
        using = "".join(mapping.readable.using.split())
        for helper in self.helpers:
            call = helper.call("")
            for column in mapping.columns:
                form = f"{identifier(column.name)} = any((select {call})::{column.type}[])"
                if using == "".join(form.split()):
                    return column.name, helper.level
        return None


@runtime_checkable
class AccessDeclaration(Protocol):
    """An access declaration that describes its decisions."""

    def questions(self, registry: Registry) -> Sequence[AccessQuestion]:
        """Return one question for each kind of resource."""
        ...


def access_questions(registry: Registry) -> dict[str, AccessQuestion]:
    """Return all questions of a registry's `access` declarations, by noun."""
    return {
        question.noun: question
        for access in registry.access
        if isinstance(access, AccessDeclaration)
        for question in access.questions(registry)
    }


def inactive_reason(mapping: Mapping, row: Values) -> str | None:
    """Return why a row grants nothing now, by `active` and `expires`; None: it may grant."""
    for name, values in sorted(mapping.active.items()):
        if row[name] not in values:
            return f"{name} is {row[name]}, and only {', '.join(sorted(values))} counts"
    if mapping.expires is not None and _is_past(row[mapping.expires]):
        return f"{mapping.expires} is past ({row[mapping.expires]})"
    return None


def _is_past(moment: str | None) -> bool:
    """Return whether a timestamptz is past, as text of PostgreSQL in UTC; None never is."""
    if moment is None or moment == "infinity":
        return False
    try:
        return datetime.fromisoformat(moment) <= datetime.now(UTC)
    except ValueError:
        # Python has no years before 1 or after 9999.
        return moment == "-infinity" or moment.endswith(" BC")
