"""Equalities: finds the columns of a query that a condition makes equal.

If two tables are joined on `users.id = memberships.user_id`, each of these columns tells the value
of the other. A condition is true of some rows only: one in an EXISTS, of the rows inside it; one of
a LEFT JOIN, of the rows of its right side.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import types
from sqlalchemy.dialects.postgresql import CITEXT
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import (
    BinaryExpression,
    Cast,
    CollectionAggregate,
    ColumnClause,
    Grouping,
    Label,
    Null,
    TypeCoerce,
)

from mirror.model.query.select_tree import SelectNode, TableRef, WhereCondition, parts

# Comparisons that are never true if one operand is NULL.
_NEVER_TRUE_OF_NULL = {
    operators.eq,
    operators.ne,
    operators.lt,
    operators.le,
    operators.gt,
    operators.ge,
    operators.in_op,
}


class ColumnRef(NamedTuple):
    """A column of one table or subquery in a FROM."""

    table: TableRef
    column: str
    cast_to: str | None = None
    """`uuid` or `integer`, if the query casts this text column to it: then texts that differ may be
    one value. None: there is no such cast."""


class Equality(NamedTuple):
    """Columns that a condition makes equal; if it is one column, it only cannot be NULL."""

    columns: frozenset[ColumnRef]
    node: SelectNode
    """The equality holds for the rows of this SELECT and of the SELECTs inside it."""
    side: TableRef | None = None
    """The right side of a LEFT JOIN: the equality holds only for rows of this table. None: there
    is no such limit."""
    not_null: bool = True
    """True: where the equality holds, the columns are not NULL. False: they may be."""

    def holds(self, table: TableRef) -> bool:
        """Return whether the equality holds in each result row to which a row of `table` matters.

        `Branch` says when a row matters to another.
        """
        contained = any(node is self.node for node in table.node.path_to_root())
        return contained and (self.side is None or self.side in table.enclosing())


def equalities(root: SelectNode) -> list[Equality]:
    """Return the Equalities that follow from the conditions and subqueries of a query."""
    return [
        equality
        for node in root.walk()
        for found in (_of_subquery(node), *(_of_condition(c, node) for c in node.conditions))
        for equality in found
    ]


def column_ref(expression: Any, node: SelectNode) -> ColumnRef | None:
    """Return the column that an expression in the SELECT `node` is, perhaps cast to another type.

    None if the expression is computed, or if it is declared with another type than integer, uuid
    and text. Only of these types are two values equal if and only if their texts are.
    """
    if isinstance(expression, Label | Grouping):
        return column_ref(expression.element, node)
    if isinstance(expression, TypeCoerce):
        return column_ref(expression.clause, node)
    family = _family(expression)
    if family is None:
        return None
    if isinstance(expression, Cast):
        return _after_cast(expression, column_ref(expression.clause, node))
    if isinstance(expression, ColumnClause) and expression.table is not None:
        table = node.table_of(expression)
        return ColumnRef(table, expression.name if table.table else str(expression.key))
    return None


def _after_cast(cast: Cast[Any], column: ColumnRef | None) -> ColumnRef | None:
    """Return `column` as it is after the cast; None if the cast may change its value.

    None, too, if `column` is None.
    """
    before, after = _family(cast.clause), _family(cast)
    if column is None or getattr(cast.type, "length", None) is not None:
        return None
    if before == after or (after == "text" and before != "unknown"):
        return column
    if before == "text" and column.cast_to is None:
        return column._replace(cast_to=after)
    return None


def _of_subquery(node: SelectNode) -> Iterator[Equality]:
    """Yield the Equality of each column of a subquery in a FROM with the column selected for it.

    Yields nothing for a SELECT that is no subquery in a FROM, and for computed columns.
    """
    if node.as_table is None:
        return
    names = list(node.as_table.element.c.keys())
    for name, expression in zip(names, node.select.selected_columns, strict=False):
        outer = ColumnRef(node.as_table, name)
        yield from _with_selected(outer, column_ref(expression, node), node, not_null=False)


def _of_condition(condition: WhereCondition, node: SelectNode) -> Iterator[Equality]:
    """Yield the Equalities that a condition implies: columns that are equal, or are not NULL."""
    clause, side = condition
    if not isinstance(clause, BinaryExpression):
        return
    left, right = column_ref(clause.left, node), column_ref(clause.right, node)
    if _refuses_null(clause):
        yield from (Equality(frozenset({found}), node, side) for found in (left, right) if found)
    if clause.operator is operators.eq and _comparable(clause.left, clause.right):
        if left and right:
            yield Equality(frozenset({left, right}), node, side)
    elif clause.operator is operators.in_op:
        query = clause.right
        while hasattr(query, "element"):
            query = query.element
        for part in parts(query):
            matches = [inner for inner in node.inner if inner.select is part]
            # One object that occurs twice in a SELECT is two nodes.
            if len(matches) == 1:
                column = next(iter(part.selected_columns))
                if _comparable(clause.left, column):
                    selected = column_ref(column, matches[0])
                    yield from _with_selected(left, selected, matches[0], not_null=True)


def _with_selected(
    outer: ColumnRef | None, inner: ColumnRef | None, node: SelectNode, *, not_null: bool
) -> Iterator[Equality]:
    """Yield the Equality of `outer`, a column outside of the subquery `node`, with one it selects.

    Yields nothing if one of them is None, or if the table of `inner`, the selected column, is the
    right side of a LEFT JOIN: a new row of that table would replace a NULL.
    """
    if outer is not None and inner is not None and not inner.table.optional:
        yield Equality(frozenset({outer, inner}), node, not_null=not_null)


def _refuses_null(clause: BinaryExpression[Any]) -> bool:
    """Return whether a condition is never true if one of its operands is NULL."""
    if clause.operator is operators.is_not:
        return isinstance(clause.right, Null)
    # With an empty array, <> ALL is true, even of NULL.
    return clause.operator in _NEVER_TRUE_OF_NULL and not isinstance(
        clause.right, CollectionAggregate
    )


def _family(expression: Any) -> str | None:
    """Return the family of an expression's type: "integer", "uuid", "text", "unknown" or None.

    In the first three, two values are equal if and only if their texts are. "unknown": the type is
    not declared, and is assumed to be one of these. None: any other type.
    """
    kind = expression.type
    while isinstance(kind, types.TypeDecorator):
        kind = kind.impl_instance
    if isinstance(kind, types.NullType):
        return "unknown"
    if isinstance(kind, types.Integer):
        return "integer"
    if isinstance(kind, types.Uuid):
        return "uuid"
    # Some collations, CHAR and CITEXT treat different texts as equal.
    if isinstance(kind, types.String) and not isinstance(kind, types.CHAR | CITEXT):
        return None if kind.collation else "text"
    return None


def _comparable(left: Any, right: Any) -> bool:
    """Return whether values of both expressions are equal if and only if their texts are.

    Both must be of the same family; an "unknown" one fits each.
    """
    families = {_family(left), _family(right)} - {"unknown"}
    return None not in families and len(families) < 2  # noqa: PLR2004 - that is, one
