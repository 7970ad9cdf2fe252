"""Mapping: which rows of the primary become which rows of one target table.

A mapping is a declaration. It holds the SQLAlchemy Core query that yields the desired rows on
the primary and everything the two databases must know to keep the target equal to it. Nothing
here talks to a database; `mirror.model.registry` checks a set of mappings as a whole.
"""

import hashlib
import json
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

from sqlalchemy import Select
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql import visitors
from sqlalchemy.sql.selectable import CompoundSelect

from mirror.model.keys import Key, KeyColumn, canonical_key

SelectQuery = Select[*tuple[object, ...]] | CompoundSelect[*tuple[object, ...]]

EVERYTHING: Final = "*"
"""The reference that means a whole mapping."""


@dataclass(frozen=True)
class Column:
    """One column of a target table.

    Every column that is not part of the key is nullable in the target: a value the primary
    lacks must never be the reason why a revocation cannot be written.
    """

    name: str
    """Its name in the target table, and its label in the mapping's query."""
    type: str
    """Its PostgreSQL type in the target, such as `uuid`, `text`, `bigint`, `timestamptz`."""
    descriptive: bool = False
    """No policy decides by it: it says who or what, never who may. A change of nothing else
    waits behind changes that may take access away."""


@dataclass(frozen=True)
class Reference:
    """A source value that groups keys: "all memberships of trip 7".

    A writer that changes a row of `table` cannot know every key it affects (another
    transaction may be adding one), so it records the scope (mapping, reference, value) and
    the drain looks the keys up after commit.
    """

    name: str
    """Its label in the mapping's query; it need not be a column of the target."""
    type: str
    """Its PostgreSQL type: one of `mirror.model.keys.KEY_TYPES`."""
    table: str | None = None
    """The primary's table whose rows it identifies (`trips`, `app.workspaces`), if any."""
    column: str | None = None
    """The column of `table` that holds its value. None: the one that the query's joins and
    conditions make equal to it; where there is none, a change of any row of `table` reads the
    whole mapping again."""


@dataclass(frozen=True)
class Parent:
    """A mapping whose row must be in the target before this mapping's row can be.

    Becomes a foreign key in the target, ON DELETE CASCADE as a backstop.
    """

    mapping: str
    """The parent mapping's name; its key must be one column."""
    column: str
    """The column of this mapping that holds the parent's key. NULL: no parent is needed."""


