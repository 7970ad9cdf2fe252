"""Permissions: declares, in `Registry(access=[…])`, mappings of roles and their named permissions.

`ddl` returns the SQL of the helper functions that decide by their rows.
"""

from dataclasses import dataclass

from mirror.access.caller import caller
from mirror.access.conditions import grant_conditions
from mirror.access.levels import DEFINER
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
from mirror.schema.skeletons import fill


@dataclass(frozen=True, kw_only=True)
class Permissions:
    """Declares, in `Registry(access=[…])`, mappings that give users roles, and roles permissions.

    The target's schema `mirror` gets `has_permission(name)` and `my_permissions()`. Their results
    are the same for every row, so in a `(select …)` each runs once per statement. They ignore rows
    that are not `active` or have expired.
    """

    holders: str
    """Name of the mapping of users and roles; one row per user, or several."""
    user: str = "user_id"
    """Its column with the user's id, as tokens carry it: uuid, or text of third-party auth."""
    role: str = "role_id"
    """The column with the role's id, in both `holders` and `grants`."""
    grants: str
    """Name of the mapping of roles and permissions; many to many."""
    permission: str = "permission_id"
    """Its column with the permission's id, or, without `permissions`, the permission's name."""
    permissions: str | None = None
    """Name of the mapping of the permissions, whose key is the permission's id. None: there is no
    such mapping, and `permission` is the column with the name."""
    name: str = "name"
    """In the mapping `permissions`, the column with the name, for example `users.update`."""
    noun: str = "permission"
    """The word for a permission in the functions' names."""

    def has(self, name: str) -> str:
        """Return the SQL expression for: the caller has the permission called `name`.

        It has the same result for every row, so PostgreSQL evaluates it once per statement.
        """
        return f"(select {identifier('mirror', f'has_{self.noun}')}({literal(name)}))"

    def questions(self, registry: Registry) -> tuple[AccessQuestion, ...]:
        """Return one AccessQuestion: whether a user has a permission.

        The permission's name takes the place of a resource's id.
        """
        holder = Lookup(self.holders, {self.user: Given.USER})
        by: dict[str, Given | FromRow | Constant]
        if self.permissions is None:
            by = {self.role: FromRow(0, self.role), self.permission: Given.RESOURCE}
            rows: tuple[Lookup, ...] = (holder, Lookup(self.grants, by))
        else:
            # The permission comes first, because a role has many and the question is about one.
            (key,) = registry[self.permissions].key
            permission = Lookup(self.permissions, {self.name: Given.RESOURCE})
            by = {self.role: FromRow(1, self.role), self.permission: FromRow(0, key)}
            rows = (permission, holder, Lookup(self.grants, by))
        return (
            AccessQuestion(
                noun=self.noun,
                via=self.grants,
                levels=("has",),
                paths=(AccessPath(rows, level="has"),),
                helpers=(Helper(f"has_{self.noun}", (), "has", each=True),),
            ),
        )

    def user_columns(self) -> list[tuple[str, str]]:
        """Return the mapping of the holders and its column of users."""
        return [(self.holders, self.user)]

    def ddl(self, registry: Registry) -> list[str]:
        """Return the SQL blocks that create the helpers and grant them to authenticated.

        Raises:
            MappingError: a mapping or column is missing, a user's id is neither uuid nor text, a
                permission's name is not text, two columns that are compared differ in type, or the
                key of `permissions` is several columns.
        """
        self._check(registry)
        fragments = {
            "noun": self.noun,
            "my_permissions": identifier("mirror", f"my_{self.noun}s"),
            "has_permission": identifier("mirror", f"has_{self.noun}"),
            "definer": DEFINER,
            "name": self._name_in_rows(),
            "rows": self._rows(registry),
        }
        blocks = ("my_permissions", "has_permission", "permissions_privileges")
        return [fill(f"access/{block}", **fragments) for block in blocks]

    def _name_in_rows(self) -> str:
        """Return the column with a permission's name, in the rows of `_rows`."""
        if self.permissions is None:
            return f"g.{identifier(self.permission)}"
        return f"p.{identifier(self.name)}"

    def _rows(self, registry: Registry) -> str:
        """Return the FROM and WHERE of a query with one row for each permission of the caller.

        The aliases are `h` for the rows of `holders`, `g` of `grants` and `p` of `permissions`.
        """
        tables = {"h": registry[self.holders], "g": registry[self.grants]}
        compared: dict[str, tuple[str, ...]] = {
            "h": (self.user, self.role),
            "g": (self.role, self.permission),
        }
        joins = {"g": f"g.{identifier(self.role)} = h.{identifier(self.role)}"}
        if self.permissions is not None:
            tables["p"] = registry[self.permissions]
            compared["p"] = (self.name,)
            key = identifier(tables["p"].key[0])
            joins["p"] = f"p.{key} = g.{identifier(self.permission)}"
        name = {row: identifier(one.schema, one.table) for row, one in tables.items()}
        conditions = [f"h.{identifier(self.user)} = {caller(registry).id}"]
        for row, mapping in tables.items():
            conditions += grant_conditions(registry, mapping, row, compared[row])
        lines = [
            f"from {name['h']} as h",
            *(f"join {name[row]} as {row} on {condition}" for row, condition in joins.items()),
            "where " + "\n  and ".join(conditions),
        ]
        return "\n".join(lines)

    def _check(self, registry: Registry) -> None:
        """Refuse a declaration that cannot work.

        Raises:
            MappingError: as `ddl`.
        """
        holders, grants = registry[self.holders], registry[self.grants]
        self._type(holders, self.user)
        caller(registry)
        self._check_same_type(holders, self.role, grants, self.role)
        if self.permissions is None:
            self._check_text(grants, self.permission)
            return
        permissions = registry[self.permissions]
        if len(permissions.key) != 1:
            raise MappingError(
                f"permissions: the key of mapping {permissions.name!r} is several columns; it must "
                f"be the one column by which a role is granted a permission."
            )
        self._check_same_type(grants, self.permission, permissions, permissions.key[0])
        self._check_text(permissions, self.name)

    @staticmethod
    def _type(mapping: Mapping, column: str) -> str:
        """Return the column's type, or raise MappingError if the mapping has no such column."""
        if column not in mapping.types:
            raise MappingError(
                f"permissions: {column!r} is not among the columns of mapping {mapping.name!r}; "
                f"add it."
            )
        return mapping.types[column]

    def _check_text(self, mapping: Mapping, column: str) -> None:
        if self._type(mapping, column) != "text":
            raise MappingError(
                f"permissions: {column!r} of mapping {mapping.name!r} names a permission; declare "
                f"it as text."
            )

    def _check_same_type(
        self, mapping: Mapping, column: str, other: Mapping, its_column: str
    ) -> None:
        type_, its_type = self._type(mapping, column), self._type(other, its_column)
        if type_ != its_type:
            raise MappingError(
                f"permissions: {column!r} of mapping {mapping.name!r} is {type_} and "
                f"{its_column!r} of {other.name!r} is {its_type}; give both the same type."
            )
