"""Select tree: finds the FROM, the conditions and the nested SELECTs of each SELECT in a query.

SQLAlchemy publishes little of this, so the modules of `mirror.model.query` read private attributes.
A query of a rare shape raises `UnreadableQuery`. A change of any table that it reads then counts as
a change of the whole mapping, which is always correct, only slow.
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
    """Raised for a query of a shape that this library does not analyse."""


@dataclass(eq=False)
class TableRef:
    """One occurrence of a table or a subquery in a FROM; a table can have several occurrences."""

    element: Any
    """SQLAlchemy's object for the occurrence."""
    node: "SelectNode"
    """The SELECT in whose FROM it occurs."""
    table: str = ""
    """The table's name as declarations write it; empty for a subquery."""
    not_null: set[str] = field(default_factory=set)
    """The columns that the table's SQLAlchemy declaration marks as never NULL."""
    optional: bool = False
    """True: it is the right side of a LEFT JOIN, so its columns are NULL where no row matches."""

    def enclosing(self) -> Iterator["TableRef"]:
        """Yield this occurrence, then each subquery in a FROM around it, from the inside out."""
        yield self
        for node in self.node.path_to_root():
            if node.as_table is not None:
                yield node.as_table


class WhereCondition(NamedTuple):
    """One condition on the rows of a SELECT, from WHERE or ON; the operands of AND are separate."""

    clause: Any
    side: TableRef | None = None
    """For the ON of a LEFT JOIN: its right side, whose columns are NULL where the condition is
    false. None: where the condition is false, there is no result row."""


@dataclass(eq=False)
class SelectNode:
    """One SELECT of a query, at its place in the tree."""

    select: Any
    parent: "SelectNode | None" = None
    """The SELECT directly around this one; None: this is the outermost."""
    as_table: TableRef | None = None
    """The subquery in the parent's FROM that is this SELECT, or a union with this SELECT as a
    member. None: this is the outermost SELECT, or it stands in an expression."""
    from_hashes: set[int] = field(default_factory=set)
    """The hashes of its FROM's elements, joins included; SQLAlchemy compares elements by hash."""
    tables: dict[int, TableRef] = field(default_factory=dict)
    """The tables and subqueries of its FROM, by hash."""
    conditions: list[WhereCondition] = field(default_factory=list)
    inner: list["SelectNode"] = field(default_factory=list)
    """The SELECTs directly inside this one; each member of a union is one."""

    def path_to_root(self) -> Iterator["SelectNode"]:
        """Yield this SELECT, then all SELECTs around it, from the inside out."""
        yield self
        if self.parent is not None:
            yield from self.parent.path_to_root()

    def walk(self) -> Iterator["SelectNode"]:
        """Yield this SELECT and all SELECTs inside it."""
        yield self
        for node in self.inner:
            yield from node.walk()

    def deciding_expressions(self) -> Iterator[Any]:
        """Yield the expressions that decide which rows the SELECT returns: all but its columns."""
        yield from (condition.clause for condition in self.conditions)
        yield from self.select._group_by_clauses  # noqa: SLF001 - there is no public way
        yield from self.select._having_criteria  # noqa: SLF001 - likewise
        yield from distinct_on(self.select)
        yield from self.select._order_by_clauses  # noqa: SLF001 - likewise

    def table_of(self, column: Any) -> TableRef:
        """Return the table or subquery to which a column belongs.

        It is looked up in this SELECT's FROM, then in those around it; the first one found counts.

        Raises:
            UnreadableQuery: none of them has it.
        """
        key = hash(column.table)
        for node in self.path_to_root():
            if key in node.tables:
                return node.tables[key]
        raise UnreadableQuery


def select_node(
    select: Any, parent: SelectNode | None = None, as_table: TableRef | None = None
) -> SelectNode:
    """Return the tree of a SELECT and all SELECTs inside it; for arguments, see SelectNode.

    Raises:
        UnreadableQuery: this library does not analyse a query of its shape.
        MappingError: the name of a table or of its schema contains a dot.
    """
    node = SelectNode(select, parent, as_table)
    for element in _own_froms(node):
        _add_from(element, node)
    if select.whereclause is not None:
        node.conditions += map(WhereCondition, _conjuncts(select.whereclause))
    for expression in (*node.deciding_expressions(), *select.selected_columns):
        for query in subqueries(expression):
            node.inner += [select_node(part, node) for part in parts(query)]
    return node


def parts(query: Any) -> Iterator[Any]:
    """Yield the SELECTs of a UNION, EXCEPT or INTERSECT; the query itself if it is a SELECT."""
    if isinstance(query, SelectStatementGrouping):
        yield from parts(query.element)
    elif isinstance(query, CompoundSelect):
        for part in query.selects:
            yield from parts(part)
    else:
        yield query