@dataclass(frozen=True)
class Readable:
    """What signed-in users may read of a target table, as column grants and one policy."""

    columns: tuple[str, ...]
    """Columns granted to `authenticated`."""
    using: str
    """The policy's USING expression; wrap function calls in (select …) so that they run once."""
    indexed: tuple[str, ...] = ()
    """Columns by which that expression looks rows up, and which the key does not begin with."""


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """One target table and the query that says what belongs in it."""

    name: str
    """Unique within its registry; events carry it."""
    table: str
    """The target table's name."""
    schema: str = "public"
    """The target table's schema."""
    key: tuple[str, ...]
    """Names of the key columns, in order."""
    columns: tuple[Column, ...]
    """Every target column, the key's included."""
    query: SelectQuery
    """Yields one row per key, each column and reference under its label. It may join, filter
    and compute, but must depend on nothing but rows: no clock, no settings, no randomness."""
    references: tuple[Reference, ...] = ()
    """Values that group keys. A parent's column is one without being declared."""
    parents: tuple[Parent, ...] = ()
    """Rows that must be there first."""
    active: MappingABC[str, frozenset[str]] = field(default_factory=dict)
    """When a row grants access: each named column holds one of these values."""
    on_delete: Literal["delete", "retain"] = "delete"
    """What becomes of a target row whose source is gone. `retain` keeps the bare key, for tables
    of yours that reference it, and sets every other column to NULL."""
    expires: str | None = None
    """A timestamptz column: a row past it is no row; NULL: never. Policies and helpers compare it
    with now(), so it takes effect at that instant without any event; the row itself goes at the
    next sweep, and never counts towards the bound on deletes of a reconcile."""
    readable: Readable | None = None
    """What clients may read of the table itself; None: nothing."""
    children: tuple[tuple[str, str], ...] = ()
    """Who names this mapping as a parent, and by which column; the Registry fills it in."""

    @cached_property
    def key_columns(self) -> tuple[KeyColumn, ...]:
        """The key columns with their types."""
        types = {column.name: column.type for column in self.columns}
        return tuple(KeyColumn(name, types[name]) for name in self.key)

    @cached_property
    def data_columns(self) -> tuple[Column, ...]:
        """The columns that are not part of the key, in declared order."""
        return tuple(column for column in self.columns if column.name not in self.key)

    @cached_property
    def all_references(self) -> tuple[Reference, ...]:
        """The declared references and those that the parents' columns are."""
        types = {column.name: column.type for column in self.columns}
        references = {reference.name: reference for reference in self.references}
        for parent in self.parents:
            # The Registry refuses a parent's column that is none of ours; that comes later.
            if parent.column not in references and parent.column in types:
                references[parent.column] = Reference(parent.column, types[parent.column])
        return tuple(references.values())

    @cached_property
    def row_layout(self) -> tuple[tuple[str, str], ...]:
        """(label, type) of each value in a row as it travels, in order.

        The columns, then the references that are none. A parent's row may have one more value,
        which says that its children come in the same call.
        """
        columns = [(column.name, column.type) for column in self.columns]
        names = {name for name, _ in columns}
        extra = [(ref.name, ref.type) for ref in self.all_references if ref.name not in names]
        return tuple(columns + extra)

    def reference(self, name: str) -> Reference | None:
        """Return the reference called `name`, or None."""
        return next((ref for ref in self.all_references if ref.name == name), None)

    def canonical(self, key: object) -> Key:
        """Return `key` in canonical form, or raise InvalidKey."""
        return canonical_key(self.key_columns, key, owner=self.name)

    def canonical_reference(self, name: str, value: object) -> str:
        """Return a reference's value in canonical form, or raise InvalidKey."""
        reference = self.reference(name)
        if reference is None:
            raise LookupError(name)
        return KeyColumn(name, reference.type).canonical(value, owner=self.name)

    def declaration(self) -> dict[str, object]:
        """Return everything that decides what the target holds, as plain JSON values."""
        return {
            "name": self.name,
            "table": [self.schema, self.table],
            "key": list(self.key),
            "columns": [[column.name, column.type] for column in self.columns],
            "references": [[ref.name, ref.type] for ref in self.all_references],
            "parents": [[parent.mapping, parent.column] for parent in self.parents],
            # Whoever writes a parent brings its children along, so it must know all of them.
            "children": [list(child) for child in self.children],
            "active": {name: sorted(values) for name, values in sorted(self.active.items())},
            "on_delete": self.on_delete,
            **({} if self.expires is None else {"expires": self.expires}),
            "query": self.sql.replace(" \n", " "),
        }

    @cached_property
    def sql(self) -> str:
        """The query as text, with its values in it; the same in every process.

        As psycopg takes it, with each % doubled.
        """
        return printed(self.query)

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits that change whenever the declaration does."""
        text = json.dumps(self.declaration(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def printed(clause: Any) -> str:
    """Return a query or an expression as text, as `Mapping.sql` is."""
    ordered = visitors.cloned_traverse(clause, {}, {"bindparam": _in_order})
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    # Before it has seen a server, a dialect doubles backslashes, as servers of long ago did.
    dialect._backslash_escapes = False  # noqa: SLF001 - there is no public way
    return str(ordered.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


def _in_order(parameter: Any) -> None:
    """Sort the values of an IN: a set's order differs from process to process."""
    if parameter.expanding and isinstance(parameter.value, list | tuple | set | frozenset):
        parameter.value = sorted(parameter.value, key=repr)
