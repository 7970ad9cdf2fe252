"""Mapping: declares which rows of the primary become which rows of one target table.

It holds the SQLAlchemy Core query that returns the desired rows on the primary, and all that the
two databases must know to keep the target equal to them. Nothing here connects to a database;
`mirror.model.registry` checks a set of mappings as a whole.
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
"""The reference of the scope that is a whole mapping."""


@dataclass(frozen=True)
class Column:
    """One column of a target table.

    Every column outside of the key is nullable in the target: a value that the primary lacks must
    never prevent the write of a revocation.
    """

    name: str
    """Its name in the target table, and its label in the mapping's query."""
    type: str
    """Its PostgreSQL type in the target: `uuid`, `text`, `bigint`, `timestamptz`, ..."""
    descriptive: bool = False
    """No policy decides by it; it only describes, like a title. An event about descriptive columns
    alone has the lane `grant`, so it waits behind possible revocations."""


@dataclass(frozen=True)
class Reference:
    """A source value that groups keys: "all memberships of trip 7".

    A writer that changes a row of `table` cannot know every affected key, because another
    transaction may be adding one. So it records the scope (mapping, reference, value), and the
    drain looks up the keys after commit.
    """

    name: str
    """Its label in the mapping's query; it need not be a column of the target."""
    type: str
    """Its PostgreSQL type: one of `mirror.model.keys.KEY_TYPES`."""
    table: str | None = None
    """The primary's table whose rows it identifies (`trips`, `app.workspaces`), if any."""
    column: str | None = None
    """The column of `table` that holds its value. None: the column that the query's joins and
    conditions make equal to it; if there is none, a change of any row of `table` has the whole
    mapping read again."""


@dataclass(frozen=True)
class Parent:
    """A mapping whose row must be in the target before a row of this mapping can be.

    It becomes a foreign key in the target, with ON DELETE CASCADE as a backstop.
    """

    mapping: str
    """The parent mapping's name; its key must be one column."""
    column: str
    """The column of this mapping that holds the parent's key. NULL: no parent is needed."""


@dataclass(frozen=True)
class Readable:
    """The part of a target table that signed-in users may read: column grants and one policy."""

    columns: tuple[str, ...]
    """Columns granted to `authenticated`."""
    using: str
    """The policy's USING expression; wrap function calls in (select …) so that they run once."""
    indexed: tuple[str, ...] = ()
    """Columns by which the expression looks up rows and that need an index, because the key does
    not begin with them."""


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """One target table and the query for its rows."""

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
    """Returns one row per key, each column and reference under its label. It may join, filter
    and compute, but must depend on rows only: no clock, no settings, no randomness."""
    references: tuple[Reference, ...] = ()
    """Values that group keys. A parent's column is a reference without being declared."""
    parents: tuple[Parent, ...] = ()
    """Mappings whose rows must be in the target first."""
    active: MappingABC[str, frozenset[str]] = field(default_factory=dict)
    """A row grants access only if each of these columns holds one of these values."""
    on_delete: Literal["delete", "retain"] = "delete"
    """The fate of a target row whose source row is gone. `retain` keeps the bare key, for your own
    tables that reference it, and sets every other column to NULL."""
    expires: str | None = None
    """A timestamptz column: expired rows count as absent; NULL never expires. Policies and helpers
    compare it with now(), so expiry takes effect at that instant without an event. The next sweep
    deletes the row; a reconcile never counts it towards its limit of deletes."""
    readable: Readable | None = None
    """The part of the table that clients may read; None: nothing."""
    children: tuple[tuple[str, str], ...] = ()
    """The mappings that have this one as a parent, each with its column; Registry sets it."""

    @cached_property
    def types(self) -> dict[str, str]:
        """The PostgreSQL type of each column, by name."""
        return {column.name: column.type for column in self.columns}

    @cached_property
    def key_columns(self) -> tuple[KeyColumn, ...]:
        """The key columns with their types."""
        return tuple(KeyColumn(name, self.types[name]) for name in self.key)

    @cached_property
    def data_columns(self) -> tuple[Column, ...]:
        """The columns that are not part of the key, in declared order."""
        return tuple(column for column in self.columns if column.name not in self.key)

    @cached_property
    def all_references(self) -> tuple[Reference, ...]:
        """The declared references, and the parents' columns as references."""
        references = {reference.name: reference for reference in self.references}
        for parent in self.parents:
            # An unknown column is ignored here; the Registry refuses it later.
            if parent.column not in references and parent.column in self.types:
                references[parent.column] = Reference(parent.column, self.types[parent.column])
        return tuple(references.values())

    @cached_property
    def row_layout(self) -> tuple[tuple[str, str], ...]:
        """(label, type) of each value in a row that is sent to the target, in order.

        The columns come first, then the references that are not columns. A parent's row may have
        one more value, which says that its children come in the same call.
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
        """Return all that decides the target's contents, as plain JSON values."""
        return {
            "name": self.name,
            "table": [self.schema, self.table],
            "key": list(self.key),
            "columns": [[column.name, column.type] for column in self.columns],
            "references": [[ref.name, ref.type] for ref in self.all_references],
            "parents": [[parent.mapping, parent.column] for parent in self.parents],
            # A call that writes a parent writes its children, so it must know all of them.
            "children": [list(child) for child in self.children],
            "active": {name: sorted(values) for name, values in sorted(self.active.items())},
            "on_delete": self.on_delete,
            **({} if self.expires is None else {"expires": self.expires}),
            "query": self.sql.replace(" \n", " "),
        }

    @cached_property
    def sql(self) -> str:
        """The query as SQL text with its values inline; the same in every process.

        Each % is doubled, as psycopg requires.
        """
        return sql_text(self.query)

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits that change whenever the declaration changes."""
        text = json.dumps(self.declaration(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def sql_text(clause: Any) -> str:
    """Return a query or an expression as SQL text, in the form of `Mapping.sql`."""
    ordered = visitors.cloned_traverse(clause, {}, {"bindparam": _sort_values})
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    # Until a dialect has connected, it doubles backslashes, as PostgreSQL before 9.1 required.
    dialect._backslash_escapes = False  # noqa: SLF001 - there is no public way
    return str(ordered.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


def _sort_values(parameter: Any) -> None:
    """Sort the values of an IN: the order of a set differs between processes."""
    if parameter.expanding and isinstance(parameter.value, list | tuple | set | frozenset):
        parameter.value = sorted(parameter.value, key=repr)