def elements(expression: Any) -> Iterator[Any]:
    """Yield an expression and all expressions inside it, but none from inside a subquery."""
    yield expression
    if not isinstance(expression, Select | CompoundSelect):
        for child in expression.get_children():
            yield from elements(child)


def subqueries(expression: Any) -> Iterator[Any]:
    """Yield the subqueries in an expression.

    Raises:
        UnreadableQuery: a table stands in the expression, that is, a whole row as a value.
    """
    for element in elements(expression):
        if isinstance(element, Select | CompoundSelect):
            yield element
        elif isinstance(element, FromClause) and not isinstance(element, FunctionElement):
            raise UnreadableQuery  # A row as a value.


def columns(expression: Any) -> Iterator[Any]:
    """Yield the columns that an expression reads, without those of its subqueries."""
    for element in elements(expression):
        if isinstance(element, ColumnClause) and not element.is_literal:
            yield element


def table_name(table: TableClause) -> str:
    """Return a table's name as declarations write it: `trips`, `app.workspaces`.

    Raises:
        MappingError: the name of the table or of its schema contains a dot.
    """
    schema = getattr(table, "schema", None)
    for part in (schema, table.name):
        if part is not None and "." in part:
            raise MappingError(
                f"a query reads {part!r}: a dot in the name of a table or a schema cannot be told "
                f"from the dot between the two; give the schema as schema=..., or rename it."
            )
    return f"{schema}.{table.name}" if schema else str(table.name)


def distinct_on(select: Any) -> list[Any]:
    """Return the expressions of a SELECT's DISTINCT ON; empty if it has none.

    SQLAlchemy 2.1 keeps them in an extension.
    """
    extension = getattr(select, "_pre_columns_clause", None)
    holders = [] if extension is None else visitors.iterate(extension)
    return [
        expression
        for holder in (select, *holders)
        for expression in getattr(holder, "_distinct_on", ())
    ]


def _own_froms(node: SelectNode) -> list[Any]:
    """Return the elements of the FROM that SQLAlchemy prints for a SELECT.

    Elements that refer to an outer SELECT (correlation) are not among them. The rules are those of
    SQLAlchemy's compiler.

    Raises:
        UnreadableQuery: the SELECT uses correlate_except(), or correlate() inside a FROM.
    """
    select, parent = node.select, node.parent
    froms: list[Any] = list(select.get_final_froms())
    outer = set(map(hash, select._correlate))  # noqa: SLF001 - there is no public way
    if select._correlate_except is not None or (outer and node.as_table):  # noqa: SLF001 - likewise
        raise UnreadableQuery
    if parent is not None and node.as_table is None:
        outer &= set().union(*(ancestor.from_hashes for ancestor in parent.path_to_root()))
        if select._auto_correlate and len(froms) > 1:  # noqa: SLF001 - likewise
            outer = parent.from_hashes
        return [element for element in froms if hash(element) not in outer]
    return froms


def _add_from(element: Any, node: SelectNode) -> None:
    """Add an element of a FROM to a node, and the conditions of its joins.

    Raises:
        UnreadableQuery: a FULL JOIN, an outer join with a subquery in its ON, or as `_add_table`.
    """
    node.from_hashes.add(hash(element))
    if not isinstance(element, Join):
        _add_table(element, node)
        return
    _add_from(element.left, node)
    _add_from(element.right, node)
    side = None
    if element.isouter:
        side = node.tables[hash(element.right)]
        side.optional = True
    if element.full or (element.isouter and list(subqueries(element.onclause))):
        raise UnreadableQuery
    node.conditions += [WhereCondition(clause, side) for clause in _conjuncts(element.onclause)]


def _add_table(element: Any, node: SelectNode) -> None:
    """Add a table or a subquery to a node, and the SELECTs that it contains.

    Raises:
        UnreadableQuery: the node already has this element, or it is something else, for example a
            function or a LATERAL.
    """
    inner = element
    while isinstance(inner, Alias | Subquery | CTE | SelectStatementGrouping):
        inner = inner.element
    # A repeated FROM element makes column names ambiguous.
    if hash(element) in node.tables:
        raise UnreadableQuery
    table = node.tables[hash(element)] = TableRef(element, node)
    if isinstance(inner, TableClause):
        table.table = table_name(inner)
        table.not_null = {c.name for c in inner.columns if not getattr(c, "nullable", True)}
    elif isinstance(inner, Select | CompoundSelect):
        node.inner += [select_node(part, node, table) for part in parts(inner)]
    else:
        raise UnreadableQuery


def _conjuncts(clause: Any) -> Iterator[Any]:
    """Yield the operands of an AND, nested ones included; the clause itself if it is no AND."""
    while isinstance(clause, Grouping):
        clause = clause.element
    if isinstance(clause, BooleanClauseList) and clause.operator is operators.and_:
        for part in clause.clauses:
            yield from _conjuncts(part)
    else:
        yield clause
