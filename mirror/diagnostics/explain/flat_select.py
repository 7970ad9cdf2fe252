"""Flat select: a SELECT whose subqueries are dissolved, so that its conditions stand together.

`select … from a join (select … from b where x) as s on s.id = a.b_id where exists (select … c)`
yields a row only if a, b and c have rows that satisfy all conditions: the flat select has these
three tables and all of these conditions. A subquery that groups, limits or numbers rows stays a
table.
"""

from collections.abc import Iterable, Iterator
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, field, replace
from itertools import islice, product
from typing import Any, Final

from sqlalchemy import Select
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import BinaryExpression, ColumnClause, Grouping, Label, Over
from sqlalchemy.sql.selectable import (
    CTE,
    CompoundSelect,
    Exists,
    ScalarSelect,
    SelectStatementGrouping,
)

from mirror.model.query.select_tree import SelectNode, TableRef, distinct_on, select_node

_MOST: Final = 50
"""How many flat selects one SELECT may have: more reasons are not worth reading."""


@dataclass(frozen=True)
class FlatSelect:
    """The tables and conditions of a SELECT."""

    tables: tuple[TableRef, ...] = ()
    """Each result row needs a row of each of these."""
    optional: MappingABC[TableRef, tuple[Any, ...]] = field(default_factory=dict)
    """The right sides of LEFT JOINs, each with the conditions of its ON."""
    conditions: tuple[Any, ...] = ()
    """Each result row satisfies all of these."""
    selected: tuple[Any, ...] = ()
    """The selected expressions, by position."""
    group_by: tuple[Any, ...] = ()
    having: tuple[Any, ...] = ()

    def read_by(self, *expressions: Any) -> frozenset[TableRef]:
        """Return the tables that expressions read, also inside subqueries.

        With the right side of a LEFT JOIN come the tables that its ON reads.
        """
        known = {hash(table.element): table for table in (*self.tables, *self.optional)}
        found: set[TableRef] = set()
        left = list(expressions)
        while left:
            for element in visitors.iterate(left.pop()):
                table = known.get(hash(getattr(element, "table", None)))
                if isinstance(element, ColumnClause) and table is not None and table not in found:
                    found.add(table)
                    left += self.optional.get(table, ())
        return frozenset(found)

    def requiring(self, expressions: Iterable[Any]) -> "FlatSelect":
        """Return the same with a row required of each table of which one is a column."""
        read = {hash(getattr(expression, "table", None)) for expression in expressions}
        required = [table for table in self.optional if hash(table.element) in read]
        return replace(
            self,
            tables=(*self.tables, *required),
            optional={one: on for one, on in self.optional.items() if one not in required},
            conditions=(*self.conditions, *(on for one in required for on in self.optional[one])),
        )


def flat_selects(select: Select[Any], *, dissolve: bool = True) -> list[FlatSelect]:
    """Return the flat selects of a SELECT: one, or several if it reads a union.

    Without `dissolve`, every subquery stays as it is, and there is one.

    Raises:
        UnreadableQuery: this library does not analyse a query of its shape.
    """
    return list(islice(_flatten(select_node(select), dissolve=dissolve), _MOST))


def unlabelled(expression: Any) -> Any:
    """Return an expression without its label."""
    return expression.element if isinstance(expression, Label) else expression


def bare(query: Any) -> Any:
    """Return the SELECT or the union inside aliases and parentheses."""
    while not isinstance(query, Select | CompoundSelect) and hasattr(query, "element"):
        query = query.element
    return query


def drops_rows(select: Select[Any]) -> bool:
    """Return whether a SELECT may drop rows that satisfy all of its conditions."""
    return bool(select._distinct) or not _keeps_rows(select)  # noqa: SLF001 - there is no public way


