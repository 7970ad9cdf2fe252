"""Missing row: finds out why a mapping's query yields no row with some values.

It runs the conditions of the query on the rows that have these values: first together with no other
table, then with each further table that a condition needs, one condition at a time.
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
from mirror.model.mapping import Mapping, sql_text
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
    """Why one SELECT of a query yields no row with some values."""

    tables: tuple[str, ...]
    """The tables whose columns have the values."""
    exists: bool
    """Whether these tables have rows with the values."""
    conditions: tuple[str, ...] = ()
    """Conditions of the query that these rows do not satisfy."""
    joined_table: str | None = None
    """The table in which no row satisfies the condition together with these rows; None: the
    condition is about these rows alone, or about tables that were joined before."""

    def __str__(self) -> str:
        tables = ", ".join(self.tables)
        if not self.exists:
            return f"{tables} has no such row"
        if not self.conditions:
            return f"{tables} has the row, but GROUP BY, DISTINCT or LIMIT of the query drops it"
        conditions = " and ".join(self.conditions)
        if self.joined_table is not None:
            return f"{tables} has the row, but {self.joined_table} has no row with {conditions}"
        return f"{tables} has the row, but it does not satisfy the condition {conditions}"


def missing_row_reasons(
    database: Database, mapping: Mapping, values: MappingABC[str, str]
) -> list[MissingRowReason]:
    """Return why the mapping's query yields no row with these values, for each SELECT in it.

    `values` are texts by column: a key, or others that identify a row. The result is empty if the
    query has a form that is not analysed, or if the primary refuses to run its conditions.
    """
    try:
        return [_reason(database, mapping, values, select_) for select_ in parts(mapping.query)]
    except (UnreadableQuery, Permanent):
        return []


def _reason(
    database: Database, mapping: Mapping, values: MappingABC[str, str], query: Select[Any]
) -> MissingRowReason:
    node = select_node(query)
    names = list(mapping.query.selected_columns.keys())
    expressions = dict(zip(names, query.selected_columns, strict=False))
    matches = [
        _unlabelled(expressions[column.name]) == _typed(values[column.name], column.type)
        for column in mapping.columns
        if column.name in values
    ]
    own_tables = list(dict.fromkeys(table for match in matches for table in _tables(node, match)))
    names_of_tables = tuple(map(_name, own_tables))
    probe = _Probe(database, matches, own_tables)
    if not probe.has_row(()):
        return MissingRowReason(names_of_tables, exists=False)

    conditions = [condition for condition in node.conditions if condition.side is None]
    own = [c for c in conditions if set(_tables(node, c.clause)) <= set(own_tables)]
    failing = tuple(_text(c) for c in own if not probe.has_row([c.clause]))
    if failing:
        return MissingRowReason(names_of_tables, exists=True, conditions=failing)

    satisfied = [condition.clause for condition in own]
    remaining = [condition for condition in conditions if condition not in own]
    while remaining:
        # A condition that joins a new table to those already tried comes before conditions on the
        # new table alone, so that a join without a matching row is reported as such.
        condition = min(
            remaining,
            key=lambda c: (
                not set(_tables(node, c.clause)) & set(probe.tables),
                len(set(_tables(node, c.clause)) - set(probe.tables)),
            ),
        )
        remaining.remove(condition)
        new = [table for table in _tables(node, condition.clause) if table not in probe.tables]
        if any(table.optional for table in new):
            raise UnreadableQuery
        probe.tables += new
        if not probe.has_row([*satisfied, condition.clause]):
            joined_table = _name(new[0]) if new else None
            return MissingRowReason(names_of_tables, True, (_text(condition),), joined_table)
        satisfied.append(condition.clause)
    return MissingRowReason(names_of_tables, exists=True)


@dataclass
class _Probe:
    """Finds out whether rows with the values satisfy given conditions."""

    database: Database
    matches: Sequence[Any]
    tables: list[TableRef]

    def has_row(self, clauses: Sequence[Any]) -> bool:
        inner = (
            select(literal(1))
            .select_from(*(table.element for table in self.tables))
            .where(and_(*self.matches, *clauses))
        )
        # Parameters, although there are none: `sql_text` doubles each %, and only they undo it.
        return bool(self.database.execute(sql_text(select(exists(inner))), ())[0][0])


def _typed(value: str, type_: str) -> Any:
    """Return a text as an expression of a column's type."""
    sql_type = _TYPES.get(type_)
    if sql_type is None:
        raise UnreadableQuery
    return cast(literal(value, Text()), sql_type())


def _unlabelled(column: Any) -> Any:
    return column.element if isinstance(column, Label) else column


def _tables(node: SelectNode, clause: Any) -> Iterator[TableRef]:
    """Yield the tables of a SELECT's FROM that an expression reads, also inside subqueries."""
    for element in visitors.iterate(clause):
        if isinstance(element, ColumnClause) and hash(element.table) in node.tables:
            yield node.tables[hash(element.table)]


def _name(table: TableRef) -> str:
    return table.table or str(getattr(table.element, "name", "a subquery"))


def _text(condition: WhereCondition) -> str:
    return " ".join(sql_text(condition.clause).replace("%%", "%").split())
