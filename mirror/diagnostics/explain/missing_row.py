"""Missing row: why a mapping's query yields no row of a key, or of other values.

The conditions of the query are tried on the rows that have them: first those that speak of
nothing else, then one by one those that need rows of other tables.
"""

from collections.abc import Iterator, Sequence
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Integer,
    Select,
    SmallInteger,
    Text,
    Uuid,
    and_,
    cast,
    exists,
    literal,
    select,
)
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import ColumnClause, Label

from mirror.errors import Permanent
from mirror.model.mapping import Mapping, printed
from mirror.model.query.select_tree import (
    SelectNode,
    TableRef,
    UnreadableQuery,
    WhereCondition,
    parts,
    select_node,
)
from mirror.sync.connections import Database

_TYPES: Final[dict[str, Any]] = {
    "uuid": Uuid,
    "text": Text,
    "smallint": SmallInteger,
    "integer": Integer,
    "bigint": BigInteger,
}


@dataclass(frozen=True)
class MissingRowReason:
    """Why one SELECT of a query yields no row for some values."""

    tables: tuple[str, ...]
    """The tables that would hold them."""
    there: bool
    """They have such rows."""
    conditions: tuple[str, ...] = ()
    """What those rows do not satisfy."""
    lacks: str | None = None
    """The table that has no row which the last of them would accept."""

    def __str__(self) -> str:
        tables = ", ".join(self.tables)
        if not self.there:
            return f"{tables} has no such row"
        if not self.conditions:
            return f"{tables} has it, but what the query makes of several rows drops it"
        demands = " and ".join(self.conditions)
        if self.lacks is not None:
            return f"{tables} has it, but {self.lacks} has no row for which {demands}"
        return f"{tables} has it, but the query drops it: not true is {demands}"


def missing_row_reasons(
    database: Database, mapping: Mapping, wanted: MappingABC[str, str]
) -> list[MissingRowReason]:
    """Say it of each SELECT that the mapping's query unites; empty where it cannot be told.

    `wanted` are the values of columns: of a key, or of others that tell a row.
    """
    try:
        return [_part(database, mapping, wanted, part) for part in parts(mapping.query)]
    except (UnreadableQuery, Permanent):
        return []


def _part(
    database: Database, mapping: Mapping, wanted: MappingABC[str, str], query: Select[Any]
) -> MissingRowReason:
    scope = select_node(query)
    names = list(mapping.query.selected_columns.keys())
    labels = dict(zip(names, query.selected_columns, strict=False))
    matches = [
        _bare(labels[column.name]) == _typed(wanted[column.name], column.type)
        for column in mapping.columns
        if column.name in wanted
    ]
    holders = list(dict.fromkeys(source for match in matches for source in _read(scope, match)))
    tables = tuple(map(_name, holders))
    probe = _Probe(database, matches, holders)
    if not probe.holds(()):
        return MissingRowReason(tables, there=False)

    demands = [condition for condition in scope.conditions if condition.side is None]
    own = [c for c in demands if set(_read(scope, c.clause)) <= set(holders)]
    failing = tuple(_text(c) for c in own if not probe.holds([c.clause]))
    if failing:
        return MissingRowReason(tables, there=True, conditions=failing)

    taken = [condition.clause for condition in own]
    rest = [condition for condition in demands if condition not in own]
    while rest:
        # What ties the next table to those that were looked at comes before what it has to be.
        nearest = min(
            rest,
            key=lambda c: (
                not set(_read(scope, c.clause)) & set(probe.sources),
                len(set(_read(scope, c.clause)) - set(probe.sources)),
            ),
        )
        rest.remove(nearest)
        new = [one for one in _read(scope, nearest.clause) if one not in probe.sources]
        if any(source.optional for source in new):
            raise UnreadableQuery
        probe.sources += new
        if not probe.holds([*taken, nearest.clause]):
            lacks = _name(new[0]) if new else None
            return MissingRowReason(tables, there=True, conditions=(_text(nearest),), lacks=lacks)
        taken.append(nearest.clause)
    return MissingRowReason(tables, there=True)


@dataclass
class _Probe:
    """Whether there are rows of the key that satisfy some conditions."""

    database: Database
    matches: Sequence[Any]
    sources: list[TableRef]

    def holds(self, clauses: Sequence[Any]) -> bool:
        inner = (
            select(literal(1))
            .select_from(*(source.element for source in self.sources))
            .where(and_(*self.matches, *clauses))
        )
        # Parameters, though there are none: the text has each % doubled.
        return bool(self.database.execute(printed(select(exists(inner))), ())[0][0])


def _typed(value: str, kind: str) -> Any:
    known = _TYPES.get(kind)
    if known is None:
        raise UnreadableQuery
    return cast(literal(value, Text()), known())


def _bare(column: Any) -> Any:
    return column.element if isinstance(column, Label) else column


def _read(scope: SelectNode, clause: Any) -> Iterator[TableRef]:
    """Yield what of a SELECT's FROM an expression reads, its subqueries' reads included."""
    for element in visitors.iterate(clause):
        if isinstance(element, ColumnClause) and hash(element.table) in scope.sources:
            yield scope.sources[hash(element.table)]


def _name(source: TableRef) -> str:
    return source.table or str(getattr(source.element, "name", "a subquery"))


def _text(condition: WhereCondition) -> str:
    return " ".join(printed(condition.clause).replace("%%", "%").split())