def _flatten(node: SelectNode, *, dissolve: bool) -> Iterator[FlatSelect]:
    """Yield the flat selects of a SELECT at its place in a query."""
    select = node.select
    sources = {
        table: [inner for inner in node.inner if inner.as_table is table]
        for table in node.tables.values()
        if dissolve and _dissolves(table)
    }
    plain = [table for table in node.tables.values() if table not in sources]
    optional = [table for table in plain if table.optional]
    members = [
        [(table, inner, flat) for inner in inners for flat in _flatten(inner, dissolve=True)]
        for table, inners in sources.items()
    ]
    for chosen in product(*members):
        values = {
            hash(column): expression
            for table, _, flat in chosen
            for column, expression in zip(table.element.c, flat.selected, strict=False)
        }
        flat = FlatSelect(
            tables=tuple(table for table in plain if table not in optional),
            optional={
                table: tuple(
                    _replaced(condition.clause, values)
                    for condition in node.conditions
                    if condition.side is table
                )
                for table in optional
            },
            conditions=tuple(
                _replaced(condition.clause, values)
                for condition in node.conditions
                if condition.side not in optional
            ),
            selected=tuple(_replaced(unlabelled(one), values) for one in select.selected_columns),
            group_by=tuple(_replaced(one, values) for one in select._group_by_clauses),  # noqa: SLF001 - there is no public way
            having=tuple(_replaced(one, values) for one in select._having_criteria),  # noqa: SLF001 - likewise
        )
        for _, _, inner in chosen:
            flat = _joined(flat, inner)
        yield _with_semijoins(flat, node) if dissolve else flat


def _joined(flat: FlatSelect, inner: FlatSelect) -> FlatSelect:
    """Return a flat select with the tables and conditions of another one, too."""
    return replace(
        flat,
        tables=(*flat.tables, *inner.tables),
        optional={**flat.optional, **inner.optional},
        conditions=(*flat.conditions, *inner.conditions),
    )


def _with_semijoins(flat: FlatSelect, node: SelectNode) -> FlatSelect:
    """Return a flat select in which EXISTS and IN became tables and their conditions."""
    for condition in flat.conditions:
        query, outer = _semijoin(condition)
        matches = [inner for inner in node.inner if inner.select is query]
        # One object that occurs twice in a SELECT is two nodes.
        if len(matches) != 1 or not _keeps_rows(query):
            continue
        inner = list(_flatten(matches[0], dissolve=True))
        known = {hash(table.element) for table in (*flat.tables, *flat.optional)}
        if len(inner) > 1 or known & {
            hash(table.element) for table in (*inner[0].tables, *inner[0].optional)
        }:
            continue
        link = () if outer is None else (outer == inner[0].selected[0],)
        rest = [one for one in flat.conditions if one is not condition]
        flat = _joined(replace(flat, conditions=(*rest, *link)), inner[0])
    return flat


def _semijoin(condition: Any) -> tuple[Any, Any]:
    """Return the SELECT of an EXISTS or IN, and the left side of the IN; None: it is neither."""
    if isinstance(condition, Exists) and condition.operator is operators.exists:
        return bare(condition.element), None
    if (
        isinstance(condition, BinaryExpression)
        and condition.operator is operators.in_op
        and isinstance(condition.right, ScalarSelect | SelectStatementGrouping | Select)
    ):
        return bare(condition.right), condition.left
    return None, None


def _dissolves(table: TableRef) -> bool:
    """Return whether a table of a FROM is a subquery of which each row needs rows of its tables."""
    element = table.element
    if table.table or table.optional or (isinstance(element, CTE) and element.recursive):
        return False
    return _only_keeps(bare(element))


def _only_keeps(query: Any) -> bool:
    """Return whether a query is a SELECT that keeps all of its rows, or a union of these."""
    if isinstance(query, CompoundSelect):
        return (
            str(query.keyword.value).startswith("UNION")
            and not _cuts(query)
            and all(_only_keeps(bare(member)) for member in query.selects)
        )
    return _keeps_rows(query)


def _keeps_rows(query: Any) -> bool:
    """Return whether a SELECT neither groups, limits nor numbers rows."""
    return isinstance(query, Select) and not (
        _cuts(query)
        or query._group_by_clauses  # noqa: SLF001 - there is no public way
        or query._having_criteria  # noqa: SLF001 - likewise
        or distinct_on(query)
        or any(isinstance(element, Over) for element in visitors.iterate(query))
    )


def _cuts(query: Any) -> bool:
    clauses = ("_limit_clause", "_offset_clause", "_fetch_clause")
    return any(getattr(query, name, None) is not None for name in clauses)


def _replaced(expression: Any, values: MappingABC[int, Any]) -> Any:
    """Return an expression with columns of dissolved subqueries replaced by their expressions."""

    def replacement(element: Any, **_: Any) -> Any:
        found = values.get(hash(element)) if isinstance(element, ColumnClause) else None
        if found is None or isinstance(found, ColumnClause):
            return found
        return Grouping(found)

    return visitors.replacement_traverse(expression, {}, replacement) if values else expression
