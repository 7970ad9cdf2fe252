"""Model: what `mirror init` knows of a permission model before it writes the declarations."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from sqlalchemy import Column, Table

from mirror.cli.init.tables import type_of
from mirror.cli.init.words import snake

AnyColumn = Column[Any]


class Counts(Enum):
    """When a row counts, by one of its columns."""

    NULL = "is_(None)"
    """While the column is NULL: `deleted_at`."""
    NOT_TRUE = "is_not(True)"
    """Unless it is true: `is_banned`."""
    TRUE = "is_(True)"
    """While it is true: `is_active`."""


@dataclass(frozen=True)
class Condition:
    """A column on which it depends whether a row counts."""

    column: AnyColumn
    counts: Counts


@dataclass(frozen=True)
class Users:
    """The table of users."""

    table: Table
    id: AnyColumn
    """The column to which other tables point."""
    auth: AnyColumn
    """The column with the id that tokens carry; often `id` itself."""
    type: str
    """The type of the id in tokens: `uuid`, or `text` for third-party auth."""

    @property
    def translated(self) -> bool:
        """Whether other tables have another id of a user than tokens."""
        return self.auth is not self.id or type_of(self.auth) != self.type

    @property
    def cast(self) -> bool:
        """Whether tokens have uuids that the primary stores as text."""
        return type_of(self.auth) != self.type


@dataclass(frozen=True)
class Members:
    """The table that says which users belong to which resources."""

    table: Table
    key: tuple[AnyColumn, ...]
    resource: AnyColumn
    user: AnyColumn
    role: AnyColumn | None
    """None: all members have the one role."""
    status: AnyColumn | None
    active: tuple[str, ...]
    """The values of `status` that grant access; empty: there is no status."""
    expires: AnyColumn | None


@dataclass(frozen=True)
class GuardedTable:
    """A table of the target, and its columns with the resource's and the owner's id."""

    table: str
    on: str
    owner: str
    insert: tuple[str, ...] = ()
    """The columns that a user gives; empty: not known."""
    update: tuple[str, ...] = ()
    """The columns that an owner may change; empty: not known."""


@dataclass(frozen=True)
class Model:
    """One kind of resource, its users, and the rule by which they belong to it."""

    noun: str
    """The word for one resource: `trip`."""
    levels: tuple[str, ...]
    """Roles from weakest to strongest."""
    resource: Table
    resource_id: AnyColumn
    users: Users | None
    """None: the primary has only the ids of users."""
    user_type: str
    """The type of users' ids in tokens, uuid or text."""
    members: Members | None
    """None: columns of the resource name all its users."""
    owners: tuple[tuple[AnyColumn, str], ...] = ()
    """Columns of the resource with a user's id, and the role that each gives."""
    conditions: Mapping[str, tuple[Condition, ...]] = field(default_factory=dict)
    """By the name of a table: the conditions under which its rows count."""
    guard: GuardedTable | None = None
    others: tuple[str, ...] = ()
    """Further tables that seem to say which users belong to which resources."""

    @property
    def via(self) -> str:
        """The name of the mapping whose Membership decides."""
        first = self.members.table if self.members and not self.owners else self.resource
        return mapping_name(first)

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables that are mirrored, parents first."""
        users = [self.users.table] if self.users else []
        members = [self.members.table] if self.members else []
        return (*users, self.resource, *members)


def mapping_name(table: Table) -> str:
    """Return the name of the mapping of a table."""
    return snake(table.name)[:40]


def key_of(table: Table) -> AnyColumn | None:
    """Return the primary key of a table; None: it has not exactly one column."""
    columns = list(table.primary_key)
    return columns[0] if len(columns) == 1 else None
