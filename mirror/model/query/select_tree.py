"""Scopes: what each SELECT of a query names in its FROM, what it demands, and what is inside it.

SQLAlchemy tells little of this in public, so that private names are read here and nowhere else.
A query of a rare shape raises `UnreadableQuery`: a change of any table that it reads then counts as
a change of the whole mapping. That is always right, only slow.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Select, TableClause
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import BooleanClauseList, ColumnClause, Grouping
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import (
    CTE,
    Alias,
    CompoundSelect,
    FromClause,
    Join,
    SelectStatementGrouping,
    Subquery,
)

from mirror.errors import MappingError


class UnreadableQuery(Exception):
    """Raised for a query of a shape that is not looked into."""


@dataclass(eq=False)
class TableRef:
    """One appearance of a table or a subquery in a FROM: the same table in two places is two."""

    element: Any
    """What SQLAlchemy calls it."""
    scope: "SelectNode"
    table: str = ""
    """The table's name as declarations write it; none if it is a subquery."""
    required: set[str] = field(default_factory=set)
    """The table's columns that are never NULL, as far as it says so."""
    optional: bool = False
    """It is the right side of a LEFT JOIN: where it is missing, its columns are NULL."""

    def around(self) -> Iterator["TableRef"]:
        """Yield it and the subqueries in a FROM that it is in."""
        yield self
        for scope in self.scope.path():
            if scope.source is not None:
                yield scope.source


class WhereCondition(NamedTuple):
    """Something that a SELECT demands of its rows, not made of several by AND."""

    clause: Any
    side: TableRef | None = None
    """What is missing where it does not hold; None: the whole row."""


@dataclass(eq=False)
class SelectNode:
    """One SELECT, where it stands."""

    select: Any
    parent: "SelectNode | None" = None
    """The SELECT that it is in."""
    source: TableRef | None = None
    """The subquery in that one's FROM which it is, or is a part of; None: it is a condition's."""
    named: set[int] = field(default_factory=set)
    """The hashes of what its FROM names, joins included, by which SQLAlchemy knows it again."""
    sources: dict[int, TableRef] = field(default_factory=dict)
    """What its FROM names, by hash."""
    conditions: list[WhereCondition] = field(default_factory=list)
    inner: list["SelectNode"] = field(default_factory=list)
    """The SELECTs in it, each part of a union as one."""

    def path(self) -> Iterator["SelectNode"]:
        """Yield it and all that it is in."""
        yield self
        if self.parent is not None:
            yield from self.parent.path()

    def walk(self) -> Iterator["SelectNode"]:
        """Yield it and all that is in it."""
        yield self
        for scope in self.inner:
            yield from scope.walk()

    def deciding(self) -> Iterator[Any]:
        """Yield the expressions on which it depends which rows it yields."""
        yield from (condition.clause for condition in self.conditions)
        yield from self.select._group_by_clauses  # noqa: SLF001 - there is no public way
        yield from self.select._having_criteria  # noqa: SLF001 - likewise
        yield from distinct_on(self.select)
        yield from self.select._order_by_clauses  # noqa: SLF001 - likewise

    def source_of(self, column: Any) -> TableRef:
        """Return what a column is of: the innermost of that name."""
        name = hash(column.table)
        for scope in self.path():
            if name in scope.sources:
                return scope.sources[name]
        raise UnreadableQuery


def select_node(
    select: Any, parent: SelectNode | None = None, source: TableRef | None = None
) -> SelectNode:
    """Take in a SELECT and all that is in it."""
    scope = SelectNode(select, parent, source)
    for element in _own_froms(scope):
        _take_from(element, scope)
    if select.whereclause is not None:
        scope.conditions += map(WhereCondition, _conjuncts(select.whereclause))
    for expression in (*scope.deciding(), *select.selected_columns):
        for query in subqueries(expression):
            scope.inner += [select_node(part, scope) for part in parts(query)]
    return scope


def parts(query: Any) -> Iterator[Any]:
    """Yield the SELECTs that a union (an EXCEPT, an INTERSECT) is made of."""
    if isinstance(query, SelectStatementGrouping):
        yield from parts(query.element)
    elif isinstance(query, CompoundSelect):
        for part in query.selects:
            yield from parts(part)
    else:
        yield query


