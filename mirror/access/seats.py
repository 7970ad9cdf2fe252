"""Seats: by which rows of the mirror somebody belongs to something."""

from collections.abc import Sequence
from dataclasses import dataclass

from mirror.access.counting import counting
from mirror.access.questions import AccessPath, Given, Lookup
from mirror.errors import MappingError
from mirror.model.registry import Registry
from mirror.schema.quoting import identifier, literal


@dataclass(frozen=True)
class Always:
    """The role that every row stands for, where no column holds one: an owner is the owner."""

    role: str


@dataclass(frozen=True, kw_only=True)
class Seat:
    """What a mapping's rows say: this user belongs to that resource, in this role.

    A row that is not `active`, or past what its mapping declares as `expires`, says nothing.
    """

    mapping: str
    """Name of the mapping."""
    resource: str
    """Column with the resource's id."""
    user: str
    """Column with the user's id, as auth.uid() returns it; NULL: nobody."""
    role: str | Always
    """Column with the role, or the role itself."""

    def check(self, registry: Registry, levels: tuple[str, ...]) -> None:
        """Refuse what could not work.

        Raises:
            MappingError: names the mapping and the remedy.
        """
        who = f"membership of mapping {self.mapping!r}"
        names = {column.name: column.type for column in registry[self.mapping].columns}
        for column in (self.resource, self.user, self.role):
            if isinstance(column, str) and column not in names:
                raise MappingError(f"{who}: {column!r} is not among the mapping's columns; add it.")
        if names[self.user] != "uuid":
            raise MappingError(
                f"{who}: {self.user!r} is {names[self.user]}, "
                f"but auth.uid() is a uuid; mirror the id that Supabase Auth gave the user."
            )
        if isinstance(self.role, Always) and self.role.role not in levels:
            raise MappingError(
                f"{who}: {self.role.role!r} is none of its levels ({', '.join(levels)}); check "
                f"the spelling."
            )

    def table(self, registry: Registry) -> str:
        """Return the mirrored table's name in SQL."""
        mapping = registry[self.mapping]
        return identifier(mapping.schema, mapping.table)

    def kind(self, registry: Registry) -> str:
        """Return the type of the resource's id."""
        columns = registry[self.mapping].columns
        return next(column.type for column in columns if column.name == self.resource)

    def way(self, registry: Registry) -> AccessPath:
        """Return what decides, for whoever follows a permission."""
        by = {self.user: Given.USER, self.resource: Given.RESOURCE}
        look = (Lookup(registry[self.mapping].name, by),)
        if isinstance(self.role, Always):
            return AccessPath(look, level=self.role.role)
        return AccessPath(look, column=self.role)

    def rows(
        self,
        registry: Registry,
        what: str,
        where: Sequence[str],
        reaches: Sequence[str] = (),
    ) -> str:
        """Return a query of the rows `m` that count; conditions stand where they are cheapest."""
        active = counting(registry[self.mapping], "m")
        conditions = "\n  and ".join([*where, *active, *reaches])
        select = f"select {what}\nfrom" if what else "select from"
        return f"{select} {self.table(registry)} as m\nwhere {conditions}"

    @property
    def has_role(self) -> str:
        """What the row's role is, in SQL, for a row `m`."""
        if isinstance(self.role, Always):
            return literal(self.role.role)
        return f"m.{identifier(self.role)}"
