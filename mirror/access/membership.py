"""Membership: helper functions over mappings that say who belongs to what, in which role."""

from collections.abc import Callable
from dataclasses import dataclass
from textwrap import indent

from mirror.access.levels import levels_function
from mirror.access.questions import AccessQuestion, Helper
from mirror.access.seats import Always, Seat
from mirror.errors import MappingError
from mirror.model.registry import Registry
from mirror.schema.quoting import identifier, literal


@dataclass(frozen=True, kw_only=True)
class Membership:
    """Helpers for mappings of (resource, user, role), in the target's schema `mirror`.

    For noun `trip`: `my_trips(min_role)` and `my_trip_companions()` for policies, evaluated once
    per statement; `is_trip_member(id)` and `has_trip_role(id, role)` for single checks. Rows
    that are not `active`, or expired, count for nothing, and neither does a role that is not among
    `levels`.
    """

    mapping: str
    """Name of the mapping that holds the memberships, or the resources themselves."""
    resource: str
    """Column with the resource's id."""
    user: str
    """Column with the user's id, as auth.uid() returns it."""
    role: str | Always
    """Column with the role; or `Always`, where `user` is a column of the resource itself."""
    levels: tuple[str, ...]
    """Roles from weakest to strongest; each includes those before it."""
    noun: str
    """What the functions' names call the resource."""
    also: tuple[Seat, ...] = ()
    """Other columns and mappings by which one belongs to it, such as a second owner or a list of
    guests. Whoever belongs in several ways has the strongest of the roles."""

    @property
    def seats(self) -> tuple[Seat, ...]:
        """Everything by which one belongs."""
        first = Seat(mapping=self.mapping, resource=self.resource, user=self.user, role=self.role)
        return (first, *self.also)

    def questions(self, registry: Registry) -> tuple[AccessQuestion, ...]:
        """Return what the helpers decide: who has which role where, in each way."""
        return (
            AccessQuestion(
                noun=self.noun,
                via=self.mapping,
                levels=self.levels,
                ways=tuple(seat.way(registry) for seat in self.seats),
                helpers=tuple(Helper(f"my_{self.noun}s", (role,), role) for role in self.levels),
            ),
        )

    @property
    def belongs(self) -> str:
        """The function that says whether a user, its second argument, belongs in any way."""
        return identifier("mirror", f"belongs_to_{self.noun}")

    def mine(self, role: str) -> str:
        """Return the call that yields the caller's resources; it reads no row of the policy's."""
        return f"{identifier('mirror', f'my_{self.noun}s')}({literal(role)})"

    def reaches(self, role: str, least: str) -> bool:
        """Return whether `role` includes `least`."""
        return self.levels.index(role) >= self.levels.index(least)

    def check(self, registry: Registry) -> None:
        """Refuse what could not work.

        Raises:
            MappingError: names the mapping and the remedy.
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

    def _indexes(self, registry: Registry) -> list[str]:
        """Return the statements that index the users' columns, where nothing else does."""
        found = []
        for seat in self.seats:
            mapping = registry[seat.mapping]
            led = {mapping.key[0], *(parent.column for parent in mapping.parents)}
            if seat.user not in led:
                found.append(
                    f"select mirror.add_index({literal(seat.table(registry))}, "
                    f"{literal(seat.user)});"
                )
        return (
            ["-- Who belongs to what is looked up by user.\n" + "\n".join(found)] if found else []
        )

    def ddl(self, registry: Registry) -> list[str]:
        """Return the SQL blocks that create the helpers and grant them to authenticated."""
        self.check(registry)
        kind = self.seats[0].kind(registry)
        roles = identifier("mirror", f"{self.noun}_roles")
        mine = identifier("mirror", f"my_{self.noun}s")
        companions = identifier("mirror", f"my_{self.noun}_companions")
        member = identifier("mirror", f"is_{self.noun}_member")
        has_role = identifier("mirror", f"has_{self.noun}_role")
        # Not '': that would still look for types, uuid say, in the caller's pg_temp first, and run
        # a domain's CHECK with the definer's rights. Named last, pg_temp is searched last.
        path = "set search_path = pg_catalog, pg_temp"
        definer = f"language sql stable security definer {path}"
        weakest = literal(self.levels[0])

        def by_user(seat: Seat) -> str:
            mine = f"m.{identifier(seat.user)} = (select auth.uid())"
            reaches = f"{seat.has_role} = any((select {roles}($1))::text[])"
            return seat.rows(registry, f"m.{identifier(seat.resource)}", [mine], [reaches])

        def by_resource(seat: Seat) -> str:
            shared = f"m.{identifier(seat.resource)} = any((select {mine}({weakest}))::{kind}[])"
            return seat.rows(registry, f"m.{identifier(seat.user)}", [shared])

        def by_both(seat: Seat) -> str:
            where = [
                f"m.{identifier(seat.resource)} = $1",
                f"m.{identifier(seat.user)} = (select auth.uid())",
            ]
            reaches = f"{seat.has_role} = any((select {roles}($2))::text[])"
            return seat.rows(registry, "", where, [reaches])

        here = "\n    union all\n".join(indent(by_both(seat), "    ") for seat in self.seats)
        return [
            *self._indexes(registry),
            levels_function(roles, "min_role", self.levels),
            f"""\
-- The {self.noun}s in which the caller is active with at least this role. For policies, as
-- `{self.resource} = any((select {mine}('{self.levels[0]}'))::{kind}[])`: once per statement.
create or replace function {mine}(min_role text) returns {kind}[]
{definer}
as $$
{self._over("coalesce(array_agg({0}), '{{}}')", "resource", by_user)}
$$;""",
            f"""\
-- Everybody who shares a {self.noun} with the caller, the caller included.
create or replace function {companions}() returns uuid[]
{definer}
as $$
{self._over("array_append(array_agg(distinct {0}), (select auth.uid()))", "user", by_resource)}
$$;""",
            f"""\
-- By number: a column of the table that is called like a parameter would win over it.
create or replace function {has_role}(resource {kind}, min_role text) returns boolean
{definer}
as $$
  select exists (
{here}
  )
$$;""",
            f"""\
create or replace function {member}(resource {kind}) returns boolean
{definer}
as $$ select {has_role}($1, {weakest}) $$;""",
            f"""\
revoke all on function
  {roles}(text),
  {mine}(text),
  {companions}(),
  {has_role}({kind}, text),
  {member}({kind})
from public, anon, authenticated, service_role;

grant execute on function
  {mine}(text),
  {companions}(),
  {has_role}({kind}, text),
  {member}({kind})
to authenticated;""",
            *self._belonging(registry, f"{definer}", kind),
        ]

    def _belonging(self, registry: Registry, how: str, kind: str) -> list[str]:
        """Return the function that the mirror itself asks, where there is more than one way."""
        if not self.also:
            return []
        levels = ", ".join(map(literal, self.levels))
        ways = "\n    union all\n".join(
            indent(
                seat.rows(
                    registry,
                    "",
                    [f"m.{identifier(seat.resource)} = $1", f"m.{identifier(seat.user)} = $2"],
                    [] if isinstance(seat.role, Always) else [f"{seat.has_role} in ({levels})"],
                ),
                "    ",
            )
            for seat in self.seats
        )
        return [
            f"""\
-- Whether somebody belongs to a {self.noun} in any way; for telling what a row that goes means.
create or replace function {self.belongs}(resource {kind}, person uuid) returns boolean
{how}
as $$
  select exists (
{ways}
  )
$$;
revoke all on function {self.belongs}({kind}, uuid)
from public, anon, authenticated, service_role;"""
        ]

    def _over(self, collect: str, column: str, query: Callable[[Seat], str]) -> str:
        """Return a query that collects a column, which is {0}, of what each seat yields."""
        if not self.also:
            only = self.seats[0]
            name = f"m.{identifier(only.resource if column == 'resource' else only.user)}"
            bare = query(only).partition("\n")[2]
            return indent(f"select {collect.format(name)}\n{bare}", "  ")
        found = indent("\nunion all\n".join(query(seat) for seat in self.seats), "    ")
        return f"  select {collect.format('s.id')}\n  from (\n{found}\n  ) as s (id)"
