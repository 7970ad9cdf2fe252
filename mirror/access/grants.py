"""Grants: declares, in `Registry(access=[…])`, a mapping of rights to resources of several kinds.

`ddl` returns the SQL of the helper functions that decide by its rows.
"""

from dataclasses import dataclass

from mirror.access.caller import caller
from mirror.access.conditions import grant_conditions
from mirror.access.levels import DEFINER, levels_function
from mirror.access.questions import (
    AccessPath,
    AccessQuestion,
    Constant,
    FromRow,
    Given,
    Helper,
    Lookup,
)
from mirror.errors import MappingError
from mirror.model.registry import Registry
from mirror.schema.quoting import identifier, literal
from mirror.schema.skeletons import fill


@dataclass(frozen=True, kw_only=True)
class Grants:
    """Declares, in `Registry(access=[…])`, a mapping whose rows give users levels on resources.

    Each row says: this user has this level on this resource of this kind. For noun `resource`, the
    target's schema `mirror` gets `my_resources(kind, min_level)` for policies, which PostgreSQL
    evaluates once per statement, and `can(kind, id, min_level)` for single checks. They ignore rows
    that are not `active`, have expired, or have a level that is not among `levels`.
    """

    mapping: str
    """Name of the mapping that holds the grants."""
    user: str = "user_id"
    """Column with the user's id, as tokens carry it: uuid, or text of third-party auth."""
    kind: str = "resource_type"
    """Column with the kind of the resource; text."""
    resource: str = "resource_id"
    """Column with the resource's id."""
    level: str = "permission_level"
    """Column with the level; text."""
    kinds: tuple[str, ...]
    """All kinds of resources. A guard's `via` names the mapping and one kind, as in
    `user_permissions:workspace`."""
    levels: tuple[str, ...]
    """All levels, from weakest to strongest; each includes those before it."""
    noun: str = "resource"
    """The word for a resource in the functions' names."""
    check: str = "can"
    """The name of the function that checks one resource."""

    def user_columns(self) -> list[tuple[str, str]]:
        """Return the mapping and its column of users."""
        return [(self.mapping, self.user)]

    def of(self, kind: str) -> "GrantsOfKind":
        """Return the grants on resources of one kind.

        Raises:
            MappingError: the kind is not declared.
        """
        if kind not in self.kinds:
            raise MappingError(
                f"grants of mapping {self.mapping!r}: {kind!r} is not one of its kinds "
                f"({', '.join(self.kinds)}); name one, as in '{self.mapping}:{self.kinds[0]}'."
            )
        return GrantsOfKind(self, kind)

    def questions(self, _registry: Registry) -> tuple[AccessQuestion, ...]:
        """Return one AccessQuestion for each kind: which levels a user has on such a resource."""
        found = []
        for kind in self.kinds:
            by: dict[str, Given | FromRow | Constant] = {
                self.user: Given.USER,
                self.kind: Constant(kind),
                self.resource: Given.RESOURCE,
            }
            found.append(
                AccessQuestion(
                    noun=kind,
                    via=f"{self.mapping}:{kind}",
                    levels=self.levels,
                    paths=(AccessPath((Lookup(self.mapping, by),), column=self.level),),
                    helpers=tuple(
                        Helper(f"my_{self.noun}s", (kind, level), level) for level in self.levels
                    ),
                )
            )
        return tuple(found)

    def ddl(self, registry: Registry) -> list[str]:
        """Return the SQL blocks that create the helpers and grant them to authenticated.

        Raises:
            MappingError: the mapping or a column is missing, a column has another type, or `kinds`
                or `levels` is empty or repeats a name.
        """
        types = self._types(registry)
        mapping = registry[self.mapping]
        compared = (self.user, self.kind, self.resource, self.level)
        kind = f"g.{identifier(self.kind)}"
        active = [
            # The mapping may have rows of kinds that are not declared.
            f"{kind} in ({', '.join(map(literal, self.kinds))})",
            *grant_conditions(registry, mapping, "g", compared),
        ]
        fragments = {
            "noun": self.noun,
            "type": types[self.resource],
            "table": identifier(mapping.schema, mapping.table),
            "user": f"g.{identifier(self.user)}",
            "kind": kind,
            "resource": f"g.{identifier(self.resource)}",
            "level": f"g.{identifier(self.level)}",
            "and_active": "\n".join(f"and {condition}" for condition in active),
            "first_kind": literal(self.kinds[0]),
            "weakest": literal(self.levels[0]),
            "levels": identifier("mirror", f"{self.noun}_levels"),
            "my_resources": identifier("mirror", f"my_{self.noun}s"),
            "check": identifier("mirror", self.check),
            "caller": caller(registry).id,
            "definer": DEFINER,
        }
        blocks = ("my_granted", "has_grant", "grants_privileges")
        return [
            levels_function(fragments["levels"], "min_level", self.levels),
            *(fill(f"access/{block}", **fragments) for block in blocks),
        ]

    def _types(self, registry: Registry) -> dict[str, str]:
        """Check the declaration; return the type of each of the mapping's columns, by name.

        Raises:
            MappingError: as `ddl`.
        """
        owner = f"grants of mapping {self.mapping!r}"
        types = registry[self.mapping].types
        required = (
            (self.user, caller(registry).type),
            (self.kind, "text"),
            (self.resource, None),
            (self.level, "text"),
        )
        for name, expected in required:
            if name not in types:
                raise MappingError(f"{owner}: {name!r} is not among the mapping's columns; add it.")
            if expected not in {None, types[name]}:
                raise MappingError(
                    f"{owner}: {name!r} is {types[name]}; declare it as {expected}, and cast it in "
                    f"the query where it is not."
                )
        for label, names in (("kinds", self.kinds), ("levels", self.levels)):
            if not names or len(set(names)) != len(names):
                raise MappingError(f"{owner}: name each of its {label} once, and at least one.")
        return types


@dataclass(frozen=True)
class GrantsOfKind:
    """A declaration of Grants, limited to one kind of resource; guards use it like a Membership."""

    grants: Grants
    kind: str

    @property
    def mapping(self) -> str:
        """Name of the mapping that holds the grants."""
        return self.grants.mapping

    @property
    def resource(self) -> str:
        """Column with the resource's id."""
        return self.grants.resource

    @property
    def levels(self) -> tuple[str, ...]:
        """All levels, from weakest to strongest."""
        return self.grants.levels

    @property
    def noun(self) -> str:
        """The word for a resource: the kind, with spaces instead of underscores."""
        return self.kind.replace("_", " ")

    def my_resources(self, role: str) -> str:
        """Return the SQL call for the ids of the resources on which the caller has this level.

        A stronger level counts, too. The call has the same result for every row of a statement.
        """
        function = identifier("mirror", f"my_{self.grants.noun}s")
        return f"{function}({literal(self.kind)}, {literal(role)})"

    def includes(self, role: str, other: str) -> bool:
        """Return whether the level `role` is at least as strong as the level `other`."""
        return self.levels.index(role) >= self.levels.index(other)
