"""Membership: helper functions over a mapping that says who belongs to what, in which role."""

from dataclasses import dataclass

from mirror.errors import MappingError
from mirror.grants import Given, Helper, Look, Question, Way
from mirror.registry import Registry
from mirror.sql import identifier, literal


@dataclass(frozen=True, kw_only=True)
class Membership:
    """Helpers for a mapping of (resource, user, role), in the target's schema `mirror`.

    For noun `trip`: `my_trips(min_role)` and `my_trip_companions()` for policies, evaluated once
    per statement; `is_trip_member(id)` and `has_trip_role(id, role)` for single checks. Rows
    that are not `active` count for nothing, and neither does a role that is not among `levels`.
    """

    mapping: str
    """Name of the mapping that holds the memberships."""
    resource: str
    """Column with the resource's id."""
    user: str
    """Column with the user's id, as auth.uid() returns it."""
    role: str
    """Column with the role."""
    levels: tuple[str, ...]
    """Roles from weakest to strongest; each includes those before it."""
    noun: str
    """What the functions' names call the resource."""

    def questions(self, registry: Registry) -> tuple[Question, ...]:
        """Return what the helpers decide: who has which role where."""
        by = {self.user: Given.USER, self.resource: Given.RESOURCE}
        return (
            Question(
                noun=self.noun,
                via=self.mapping,
                levels=self.levels,
                ways=(Way((Look(registry[self.mapping].name, by),), column=self.role),),
                helpers=tuple(Helper(f"my_{self.noun}s", (role,), role) for role in self.levels),
            ),
        )

    def mine(self, role: str) -> str:
        """Return the call that yields the caller's resources; it reads no row of the policy's."""
        return f"{identifier('mirror', f'my_{self.noun}s')}({literal(role)})"

    def reaches(self, role: str, least: str) -> bool:
        """Return whether `role` includes `least`."""
        return self.levels.index(role) >= self.levels.index(least)

    def ddl(self, registry: Registry) -> list[str]:
        """Return the SQL blocks that create the helpers and grant them to authenticated."""
        mapping = registry[self.mapping]
        names = {column.name: column.type for column in mapping.columns}
        for column in (self.resource, self.user, self.role):
            if column not in names:
                raise MappingError(
                    f"membership of mapping {self.mapping!r}: {column!r} is not among the "
                    f"mapping's columns; add it."
                )
        if names[self.user] != "uuid":
            raise MappingError(
                f"membership of mapping {self.mapping!r}: {self.user!r} is {names[self.user]}, "
                f"but auth.uid() is a uuid; mirror the id that Supabase Auth gave the user."
            )
        if not self.levels:
            raise MappingError(
                f"membership of mapping {self.mapping!r}: it has no levels; name the roles from "
                f"weakest to strongest."
            )
        kind = names[self.resource]
        table = identifier(mapping.schema, mapping.table)
        resource, user, role = (
            "m." + identifier(name) for name in (self.resource, self.user, self.role)
        )
        active = "".join(
            f"\n    and m.{identifier(name)} in ({', '.join(map(literal, sorted(values)))})"
            for name, values in sorted(mapping.active.items())
        )
        # A mapping that the model dropped is mirrored no more: its last rows must not grant on.
        active += (
            f"\n    and exists (select from mirror.mappings as d where d.name = "
            f"{literal(self.mapping)})"
        )
        roles = identifier("mirror", f"{self.noun}_roles")
        mine = identifier("mirror", f"my_{self.noun}s")
        companions = identifier("mirror", f"my_{self.noun}_companions")
        member = identifier("mirror", f"is_{self.noun}_member")
        has_role = identifier("mirror", f"has_{self.noun}_role")
        cases = "\n".join(
            f"    when {literal(name)} then array[{', '.join(map(literal, self.levels[rank:]))}]"
            for rank, name in enumerate(self.levels)
        )
        # Not '': that would still look for types, uuid say, in the caller's pg_temp first, and run
        # a domain's CHECK with the definer's rights. Named last, pg_temp is searched last.
        path = "set search_path = pg_catalog, pg_temp"
        definer = f"language sql stable security definer {path}"
        weakest = literal(self.levels[0])
        return [
            f"""\
-- The roles that include this one; null, which is nobody's, for any other name. Asked for in a
-- subquery: once, not for each membership.
create or replace function {roles}(min_role text) returns text[]
language sql immutable {path}
as $$
  select case $1
{cases}
  end
$$;""",
            f"""\
-- The {self.noun}s in which the caller is active with at least this role. For policies, as
-- `{self.resource} = any((select {mine}('{self.levels[0]}'))::{kind}[])`: once per statement.
create or replace function {mine}(min_role text) returns {kind}[]
{definer}
as $$
  select coalesce(array_agg({resource}), '{{}}')
  from {table} as m
  where {user} = (select auth.uid()){active}
    and {role} = any((select {roles}($1))::text[])
$$;""",
            f"""\
-- Everybody who shares a {self.noun} with the caller, the caller included.
create or replace function {companions}() returns {names[self.user]}[]
{definer}
as $$
  select array_append(array_agg(distinct {user}), (select auth.uid()))
  from {table} as m
  where {resource} = any((select {mine}({weakest}))::{kind}[]){active}
$$;""",
            f"""\
-- By number: a column of the table that is called like a parameter would win over it.
create or replace function {has_role}(resource {kind}, min_role text) returns boolean
{definer}
as $$
  select exists (
    select from {table} as m
    where {resource} = $1
      and {user} = (select auth.uid()){active.replace(chr(10), chr(10) + "  ")}
      and {role} = any((select {roles}($2))::text[])
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
        ]
