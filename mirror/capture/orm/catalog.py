"""Catalog: what the database knows, and models do not say, of the tables that mappings read.

A session may write such a table through a view. The database may store another value than the
session assigned, or compute one. Each engine is asked once, at its first change.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Alias, Connection, Engine, Enum, Integer, String, Uuid, text

from mirror.capture.statements import statement

_DESCRIBE = text(statement("describe_sources"))
_KINDS = (("text", (String, Enum)), ("integer", (Integer,)), ("uuid", (Uuid,)))

TableName = tuple[str | None, str]
"""A table's schema and name. None: the schema is not said, so it may be any."""


def table_name(table: str) -> TableName:
    """Return the TableName of a table as the registry spells it."""
    schema, _, name = table.rpartition(".")
    return schema or None, name


def name_of(table: Any) -> TableName:
    """Return the schema and the name by which a model knows a table; an alias is its table."""
    while isinstance(table, Alias):
        table = table.element
    return getattr(table, "schema", None), str(getattr(table, "name", ""))


def may_be_one(first: TableName, second: TableName) -> bool:
    """Return whether two spellings may mean one table, under some search_path."""
    return first[1] == second[1] and (first[0] == second[0] or None in {first[0], second[0]})


@dataclass(frozen=True)
class _Columns:
    """The columns of a table that a mapping reads."""

    table: TableName
    types: dict[str, str | None]
    """By name: `text`, `integer` or `uuid`; None: another type."""
    computed: frozenset[str]
    """Those that the database computes from others."""
    rewritten: bool
    """True: a trigger may replace the values that a session writes."""


class Catalog:
    """Facts from databases about the tables that a registry's mappings read."""

    def __init__(self, tables: Iterable[str]) -> None:
        self.caches: list[WeakKeyDictionary[Any, Any]] = []
        """Values that other objects derive from the catalog; cleared when it knows more."""
        self._mapped = list(tables)
        self._asked: WeakSet[Engine] = WeakSet()
        # Replaced as a whole, because another thread may be reading.
        self._reaching: frozenset[tuple[TableName, str]] = frozenset()
        """Pairs of a view, or a table behind a view, and a mapped table that it may change."""
        self._columns: tuple[_Columns, ...] = ()

    def knows(self, engine: Engine) -> bool:
        """Return whether this engine's database was asked."""
        return engine in self._asked

    def ask(self, connection: Connection) -> None:
        """Ask a connection's database, if its engine was not asked yet."""
        if self.knows(connection.engine):
            return
        if connection.dialect.name == "postgresql":
            names = json.dumps([table_name(table) for table in self._mapped])
            for row in connection.execute(_DESCRIBE, {"tables": names}):
                table = (row.schema, row.name)
                if row.place is not None:
                    self._reaching |= {(table, self._mapped[row.place - 1])}
                else:
                    computed = frozenset(json.loads(row.computed))
                    types = json.loads(row.types)
                    self._columns += (_Columns(table, types, computed, row.rewritten),)
        self._asked.add(connection.engine)
        for cache in self.caches:
            cache.clear()

    def reached(self, name: TableName) -> set[str]:
        """Return the mapped tables that a change of another table or view may change."""
        return {mapped for other, mapped in self._reaching if may_be_one(name, other)}

    def computed(self, name: TableName) -> frozenset[str]:
        """Return the columns of a table that the database computes from others."""
        return frozenset().union(*(found.computed for found in self._alike(name)))

    def rewrites(self, name: TableName) -> bool:
        """Return whether a trigger of the table may replace the values that a session writes."""
        return any(found.rewritten for found in self._alike(name))

    def has_type(self, name: TableName, column: str, kind: Any) -> bool:
        """Return whether values of a column print alike there and as `kind`, its type in the model.

        They do if both types are text, both are integers, or both are uuid.
        """
        declared = next((label for label, kinds in _KINDS if isinstance(kind, kinds)), None)
        return all(found.types.get(column, declared) == declared for found in self._alike(name))

    def altered(self, table: Any) -> frozenset[str]:
        """Return the columns of which the database may have another text than a session's value."""
        name = name_of(table)
        rewrites = self.rewrites(name)
        return frozenset(
            c.name for c in table.c if rewrites or not self.has_type(name, c.name, c.type)
        )

    def _alike(self, name: TableName) -> Iterator[_Columns]:
        return (found for found in self._columns if may_be_one(name, found.table))
