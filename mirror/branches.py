"""Branches: what one SELECT of a mapping's query reads, and which values in it are equal.

An occurrence is one appearance of a table in a query, under its own name or an alias. A row of
it takes part in a result row only if every equality that the query demands of both holds, so
columns that are equal wherever a row takes part stand for each other: `users.id` for
`memberships.user_id` where the two are joined on that.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import Select, TableClause
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BooleanClauseList,
    Cast,
    ColumnClause,
    Grouping,
    Label,
    Over,
    TableValuedColumn,
    TextClause,
    TypeCoerce,
)
from sqlalchemy.sql.selectable import (
    CTE,
    Alias,
    AliasedReturnsRows,
    CompoundSelect,
    Join,
    SelectStatementGrouping,
)

from mirror.mapping import Mapping

_CONSTANT = re.compile(r"\s*('[^']*'|[-+.\w]*\d|null|true|false)\s*(::\s*\w+\s*)?", re.IGNORECASE)


class Place(NamedTuple):
    """A column of one occurrence."""

    occurrence: int
    column: str


class Branch:
    """One SELECT of a mapping's query: the query itself, or a part of a union."""

    def __init__(self, mapping: Mapping, select: Select[Any], labels: dict[str, Any]) -> None:
        self.select = select
        self.labels = labels
        """The selected expressions, by the name that the mapping has for them."""
        self._descriptive = {column.name for column in mapping.columns if column.descriptive}
        elements = list(visitors.iterate(select))
        self.selects: list[Select[Any]] = [e for e in elements if isinstance(e, Select)]
        self.tables: dict[int, str] = {}
        """The name of the table behind each occurrence."""
        for element in self.selects:
            for source in element.get_final_froms():
                self._find_tables(source)
        self.opaque = any(map(_hides_columns, elements))
        """Something in it may read columns that cannot be seen."""
        self.entangled = (
            any(map(_entangles, elements))
            or any(_picks_rows(inner) for inner in self.selects if inner is not select)
            or not self._distinct_by_key(mapping)
        )
        """A row of it may matter to rows with which it shares no value."""
        self.reads = self._columns_of(elements)
        self._equal = self._equalities()

    @property
    def only_adds(self) -> bool:
        """Whether a row that is inserted into any of its tables can only add result rows."""
        return (
            len(self.selects) == 1
            and not self.select._group_by_clauses  # noqa: SLF001 - there is no public way
            and not any(
                join.isouter or join.full
                for source in self.select.get_final_froms()
                for join in _joins(source)
            )
        )

    @property
    def combines(self) -> bool:
        """Whether several rows may become one result row."""
        distinct = self.select._distinct or _distinct_on(self.select)  # noqa: SLF001 - likewise
        return bool(distinct) or bool(self.select._group_by_clauses)  # noqa: SLF001 - likewise

    def equals(self, label: str) -> set[Place]:
        """Return the columns that are equal to a selected expression."""
        direct = self.shows(label)
        return direct | {other for place in direct for other in self._equal[place]}

    def shows(self, label: str) -> set[Place]:
        """Return the columns that a selected expression itself is."""
        return _places(self.labels[label])

    def decides(self) -> dict[int, set[str]]:
        """Return by occurrence the columns on which access may depend.

        Those that are read for nothing but columns declared as descriptive are none.
        """
        elements: list[visitors.ExternallyTraversible] = []
        for select in self.selects:
            parts: list[Any] = [*select.get_final_froms(), *_conditions(select)]
            parts += [*select._group_by_clauses, *select._having_criteria]  # noqa: SLF001 - likewise
            if select is self.select:
                parts += [e for name, e in self.labels.items() if name not in self._descriptive]
            else:
                parts += select.selected_columns
            for part in parts:
                elements += visitors.iterate(part)
        return self._columns_of(elements)

    def _distinct_by_key(self, mapping: Mapping) -> bool:
        """Return whether DISTINCT ON, if there is one, chooses among rows of one key only."""
        distinct_on = _distinct_on(self.select)
        chosen = {place for expression in distinct_on for place in _places(expression)}
        return not distinct_on or all(_places(self.labels[name]) & chosen for name in mapping.key)

    def _columns_of(self, elements: list[Any]) -> dict[int, set[str]]:
        found: dict[int, set[str]] = defaultdict(set)
        for element in elements:
            if isinstance(element, ColumnClause) and hash(element.table) in self.tables:
                found[hash(element.table)].add(element.name)
        return found

    def _find_tables(self, source: Any) -> None:
        for part in [source, *_joined(source)]:
            if isinstance(_plain(part), TableClause):
                # What the ORM annotates has the hash of what it stands for.
                self.tables[hash(part)] = table_name(_plain(part))

    def _equalities(self) -> dict[Place, set[Place]]:
        """Return for each column those that equal it, directly or through others."""
        equal: dict[Place, set[Place]] = defaultdict(set)
        for select in self.selects:
            for condition in _conditions(select):
                together = {p for side in _equated(condition) for p in _places(side)}
                for place in tuple(together):
                    together |= equal[place]
                for place in together:
                    equal[place] = together
        return equal


