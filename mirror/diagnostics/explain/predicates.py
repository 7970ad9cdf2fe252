"""Predicates: the conditions of a flat select, and the values that its rows must have."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Text, cast, literal
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import BinaryExpression, ColumnClause
from sqlalchemy.sql.selectable import Alias
from sqlalchemy.types import UserDefinedType

from mirror.model.mapping import sql_text
from mirror.model.query.select_tree import TableRef


class GivenValue(NamedTuple):
    """A value that a selected expression must have."""

    name: str
    """The name of the selected expression."""
    text: str
    type: str | None
    """The type in SQL as which the two are compared; None: as texts."""


class _SqlType(UserDefinedType[str]):
    """A type by its name in SQL."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class Predicate:
    """A condition of a flat select, or that a selected expression has a given value."""

    clause: Any
    tables: frozenset[TableRef]
    """The tables that it reads."""
    text: str
    given: GivenValue | None = None
    """The given value; None: it is a condition of the query."""
    links: bool = False
    """Whether it makes expressions of two tables equal."""


def is_equal(expression: Any, value: GivenValue) -> Any:
    """Return the condition that an expression has a given value."""
    text = literal(value.text, Text())
    if value.type is None:
        return cast(expression, Text) == text
    return expression == cast(text, _SqlType(value.type))


def sides(clause: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each column that an equality compares, with the other side."""
    if isinstance(clause, BinaryExpression) and clause.operator is operators.eq:
        for one, other in ((clause.left, clause.right), (clause.right, clause.left)):
            if isinstance(one, ColumnClause):
                yield one, other


def columns_of(predicate: Predicate, table: TableRef) -> Iterator[str]:
    """Yield the names of a table's columns that a predicate makes equal to something."""
    for column, _ in sides(predicate.clause):
        if hash(column.table) == hash(table.element):
            yield column.name


def table_text(table: TableRef) -> str:
    """Return the name of a table, and its alias if it has one; of a subquery, the alias."""
    # As the conditions print it: an alias without a name of its own gets one there.
    alias = condition_text(next(iter(table.element.c))).rpartition(".")[0]
    if isinstance(table.element, Alias):
        return f"{table.table} as {alias}"
    return table.table or alias


def condition_text(clause: Any) -> str:
    """Return a condition as SQL on one line."""
    return " ".join(sql_text(clause).replace("%%", "%").split())


def given_text(expression: Any, value: GivenValue) -> str:
    """Return in words that an expression has a given value."""
    if isinstance(expression, ColumnClause):
        return f"{condition_text(expression)} = '{value.text}'"
    columns = dict.fromkeys(
        condition_text(element)
        for element in visitors.iterate(expression)
        if isinstance(element, ColumnClause) and element.table is not None
    )
    computed = f" (computed from {', '.join(columns)})" if columns else ""
    return f"{value.name} = '{value.text}'{computed}"
