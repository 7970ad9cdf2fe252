"""Permissions: helper functions over mappings that say which role may do what, by name."""

from dataclasses import dataclass

from mirror.access.counting import counting
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
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.schema.quoting import identifier, literal

Linked = dict[str, Given | FromRow | Constant]


@dataclass(frozen=True, kw_only=True)
class Permissions:
    """Helpers for users who hold roles, and roles that are granted permissions, in schema `mirror`.

    `has_permission(name)` and `my_permissions()`; neither reads a row of the policy's, so that in
    a `(select …)` each runs once per statement. Rows that are not `active`, or that have expired,
    count for nothing.
    """

    holders: str
    """Name of the mapping that says who holds which role: one row per user, or several."""
    user: str = "user_id"
    """Its column with the user's id, as auth.uid() returns it."""
    role: str = "role_id"
    """The column with the role's id, in both `holders` and `grants`."""
    grants: str
    """Name of the mapping of roles and permissions, many to many."""
    permission: str = "permission_id"
    """Its column with the permission's id, or, without `permissions`, the permission's name."""
    permissions: str | None = None
    """Name of the mapping that knows the permissions by that id, its key."""
    name: str = "name"
    """Its column with the name, such as `users.update`."""
    noun: str = "permission"
    """What the functions' names call a permission."""

    def has(self, name: str) -> str:
        """Return the expression that the caller has a permission; it reads no row of a policy's."""
        return f"(select {identifier('mirror', f'has_{self.noun}')}({literal(name)}))"

    def questions(self, registry: Registry) -> tuple[AccessQuestion, ...]:
        """Return what the helpers decide: who has which permission, asked for by its name."""
        holder = Lookup(self.holders, {self.user: Given.USER})
        if self.permissions is None:
            link: Linked = {self.role: FromRow(0, self.role), self.permission: Given.RESOURCE}
            rows: tuple[Lookup, ...] = (holder, Lookup(self.grants, link))
        else:
            # By its name first: a role has many permissions, and one is asked for.
            (key,) = registry[self.permissions].key
            named = Lookup(self.permissions, {self.name: Given.RESOURCE})
            link = {self.role: FromRow(1, self.role), self.permission: FromRow(0, key)}
            rows = (named, holder, Lookup(self.grants, link))
        return (
            AccessQuestion(
                noun=self.noun,
                via=self.grants,
                levels=("has",),
                ways=(AccessPath(rows, level="has"),),
                helpers=(Helper(f"has_{self.noun}", (), "has", each=True),),
            ),
        )

    def ddl(self, registry: Registry) -> list[str]:
        """Return the SQL blocks that create the helpers and grant them to authenticated.

        Raises:
            MappingError: a column that is missing, or of a type that fits no other.
        """
        holders, grants = registry[self.holders], registry[self.grants]
        if self._type(holders, self.user) != "uuid":
            raise MappingError(
                f"permissions of mapping {holders.name!r}: {self.user!r} is not uuid, as "
                f"auth.uid() is; mirror the id that Supabase Auth gave the user."
            )
        self._same(holders, self.role, grants, self.role)
        joined = [(grants, "g", f"g.{identifier(self.role)} = h.{identifier(self.role)}")]
        found = f"g.{identifier(self.permission)}"
        if self.permissions is None:
            self._text(grants, self.permission)
        else:
            named = registry[self.permissions]
            if len(named.key) != 1:
                raise MappingError(
                    f"permissions: the key of mapping {named.name!r} is several columns; a role is "
                    f"granted a permission by one."
                )
            self._same(grants, self.permission, named, named.key[0])
            self._text(named, self.name)
            joined.append((named, "p", f"p.{identifier(named.key[0])} = {found}"))
            found = f"p.{identifier(self.name)}"
        lines = [f"from {identifier(holders.schema, holders.table)} as h"]
        lines += [f"join {identifier(m.schema, m.table)} as {a} on {on}" for m, a, on in joined]
        conditions = [f"h.{identifier(self.user)} = (select auth.uid())"]
        for mapping, row in ((holders, "h"), *((mapping, row) for mapping, row, _ in joined)):
            conditions += counting(mapping, row)
        source = "\n  ".join([*lines, "where " + "\n    and ".join(conditions)])
        mine = identifier("mirror", f"my_{self.noun}s")
        has = identifier("mirror", f"has_{self.noun}")
        definer = (
            "language sql stable security definer set search_path = pg_catalog, pg_temp\nas $$"
        )
        return [
            f"""\
-- The names of the caller's {self.noun}s. For policies on rows that name one, as
-- `name = any((select {mine}())::text[])`: once per statement.
create or replace function {mine}() returns text[]
{definer}
  select coalesce(array_agg(distinct {found}), '{{}}')
  {source}
$$;""",
            f"""\
-- Whether the caller has this {self.noun}. For policies, in a `(select …)`: once per statement.
-- By number: a column that is called like a parameter would win over it.
create or replace function {has}(name text) returns boolean
{definer}
  select exists (
    select {source.replace(chr(10), chr(10) + "  ")}
      and {found} = $1
  )
$$;""",
            f"""\
revoke all on function
  {mine}(),
  {has}(text)
from public, anon, authenticated, service_role;

grant execute on function
  {mine}(),
  {has}(text)
to authenticated;""",
        ]

    @staticmethod
    def _type(mapping: Mapping, column: str) -> str:
        for one in mapping.columns:
            if one.name == column:
                return one.type
        raise MappingError(
            f"permissions: {column!r} is not among the columns of mapping {mapping.name!r}; add it."
        )

    def _text(self, mapping: Mapping, column: str) -> None:
        if self._type(mapping, column) != "text":
            raise MappingError(
                f"permissions: {column!r} of mapping {mapping.name!r} names a permission; declare "
                f"it as text."
            )

    def _same(self, one: Mapping, column: str, other: Mapping, its: str) -> None:
        kinds = self._type(one, column), self._type(other, its)
        if kinds[0] != kinds[1]:
            raise MappingError(
                f"permissions: {column!r} of mapping {one.name!r} is {kinds[0]} and {its!r} of "
                f"{other.name!r} is {kinds[1]}; give both the same type."
            )