def branches(mapping: Mapping) -> list[Branch]:
    """Return the branches of a mapping's query."""
    names = list(mapping.query.selected_columns.keys())
    return [
        # In a union, it is by their order that columns are put together.
        Branch(mapping, select, dict(zip(names, select.selected_columns, strict=False)))
        for select in _parts(mapping.query)
    ]


def only_unites(query: Any) -> bool:
    """Return whether all branches of a query add up (EXCEPT and INTERSECT take away)."""
    if isinstance(query, SelectStatementGrouping):
        return only_unites(query.element)
    if isinstance(query, CompoundSelect):
        united = str(query.keyword.value).startswith("UNION")
        return united and all(map(only_unites, query.selects))
    return True


def table_name(table: TableClause) -> str:
    """Return a table's name as declarations write it: `trips`, `app.workspaces`."""
    schema = getattr(table, "schema", None)
    return f"{schema}.{table.name}" if schema else str(table.name)


def _parts(query: Any) -> Iterator[Select[Any]]:
    if isinstance(query, SelectStatementGrouping):
        yield from _parts(query.element)
    elif isinstance(query, CompoundSelect):
        for branch in query.selects:
            yield from _parts(branch)
    else:
        yield query


def _places(expression: Any, seen: frozenset[int] = frozenset()) -> set[Place]:
    """Return the tables' columns whose value an expression is, looking through subqueries."""
    while isinstance(expression, Label | Cast | TypeCoerce | Grouping):
        is_cast = isinstance(expression, Cast | TypeCoerce)
        expression = expression.clause if is_cast else expression.element
    if not isinstance(expression, ColumnClause) or id(expression) in seen:
        return set()
    table: Any = expression.table
    if isinstance(_plain(table), TableClause):
        return {Place(hash(table), expression.name)}
    while isinstance(table, AliasedReturnsRows | SelectStatementGrouping):
        table = table.element
    if not isinstance(table, Select | CompoundSelect):
        return set()
    position = list(table.selected_columns.keys()).index(expression.key)
    found: set[Place] = set()
    for part in _parts(table):
        inner = list(part.selected_columns)[position]
        found |= _places(inner, seen | {id(expression)})
    return found


def _equated(condition: Any) -> list[Any]:
    """Return the two expressions that a condition demands to be equal, if it does."""
    if not isinstance(condition, BinaryExpression):
        return []
    right: Any = condition.right
    if condition.operator is operators.in_op:
        while hasattr(right, "element"):
            right = right.element
        if isinstance(right, Select):
            return [condition.left, next(iter(right.selected_columns))]
        return []
    return [condition.left, right] if condition.operator is operators.eq else []


def _conditions(select: Select[Any]) -> Iterator[Any]:
    """Yield what a select demands of every row, in its WHERE and its joins."""
    clauses = [] if select.whereclause is None else [select.whereclause]
    for source in select.get_final_froms():
        clauses += [join.onclause for join in _joins(source) if join.onclause is not None]
    for clause in clauses:
        yield from _conjuncts(clause)


def _conjuncts(clause: Any) -> Iterator[Any]:
    while isinstance(clause, Grouping):
        clause = clause.element
    if isinstance(clause, BooleanClauseList) and clause.operator is operators.and_:
        for part in clause.clauses:
            yield from _conjuncts(part)
    else:
        yield clause


def _joins(source: Any) -> Iterator[Join]:
    if isinstance(source, Join):
        yield source
        yield from _joins(source.left)
        yield from _joins(source.right)


def _joined(source: Any) -> Iterator[Any]:
    for join in _joins(source):
        yield join.left
        yield join.right


def _plain(source: Any) -> Any:
    while isinstance(source, Alias):
        source = source.element
    return source


def _hides_columns(element: Any) -> bool:
    if isinstance(element, ColumnClause) and element.is_literal:
        return not _CONSTANT.fullmatch(element.name)
    if isinstance(element, TextClause):
        return not _CONSTANT.fullmatch(element.text)
    return isinstance(element, TableValuedColumn)


def _entangles(element: Any) -> bool:
    return isinstance(element, Over) or (isinstance(element, CTE) and element.recursive)


def _picks_rows(select: Any) -> bool:
    """Return whether which rows it yields depends on rows that it does not yield."""
    # Nothing public tells any of these.
    limits = (select._limit_clause, select._offset_clause, select._fetch_clause)  # noqa: SLF001
    return bool(_distinct_on(select)) or any(limit is not None for limit in limits)


def _distinct_on(select: Any) -> list[Any]:
    """Return the expressions of DISTINCT ON, which SQLAlchemy 2.1 keeps as an extension."""
    extension = getattr(select, "_pre_columns_clause", None)
    holders = [] if extension is None else visitors.iterate(extension)
    return [
        expression
        for holder in (select, *holders)
        for expression in getattr(holder, "_distinct_on", ())
    ]
