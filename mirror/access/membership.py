"""Membership: declares, in `Registry(access=[…])`, mappings of users' roles in resources.

`ddl` returns the SQL of the helper functions that decide by their rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from textwrap import indent

from mirror.access.caller import caller
from mirror.access.levels import DEFINER, levels_function
from mirror.access.questions import AccessQuestion, Helper
from mirror.access.seats import Always, Seat
from mirror.errors import MappingError
from mirror.model.registry import Registry
from mirror.schema.quoting import identifier, literal
from mirror.schema.skeletons import fill

_UNION_ALL = "\nunion all\n"


@dataclass(frozen=True, kw_only=True)
class Membership:
    """Declares, in `Registry(access=[…])`, mappings whose rows give users roles in resources.

    For noun `trip`, the target's schema `mirror` gets `my_trips(min_role)` and
    `my_trip_companions()` for policies, which PostgreSQL evaluates once per statement;
    `is_trip_member(id)` and `has_trip_role(id, role)` for single checks. They ignore rows that are
    not `active`, have expired, or have a role that is not among `levels`.
    """

    mapping: str
    """Name of the mapping that holds the memberships, or the resources with a column for a user."""
    resource: str
    """Column with the resource's id."""
    user: str
    """Column with the user's id, as tokens carry it: uuid, or text of third-party auth."""
    role: str | Always
    """Column with the role; or `Always(role)`, if every row gives the same role, as an owner's
    column does."""
    levels: tuple[str, ...]
    """Roles from weakest to strongest; each includes those before it."""
    noun: str
    """The word for the resource in the functions' names."""
    also: tuple[Seat, ...] = ()
    """Further columns and mappings that make users members: a second owner, a list of guests, ...
    A user with several roles has the strongest of them."""

    @property
    def seats(self) -> tuple[Seat, ...]:
        """All mappings that make users members: that of this class's fields, then those in `also`.

        A mapping with several such columns is there once for each.
        """
        first = Seat(mapping=self.mapping, resource=self.resource, user=self.user, role=self.role)
        return (first, *self.also)

    def questions(self, registry: Registry) -> tuple[AccessQuestion, ...]:
        """Return one AccessQuestion: which roles a user has in a resource."""
        return (
            AccessQuestion(
                noun=self.noun,
                via=self.mapping,
                levels=self.levels,
                paths=tuple(seat.path(registry) for seat in self.seats),
                helpers=tuple(Helper(f"my_{self.noun}s", (role,), role) for role in self.levels),
            ),
        )

    def user_columns(self) -> list[tuple[str, str]]:
        """Return the mapping and the column of each seat's user."""
        return [(seat.mapping, seat.user) for seat in self.seats]

    @property
    def belongs(self) -> str:
        """SQL name of the function that returns whether user $2 has any role in resource $1.

        It exists only if `also` is not empty.
        """
        return identifier("mirror", f"belongs_to_{self.noun}")

    def my_resources(self, role: str) -> str:
        """Return the SQL call for the ids of the resources in which the caller has this role.

        A stronger role counts, too. The call has the same result for every row of a statement.
        """
        return f"{identifier('mirror', f'my_{self.noun}s')}({literal(role)})"

    def includes(self, role: str, other: str) -> bool:
        """Return whether `role` is at least as strong as `other`."""
        return self.levels.index(role) >= self.levels.index(other)

    def check(self, registry: Registry) -> None:
        """Refuse a declaration that cannot work.

        Raises:
            MappingError: a mapping, a column or the list of levels is missing, a column has the
                wrong type, or an `Always` role is not among the levels; names the remedy.
        """
        for seat in self.seats:
            seat.check(registry, self.levels)
            if seat.kind(registry) != self.seats[0].kind(registry):
                raise MappingError(
                    f"membership of mapping {self.mapping!r}: {seat.resource!r} of "
                    f"{seat.mapping!r} is {seat.kind(registry)}, not "
                    f"{self.seats[0].kind(registry)}; it must be the same resource's id."
                )
        if not self.levels:
            raise MappingError(
                f"membership of mapping {self.mapping!r}: it has no levels; name the roles from "
                f"weakest to strongest."
            )

    def ddl(self, registry: Registry) -> list[str]:
        """Return the SQL blocks that create indexes and helpers, with privileges for authenticated.

        Raises:
            MappingError: as `check`.
        """
        self.check(registry)
        names = {
            "noun": self.noun,
            "resource": self.resource,
            "kind": self.seats[0].kind(registry),
            "weakest": self.levels[0],
            "roles": identifier("mirror", f"{self.noun}_roles"),
            "my_resources": identifier("mirror", f"my_{self.noun}s"),
            "companions": identifier("mirror", f"my_{self.noun}_companions"),
            "is_member": identifier("mirror", f"is_{self.noun}_member"),
            "has_role": identifier("mirror", f"has_{self.noun}_role"),
            "belongs": self.belongs,
            "person": caller(registry).type,
            "definer": DEFINER,
        }
        fragments = {
            "my_resources_query": self._my_resources(registry, names["roles"]),
            "companions_query": self._companions(registry, names["my_resources"], names["kind"]),
            "seat_with_role": self._seats_with_role(registry, names["roles"]),
            "seat_of_person": self._seats_of_person(registry),
            "weakest_role": literal(self.levels[0]),
        }
        blocks = ["my_resources", "companions", "has_role", "is_member", "membership_privileges"]
        # Only notices call it, to see whether another row still makes the user a member.
        blocks += ["belongs"] if self.also else []
        return [
            *self._indexes(registry),
            levels_function(names["roles"], "min_role", self.levels),
            *(fill(f"access/{block}", **names, **fragments) for block in blocks),
        ]

    def _indexes(self, registry: Registry) -> list[str]:
        """Return one block that indexes each column of users' ids with which no other index begins.

        The list is empty if there is no such column.
        """
        statements = []
        for seat in self.seats:
            mapping = registry[seat.mapping]
            indexed = {mapping.key[0], *(parent.column for parent in mapping.parents)}
            if seat.user not in indexed:
                table, column = literal(seat.table(registry)), literal(seat.user)
                statements.append(f"select mirror.add_index({table}, {column});")
        if not statements:
            return []
        return ["-- Memberships are looked up by user.\n" + "\n".join(statements)]

    def _my_resources(self, registry: Registry, roles: str) -> str:
        """Return the query for the ids of resources in which the caller has at least role $1.

        `roles` is the SQL name of the function that `levels_function` prints.
        """

        def query(seat: Seat) -> str:
            mine = f"m.{identifier(seat.user)} = {caller(registry).id}"
            has_role = f"{seat.role_of_row} = any((select {roles}($1))::text[])"
            return seat.rows(registry, f"m.{identifier(seat.resource)}", [mine], [has_role])

        return self._collect("coalesce(array_agg({0}), '{{}}')", "resource", query)

    def _companions(self, registry: Registry, my_resources: str, kind: str) -> str:
        """Return the query for the ids of all users in the caller's resources, and the caller's.

        `my_resources` is the SQL name of that function, `kind` the type of a resource's id.
        """
        shared = f"any((select {my_resources}({literal(self.levels[0])}))::{kind}[])"

        def query(seat: Seat) -> str:
            in_mine = f"m.{identifier(seat.resource)} = {shared}"
            return seat.rows(
                registry, f"m.{identifier(seat.user)}", [in_mine], self._any_role(seat)
            )

        aggregate = f"array_append(array_agg(distinct {{0}}), {caller(registry).id})"
        return self._collect(aggregate, "user", query)

    def _seats_with_role(self, registry: Registry, roles: str) -> str:
        """Return a query for the rows that give the caller at least role $2 in resource $1."""
        return _UNION_ALL.join(
            seat.rows(
                registry,
                "",
                [
                    f"m.{identifier(seat.resource)} = $1",
                    f"m.{identifier(seat.user)} = {caller(registry).id}",
                ],
                [f"{seat.role_of_row} = any((select {roles}($2))::text[])"],
            )
            for seat in self.seats
        )

    def _seats_of_person(self, registry: Registry) -> str:
        """Return a query for the rows that give user $2 any role in resource $1."""
        return _UNION_ALL.join(
            seat.rows(
                registry,
                "",
                [f"m.{identifier(seat.resource)} = $1", f"m.{identifier(seat.user)} = $2"],
                self._any_role(seat),
            )
            for seat in self.seats
        )

    def _any_role(self, seat: Seat) -> list[str]:
        """Return the condition that a row gives a declared role; none if it always does."""
        levels = ", ".join(map(literal, self.levels))
        return [] if isinstance(seat.role, Always) else [f"{seat.role_of_row} in ({levels})"]

    def _collect(self, aggregate: str, column: str, query: Callable[[Seat], str]) -> str:
        """Return one query that aggregates ids of resources or users from all mappings of `seats`.

        `query(seat)` returns the query for the ids in the mapping of one Seat. `aggregate` is the
        SQL expression, with {0} for the id. `column` is `resource` or `user`: the field of Seat
        that names the id's column.
        """
        if not self.also:
            only = self.seats[0]
            name = f"m.{identifier(only.resource if column == 'resource' else only.user)}"
            from_and_where = query(only).partition("\n")[2]
            return f"select {aggregate.format(name)}\n{from_and_where}"
        union = indent(_UNION_ALL.join(query(seat) for seat in self.seats), "  ")
        return f"select {aggregate.format('s.id')}\nfrom (\n{union}\n) as s (id)"
