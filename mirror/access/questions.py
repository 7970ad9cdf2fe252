"""Questions: which mirrored rows decide whether a user has access to a resource.

Each access declaration describes its decisions as `AccessQuestion` values: the mirrored rows that
must exist, the level that they grant, and the helper functions that decide by them in the target.
Commands that explain or compare permissions read these questions only, so they work with any
permission model.
"""

from collections.abc import Collection, Sequence
from collections.abc import Mapping as MappingABC
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
    """A value that the caller gives together with an access question."""

    USER = "user"
    """The user's id, as tokens carry it: uuid, or text of third-party auth."""
    RESOURCE = "resource"
    """The id of the resource, or the name of the permission, that the user needs."""


@dataclass(frozen=True)
class FromRow:
    """The value of a column in a row that an earlier lookup of the same access path found."""

    row: int
    """The earlier lookup's position in the access path, from 0."""
    column: str
    """The column whose value is meant."""


@dataclass(frozen=True)
class Constant:
    """A fixed value, for example a kind of resource."""

    value: str


@dataclass(frozen=True)
class Lookup:
    """A row that must exist: a row of a mapping in which these columns hold these values."""

    mapping: str
    """The mapping's name."""
    by: MappingABC[str, Given | FromRow | Constant]
    """The columns, each with the value that the row must have in it."""


@dataclass(frozen=True)
class AccessPath:
    """One way to get access: a row exists for each lookup, is active, and has not expired."""

    rows: tuple[Lookup, ...]
    level: str | None = None
    """The level that the path grants. None: the level is the value of `column` in the last row."""
    column: str | None = None
    """The column with the level; None if `level` is given."""

    def compared(self, position: int) -> set[str]:
        """Return the columns of the row at `position` without whose values it grants nothing."""
        later = (source for lookup in self.rows for source in lookup.by.values())
        found = {one.column for one in later if isinstance(one, FromRow) and one.row == position}
        last = position == len(self.rows) - 1
        level = [self.column] if last and self.column is not None else []
        return {*self.rows[position].by, *found, *level}


@dataclass(frozen=True)
class Helper:
    """A function in the target's schema `mirror` that policies call, with fixed arguments.

    It answers for the signed-in user on which resources the user has at least `level`.
    """

    function: str
    """The function's name, without the schema."""
    arguments: tuple[str, ...]
    level: str
    """The level that the user needs."""
    each: bool = False
    """True: the function takes a resource before the other arguments, and returns a boolean. False:
    it returns an array of resources."""

    def call(self, resource: str) -> str:
        """Return the call in SQL, as policies contain it; `resource` is used only with `each`."""
        arguments = (resource, *self.arguments) if self.each else self.arguments
        return f"mirror.{identifier(self.function)}({', '.join(map(literal, arguments))})"


@dataclass(frozen=True)
class HeldLevels:
    """The levels that a user holds because of some mirrored rows, or the reason why it is none."""

    levels: frozenset[str] = frozenset()
    """Every level that the rows grant, weaker ones included; empty: none."""
    strongest: str | None = None
    """The strongest of `levels`; None: there is none, or the rows do not decide it."""
    reason: str | None = None
    """If `levels` is empty: why, in words, with the deciding values. Otherwise None."""


@dataclass(frozen=True, kw_only=True)
class AccessQuestion:
    """The question which levels a user has on a resource of one kind, and the rows that decide it.

    One path is enough for access.
    """

    noun: str
    """The name of the kind, one word; an option of `mirror explain`, as in `--trip`."""
    via: str
    """The name by which guards refer to the access declaration, in their `via`."""
    levels: tuple[str, ...]
    """All levels, from weakest to strongest; each includes those before it."""
    paths: tuple[AccessPath, ...]
    helpers: tuple[Helper, ...]
    """The functions that policies call, one for each level, in that order."""

    def granted_by(self, level: str | None) -> HeldLevels:
        """Return `level` with all weaker levels; no level, and a reason, if `level` is unknown."""
        if level not in self.levels:
            known = ", ".join(self.levels)
            return HeldLevels(reason=f"its level is {level}, which is not one of {known}")
        return HeldLevels(frozenset(self.levels[: self.levels.index(level) + 1]), level)

    def grant(self, path: AccessPath, position: int, mapping: Mapping, row: Values) -> HeldLevels:
        """Return the levels that an access path can grant if its lookup at `position` found `row`.

        A row that is not active, or has expired, grants no level. Of the others, only the last
        row of the path decides the level; an earlier one leaves all levels possible.
        """
        reason = inactive_reason(mapping, row)
        if reason is not None:
            return HeldLevels(reason=reason)
        if position < len(path.rows) - 1:
            return HeldLevels(frozenset(self.levels))
        return self.granted_by(path.level if path.column is None else row[path.column])

    def reads(self, mapping: Mapping) -> tuple[str, str] | None:
        """Return the rule by which clients may read a mirrored table, as a column and a level.

        A client may read the rows in which that column has a resource on which the user has that
        level. None if no client may read the table, or if its policy is not exactly a call of one
        of the helpers.
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
    """An access declaration (Membership, Grants, Permissions) that describes its decisions."""

    def questions(self, registry: Registry) -> Sequence[AccessQuestion]:
        """Return one AccessQuestion for each kind of resource."""
        ...


def access_questions(registry: Registry) -> dict[str, AccessQuestion]:
    """Return all questions of a registry's `access` declarations, by noun."""
    return {
        question.noun: question
        for access in registry.access
        if isinstance(access, AccessDeclaration)
        for question in access.questions(registry)
    }


def decides_by_key(mapping: Mapping, compared: Collection[str]) -> bool:
    """Return whether a row of which only the key is left would grant what the whole row does.

    `mirror.withdraw` may leave such a row, also one of an earlier version of the mapping, with
    other columns. `compared` are the columns without whose values a row grants nothing.
    """
    return set(mapping.key).issuperset({*mapping.active, *compared})


def inactive_reason(mapping: Mapping, row: Values) -> str | None:
    """Return in words why a row is not active or has expired; None: neither is the case."""
    for name, values in sorted(mapping.active.items()):
        if row[name] not in values:
            return f"{name} is {row[name]}, and only {', '.join(sorted(values))} counts"
    if mapping.expires is not None and _is_past(row[mapping.expires]):
        return f"{mapping.expires} is past ({row[mapping.expires]})"
    return None


def _is_past(moment: str | None) -> bool:
    """Return whether a time is past; None, which means NULL, never is.

    `moment` is the text that PostgreSQL prints for a timestamptz in UTC.
    """
    if moment is None or moment == "infinity":
        return False
    try:
        return datetime.fromisoformat(moment) <= datetime.now(UTC)
    except ValueError:
        # Python has no years before 1 or after 9999.
        return moment == "-infinity" or moment.endswith(" BC")
