"""Ties: which values of a query are equal wherever a row matters.

Columns that are equal wherever a row matters stand for each other there: `users.id` for
`memberships.user_id` where the two are joined on that. Which ties hold depends on whose row it is:
what an EXISTS demands holds for the rows inside it, what a LEFT JOIN demands for those of its
right side.
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

_STRICT = {
    operators.eq,
    operators.ne,
    operators.lt,
    operators.le,
    operators.gt,
    operators.ge,
    operators.in_op,
}


class ColumnRef(NamedTuple):
    """A column of one thing that a FROM names."""

    source: TableRef
    column: str
    read_as: str | None = None
    """The family of types that a cast makes of it, where the same value has several spellings."""


class Equality(NamedTuple):
    """What is equal where a condition holds; one place alone is not NULL there."""

    places: frozenset[ColumnRef]
    scope: SelectNode
    """For what is in this SELECT."""
    side: TableRef | None = None
    """For what is in this side of a LEFT JOIN only."""
    strict: bool = True
    """None of them is NULL."""

    def holds(self, source: TableRef) -> bool:
        """Return whether it does wherever a row of `source` matters."""
        beneath = any(scope is self.scope for scope in source.scope.path())
        return beneath and (self.side is None or self.side in source.around())


def equalities(root: SelectNode) -> list[Equality]:
    """Return all ties of a query."""
    return [
        tie
        for scope in root.walk()
        for found in (_handed_on(scope), *(_demanded(c, scope) for c in scope.conditions))
        for tie in found
    ]


def column_ref(expression: Any, scope: SelectNode) -> ColumnRef | None:
    """Return the place whose value an expression is; None: it is computed, or of other types.

    Only the texts of integers, of uuids and of texts tell values apart as = does.
    """
    if isinstance(expression, Label | Grouping):
        return column_ref(expression.element, scope)
    if isinstance(expression, TypeCoerce):
        return column_ref(expression.clause, scope)
    family = _family(expression)
    if family is None:
        return None
    if isinstance(expression, Cast):
        return _cast(expression, column_ref(expression.clause, scope))
    if isinstance(expression, ColumnClause) and expression.table is not None:
        source = scope.source_of(expression)
        return ColumnRef(source, expression.name if source.table else str(expression.key))
    return None


def _cast(cast: Cast[Any], found: ColumnRef | None) -> ColumnRef | None:
    before, after = _family(cast.clause), _family(cast)
    if found is None or getattr(cast.type, "length", None) is not None:
        return None
    if before == after or (after == "text" and before != "unknown"):
        return found
    if before == "text" and found.read_as is None:
        return found._replace(read_as=after)
    return None


def _handed_on(scope: SelectNode) -> Iterator[Equality]:
    """Yield what a subquery's columns are in the SELECT that it is."""
    if scope.source is None:
        return
    names = list(scope.source.element.c.keys())
    for name, expression in zip(names, scope.select.selected_columns, strict=False):
        yield from _equal(
            ColumnRef(scope.source, name), column_ref(expression, scope), scope, strict=False
        )


def _demanded(condition: WhereCondition, scope: SelectNode) -> Iterator[Equality]:
    """Yield what is equal, and what is not NULL, by a condition."""
    clause, side = condition
    if not isinstance(clause, BinaryExpression):
        return
    left, right = column_ref(clause.left, scope), column_ref(clause.right, scope)
    if _refuses_null(clause):
        yield from (Equality(frozenset({found}), scope, side) for found in (left, right) if found)
    if clause.operator is operators.eq and _comparable(clause.left, clause.right):
        if left and right:
            yield Equality(frozenset({left, right}), scope, side)
    elif clause.operator is operators.in_op:
        query = clause.right
        while hasattr(query, "element"):
            query = query.element
        for part in parts(query):
            chosen = [inner for inner in scope.inner if inner.select is part]
            # Twice in one SELECT, it is two.
            if len(chosen) == 1:
                column = next(iter(part.selected_columns))
                if _comparable(clause.left, column):
                    yield from _equal(left, column_ref(column, chosen[0]), chosen[0], strict=True)


def _equal(
    outer: ColumnRef | None, inner: ColumnRef | None, scope: SelectNode, *, strict: bool
) -> Iterator[Equality]:
    """Yield the tie of a value with what a subquery selects, unless a row may replace a NULL."""
    if outer is not None and inner is not None and not inner.source.optional:
        yield Equality(frozenset({outer, inner}), scope, strict=strict)


def _refuses_null(clause: BinaryExpression[Any]) -> bool:
    if clause.operator is operators.is_not:
        return isinstance(clause.right, Null)
    # Of no values at all, <> ALL is true.
    return clause.operator in _STRICT and not isinstance(clause.right, CollectionAggregate)


def _family(expression: Any) -> str | None:
    """Return which types' texts tell values apart as = does; None for other types.

    What is not known is taken for one of those.
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
    # To some collations, and to the types whose blanks or cases do not count, two texts are one.
    if isinstance(kind, types.String) and not isinstance(kind, types.CHAR | CITEXT):
        return None if kind.collation else "text"
    return None


def _comparable(left: Any, right: Any) -> bool:
    """Return whether what is equal has equal texts."""
    families = {_family(left), _family(right)} - {"unknown"}
    return None not in families and len(families) < 2  # noqa: PLR2004 - that is, one