def elements(expression: Any) -> Iterator[Any]:
    """Yield what an expression is made of, and each subquery in it as a whole."""
    yield expression
    if not isinstance(expression, Select | CompoundSelect):
        for child in expression.get_children():
            yield from elements(child)


def subqueries(expression: Any) -> Iterator[Any]:
    """Yield the subqueries in an expression."""
    for element in elements(expression):
        if isinstance(element, Select | CompoundSelect):
            yield element
        elif isinstance(element, FromClause) and not isinstance(element, FunctionElement):
            raise UnreadableQuery  # A row as a value.


def columns(expression: Any) -> Iterator[Any]:
    """Yield the columns that an expression reads outside of its subqueries."""
    for element in elements(expression):
        if isinstance(element, ColumnClause) and not element.is_literal:
            yield element


def table_name(table: TableClause) -> str:
    """Return a table's name as declarations write it: `trips`, `app.workspaces`."""
    schema = getattr(table, "schema", None)
    for part in (schema, table.name):
        if part is not None and "." in part:
            raise MappingError(
                f"a query reads {part!r}: a dot in the name of a table or a schema would be taken "
                f"for the one between them; give the schema as schema=..., or rename it."
            )
    return f"{schema}.{table.name}" if schema else str(table.name)


def distinct_on(select: Any) -> list[Any]:
    """Return the expressions of DISTINCT ON, which SQLAlchemy 2.1 keeps as an extension."""
    extension = getattr(select, "_pre_columns_clause", None)
    holders = [] if extension is None else visitors.iterate(extension)
    return [
        expression
        for holder in (select, *holders)
        for expression in getattr(holder, "_distinct_on", ())
    ]


def _own_froms(scope: SelectNode) -> list[Any]:
    """Return what a SELECT names itself; the rest of what it reads is of those around it.

    As SQLAlchemy's compiler decides it.
    """
    select, parent = scope.select, scope.parent
    froms: list[Any] = list(select.get_final_froms())
    outer = set(map(hash, select._correlate))  # noqa: SLF001 - there is no public way
    if select._correlate_except is not None or (outer and scope.source):  # noqa: SLF001 - likewise
        raise UnreadableQuery
    if parent is not None and scope.source is None:
        outer &= set().union(*(around.named for around in parent.path()))
        if select._auto_correlate and len(froms) > 1:  # noqa: SLF001 - likewise
            outer = parent.named
        return [element for element in froms if hash(element) not in outer]
    return froms


def _take_from(element: Any, scope: SelectNode) -> None:
    """Note what a FROM names, and what its joins demand."""
    scope.named.add(hash(element))
    if not isinstance(element, Join):
        _name(element, scope)
        return
    _take_from(element.left, scope)
    _take_from(element.right, scope)
    side = None
    if element.isouter:
        side = scope.sources[hash(element.right)]
        side.optional = True
    if element.full or (element.isouter and list(subqueries(element.onclause))):
        raise UnreadableQuery
    scope.conditions += [WhereCondition(clause, side) for clause in _conjuncts(element.onclause)]


def _name(element: Any, scope: SelectNode) -> None:
    """Note one thing that a FROM names, and what is in it."""
    inner = element
    while isinstance(inner, Alias | Subquery | CTE | SelectStatementGrouping):
        inner = inner.element
    # Twice under one name, it cannot be seen whose column is meant.
    if hash(element) in scope.sources:
        raise UnreadableQuery
    source = scope.sources[hash(element)] = TableRef(element, scope)
    if isinstance(inner, TableClause):
        source.table = table_name(inner)
        source.required = {c.name for c in inner.columns if not getattr(c, "nullable", True)}
    elif isinstance(inner, Select | CompoundSelect):
        scope.inner += [select_node(part, scope, source) for part in parts(inner)]
    else:
        raise UnreadableQuery


def _conjuncts(clause: Any) -> Iterator[Any]:
    while isinstance(clause, Grouping):
        clause = clause.element
    if isinstance(clause, BooleanClauseList) and clause.operator is operators.and_:
        for part in clause.clauses:
            yield from _conjuncts(part)
    else:
        yield clause
