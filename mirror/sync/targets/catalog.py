"""Catalog: what a target says of the tables, policies and functions around the mirror.

The shape of what `mirror.examine()` answers. Names of tables and functions have their schema and
are quoted where SQL needs it; names of columns, roles and policies are bare.
"""

from typing import TypedDict


class Field(TypedDict):
    """A column."""

    type: str
    """As the server calls it, without a length."""
    enum: bool
    required: bool
    """NOT NULL."""
    filled: bool
    """It has a default, or fills itself."""


class ForeignKey(TypedDict):
    """A foreign key, seen from one of its ends."""

    name: str
    table: str
    """The table at its other end."""
    columns: list[str]
    """Of the table that has the key."""
    on_delete: str
    """As in pg_constraint: `a` nothing, `r` restrict, `c` cascade, `n` set null, `d` default."""
    indexed: bool
    """An index of the table that has the key begins with one of its columns."""


class Table(TypedDict):
    """A table that was asked for."""

    name: str
    rls: bool
    """Row-level security is enabled."""
    published: bool
    """Its changes go into the publication `supabase_realtime`."""
    columns: dict[str, Field]
    grants: dict[str, dict[str, list[str]]]
    """By role (`anon`, `authenticated`) and privilege: the columns that it reaches; `*` for
    privileges that are the whole table's."""
    indexes: list[str]
    """Columns with which a whole index begins."""
    triggers: list[str]
    """Those that are enabled."""
    references: list[ForeignKey]
    referenced_by: list[ForeignKey]


class Call(TypedDict):
    """A function of somebody else's that a policy calls."""

    name: str
    words: list[str]
    """Which names of the tables that were asked for, and of their columns, its text holds; in lower
    case."""


class Policy(TypedDict):
    """A policy, on whatever table."""

    name: str
    table: str
    rls: bool
    """Row-level security is enabled on its table."""
    permissive: bool
    command: str
    """As in pg_policy: `r` select, `a` insert, `w` update, `d` delete, `*` all."""
    clients: bool
    """It is for `anon`, `authenticated` or everybody."""
    conditions: list[str | None]
    """USING and WITH CHECK, as PostgreSQL prints them."""
    subqueries: bool
    reads: list[str]
    """Tables that its subqueries read."""
    columns: list[list[str]]
    """[table, column] that it reads, its own table's included."""
    calls: list[Call]


class Catalog(TypedDict):
    """Everything that was asked for."""

    version: int
    """The server's, as 180004."""
    now: float
    """Its clock, in seconds since 1970."""
    types: dict[str, str | None]
    """By the name that was asked for: what the server calls a type; None: it has none."""
    mirrored: list[str | None]
    """The tables that any model writes here; None: one that is gone."""
    tables: dict[str, Table | None]
    """By the name that was asked for; None: there is none."""
    policies: list[Policy]
    functions: dict[str, list[str]]
    """Functions of ours that `anon` or `authenticated` may execute, and which of the two."""
