"""Mapping: declares which rows of the primary become which rows of one target table.

A mapping holds the SQLAlchemy Core query that returns the desired rows on the primary, the columns
of the target table, and the declarations (references, parents, expiry) that keep the table equal to
those rows. Nothing here connects to a database; `mirror.model.registry` checks a set of mappings as
a whole.
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
from mirror.model.staleness import Stale

SelectQuery = Select[*tuple[object, ...]] | CompoundSelect[*tuple[object, ...]]

EVERYTHING: Final = "*"
"""In an event, stands in place of a reference's name: the event affects the whole mapping."""


@dataclass(frozen=True)
class Column:
    """One column of a target table.

    Every column outside of the key is nullable in the target, so that a missing value never
    prevents a write that takes access away.
    """

    name: str
    """Its name in the target table, and its label in the mapping's query."""
    type: str
    """Its PostgreSQL type in the target: `uuid`, `text`, `bigint`, `timestamptz`, ..."""
    descriptive: bool = False
    """True: no policy decides by the column; it only describes, like a title. A change of
    descriptive columns alone is recorded in the lane `grant`, so it waits behind events that may
    take access away."""


@dataclass(frozen=True)
class Reference:
    """A value in each source row by which keys are grouped: `trip_id`, for "members of trip 7".

    A writer that changes a row of `table` cannot know every affected key, because another
    transaction may be adding one. So it records a scope: the mapping, the reference and its value.
    After commit, the drain looks up the keys under that value.
    """

    name: str
    """Its label in the mapping's query; it need not be a column of the target."""
    type: str
    """Its PostgreSQL type: one of `mirror.model.keys.KEY_TYPES`."""
    table: str | None = None
    """The primary's table whose rows it identifies (`trips`, `app.workspaces`), if any."""
    column: str | None = None
    """The column of `table` that holds the reference's value. None: the column that the query's
    joins and conditions make equal to it. If they make none equal, a change of any row of `table`
    counts as a change of the whole mapping."""


@dataclass(frozen=True)
class Parent:
    """A mapping whose row must be in the target before a row of this mapping can be.

    It becomes a foreign key in the target. The mirror deletes children together with their parent;
    the foreign key's ON DELETE CASCADE does the same if the parent is deleted by hand.
    """

    mapping: str
    """The parent mapping's name; its key must be one column."""
    column: str
    """The column of this mapping that holds the parent's key. A row with NULL there needs no
    parent."""


@dataclass(frozen=True)
class Readable:
    """The part of a target table that signed-in users may read: column grants and one policy."""

    columns: tuple[str, ...]
    """Columns granted to `authenticated`."""
    using: str
    """The policy's USING expression. Wrap function calls in (select …), so that they run once per
    statement."""
    indexed: tuple[str, ...] = ()
    """Columns that get an index, because `using` looks up rows by them and the key does not begin
    with them."""
    stale: Stale | None = None
    """`ignore`: the policy does not ask how old the rows are. None: `deny`, if the registry has
    `max_staleness`."""


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """One target table and the query for its rows."""

    name: str
    """The mapping's name, unique within its registry. Events refer to the mapping by it."""
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
    """Values by which keys are grouped. Each parent's column is a reference, declared or not."""
    parents: tuple[Parent, ...] = ()
    """Mappings whose rows must be in the target before a row of this one can be."""
    active: MappingABC[str, frozenset[str]] = field(default_factory=dict)
    """Columns, each with the values that grant access. A row grants access only if every one of
    these columns holds one of its values."""
    on_delete: Literal["delete", "retain"] = "delete"
    """How the target treats a row that the query no longer returns. `delete` removes it. `retain`
    keeps its bare key, for your own tables that reference it, and sets every other column to
    NULL."""
    expires: str | None = None
    """A timestamptz column; in the query, too, it has a time zone. From that time on, the row
    counts as absent; NULL never expires. Policies and helpers compare the column with now(), so
    expiry needs no event. Later, a worker deletes expired rows; a reconcile never counts them
    towards its limit of deletes."""
    readable: Readable | None = None
    """The part of the table that clients may read; None: nothing."""
    children: tuple[tuple[str, str], ...] = ()
    """The mappings that have this one as a parent, as pairs of a mapping's name and its column with
    the parent's key. Registry sets it."""

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

        The columns come first, then the references that are not columns. The row of a parent may
        end with one more value, `true`: its children are sent in the same call.
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
        """Return a value of the reference called `name` in canonical form.

        Raises:
            InvalidKey: the value does not have the reference's type.
            LookupError: the mapping has no reference of this name.
        """
        reference = self.reference(name)
        if reference is None:
            raise LookupError(name)
        return KeyColumn(name, reference.type).canonical(value, owner=self.name)

    def declaration(self) -> dict[str, object]:
        """Return everything that decides the target's tables and rows, as plain JSON values."""
        return {
            "name": self.name,
            "table": [self.schema, self.table],
            "key": list(self.key),
            "columns": [[column.name, column.type] for column in self.columns],
            "references": [[ref.name, ref.type] for ref in self.all_references],
            "parents": [[parent.mapping, parent.column] for parent in self.parents],
            # A call that writes a parent also writes its children, so workers must know them all.
            "children": [list(child) for child in self.children],
            "active": {name: sorted(values) for name, values in sorted(self.active.items())},
            "on_delete": self.on_delete,
            **({} if self.expires is None else {"expires": self.expires}),
            "query": self.sql.replace(" \n", " "),
        }

    @cached_property
    def sql(self) -> str:
        """The query as SQL text with its values inline; every process gets the same text.

        Each % is doubled, as psycopg requires.
        """
        return sql_text(self.query)

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits of a hash of the declaration; they change whenever it changes."""
        text = json.dumps(self.declaration(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def sql_text(clause: Any) -> str:
    """Return a query or an expression as SQL text with its values inline, as in `Mapping.sql`."""
    ordered = visitors.cloned_traverse(clause, {}, {"bindparam": _sort_values})
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    # Until a dialect has connected, it doubles backslashes, as PostgreSQL before 9.1 required.
    dialect._backslash_escapes = False  # noqa: SLF001 - there is no public way
    return str(ordered.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


def _sort_values(parameter: Any) -> None:
    """Sort the values of an IN in place: the order of a set differs between processes."""
    if parameter.expanding and isinstance(parameter.value, list | tuple | set | frozenset):
        parameter.value = sorted(parameter.value, key=repr)
