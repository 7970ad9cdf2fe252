"""Seats: declares which rows of a mapping make users members of resources."""

from collections.abc import Sequence
from dataclasses import dataclass

from mirror.access.caller import caller
from mirror.access.conditions import grant_conditions
from mirror.access.questions import AccessPath, Given, Lookup
from mirror.errors import MappingError
from mirror.model.registry import Registry
from mirror.schema.quoting import identifier, literal


@dataclass(frozen=True)
class Always:
    """A role that is the same for every row, because no column holds one.

    For example, each user in a column `owner_id` has the role OWNER.
    """

    role: str
    """One of the membership's `levels`."""


@dataclass(frozen=True, kw_only=True)
class Seat:
    """In a Membership: a mapping, each of whose rows gives one user a role in one resource.

    Rows that are not `active`, or have expired, give none.
    """

    mapping: str
    """Name of the mapping."""
    resource: str
    """Column with the resource's id."""
    user: str
    """Column with the user's id as tokens carry it, a uuid or a text of third-party auth. NULL
    means no user."""
    role: str | Always
    """Column with the role; or `Always(role)`, if every row gives the same role."""

    def check(self, registry: Registry, levels: tuple[str, ...]) -> None:
        """Refuse a declaration that cannot work.

        Raises:
            MappingError: the mapping or a column is missing, the user's column is neither uuid nor
                text, or an `Always` role is not among the levels; names the mapping and the remedy.
        """
        owner = f"membership of mapping {self.mapping!r}"
        types = registry[self.mapping].types
        for column in (self.resource, self.user, self.role):
            if isinstance(column, str) and column not in types:
                raise MappingError(
                    f"{owner}: {column!r} is not among the mapping's columns; add it."
                )
        caller(registry)
        if isinstance(self.role, Always) and self.role.role not in levels:
            raise MappingError(
                f"{owner}: {self.role.role!r} is not one of its levels ({', '.join(levels)}); "
                f"check the spelling."
            )

    def table(self, registry: Registry) -> str:
        """Return the mirrored table's name in SQL."""
        mapping = registry[self.mapping]
        return identifier(mapping.schema, mapping.table)

    def kind(self, registry: Registry) -> str:
        """Return the PostgreSQL type of the resource's id."""
        return registry[self.mapping].types[self.resource]

    def path(self, registry: Registry) -> AccessPath:
        """Return an AccessPath with one lookup: this mapping's row for the user and resource."""
        by = {self.user: Given.USER, self.resource: Given.RESOURCE}
        lookups = (Lookup(registry[self.mapping].name, by),)
        if isinstance(self.role, Always):
            return AccessPath(lookups, level=self.role.role)
        return AccessPath(lookups, column=self.role)

    def rows(
        self,
        registry: Registry,
        selected: str,
        where: Sequence[str],
        role_conditions: Sequence[str] = (),
    ) -> str:
        """Return a query for the mirrored rows, under the alias `m`, that give a role.

        `selected` is its list of expressions; it may be empty. Of the conditions, `where` come
        first and `role_conditions` last: this order is the cheapest to evaluate.
        """
        compared = [self.user, self.resource]
        if role_conditions and isinstance(self.role, str):
            compared.append(self.role)
        active = grant_conditions(registry, registry[self.mapping], "m", compared)
        conditions = "\n  and ".join([*where, *active, *role_conditions])
        select = f"select {selected}\nfrom" if selected else "select from"
        return f"{select} {self.table(registry)} as m\nwhere {conditions}"

    @property
    def role_of_row(self) -> str:
        """The SQL expression for the role that a row with the alias `m` gives."""
        if isinstance(self.role, Always):
            return literal(self.role.role)
        return f"m.{identifier(self.role)}"
