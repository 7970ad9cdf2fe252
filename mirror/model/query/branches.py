"""Branches: what one SELECT of a mapping's query reads, and what its rows can be told by."""

import re
from collections import defaultdict
from typing import Any

from sqlalchemy import Select
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import ColumnClause, Over, TextClause
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import CTE, CompoundSelect, SelectStatementGrouping

from mirror.model.mapping import Mapping
from mirror.model.query.equalities import ColumnRef, column_ref, equalities
from mirror.model.query.select_tree import (
    SelectNode,
    TableRef,
    columns,
    distinct_on,
    parts,
    select_node,
)

_CONSTANT = re.compile(r"\s*('[^']*'|[-+.\w]*\d|null|true|false)\s*(::\s*\w+\s*)?", re.IGNORECASE)
_SEVERAL_GROUPINGS = {"cube", "grouping_sets", "rollup"}


class Branch:
    """One SELECT of a mapping's query: the query itself, or a part of a union.

    An occurrence is one appearance of a table in it.

    Raises:
        Unclear: it is of a shape that is not looked into.
    """

    def __init__(self, mapping: Mapping, select: Select[Any]) -> None:
        self._root = select_node(select)
        self._ties = equalities(self._root)
        self._types = dict(mapping.row_layout)
        # In a union, it is by their order that columns are put together.
        names = list(mapping.query.selected_columns.keys())
        self._labels = dict(zip(names, select.selected_columns, strict=False))
        self._adds_up = _only_unites(mapping.query)
        elements = list(visitors.iterate(select))
        self.occurrences = [
            source
            for scope in self._root.walk()
            for source in scope.sources.values()
            if source.table
        ]
        self.reads: dict[TableRef, set[str]] = defaultdict(set)
        """The columns of each that are read."""
        self.decides: dict[TableRef, set[str]] = defaultdict(set)
        """Those on which access may depend: read for more than columns declared as descriptive."""
        self._read(mapping, names)
        self.opaque = any(map(_hides_columns, elements))
        """Something in it may read columns that cannot be seen."""
        self.entangled = (
            any(map(_entangles, elements))
            # Here and in what unites it with others, a LIMIT picks rows by what others are there.
            or any(map(_limits, [*elements, *visitors.iterate(mapping.query)]))
            or any(distinct_on(s.select) for s in self._root.walk() if s is not self._root)
            or not self._distinct_by_key(mapping)
        )
        """A row of it may matter to rows with which it shares no value."""

    @property
    def only_adds(self) -> bool:
        """Whether a row that is inserted into any of its tables can only add result rows."""
        return (
            self._adds_up
            and not self._root.inner
            and not self.entangled
            and not self._root.select._group_by_clauses  # noqa: SLF001 - there is no public way
            and not distinct_on(self._root.select)
            and not any(source.optional for source in self._root.sources.values())
            # A column that stands alone excludes aggregates; something must.
            and any(self._shown(label) for label in self._labels)
        )

    def counts_each(self, occurrence: TableRef) -> bool:
        """Whether two rows of an occurrence that matter never become, or decide, one result row."""
        select = self._root.select
        combined = (
            select._distinct  # noqa: SLF001 - there is no public way
            or select._group_by_clauses  # noqa: SLF001 - likewise
            or distinct_on(select)
        )
        return not combined and occurrence.scope is self._root

    def appearances(self, occurrence: TableRef) -> int:
        """Return how often the table of an occurrence appears."""
        return [other.table for other in self.occurrences].count(occurrence.table)

    def own(self, label: str, occurrence: TableRef) -> bool:
        """Return whether a selected expression is itself a column of the occurrence."""
        shown = self._shown(label)
        return shown is not None and shown.source is occurrence

    def tied(self, label: str, occurrence: TableRef, *, is_key: bool) -> str | None:
        """Return the column by which each row that matters tells a selected value, if there is one.

        The value of each result row that the row is in, or that it keeps away. A result row
        whose key is NULL is none.
        """
        shown = self._shown(label)
        if shown is None:
            return None
        # A row that completes a LEFT JOIN also replaces a result row that had NULL there.
        if not is_key and shown.source.optional and shown.source in occurrence.around():
            return None
        if shown.source is occurrence:
            return shown.column
        told = (
            column_ref.column
            for column_ref in self._equals(shown, occurrence)
            if column_ref.source is occurrence and self._spells(column_ref, label)
        )
        return min(told, default=None)

    def never_null(self, label: str, occurrence: TableRef) -> bool:
        """Return whether no row that matters has NULL where it tells a selected value."""
        shown = self._shown(label)
        equals = set() if shown is None else self._equals(shown, occurrence)
        return any(column_ref.column in column_ref.source.required for column_ref in equals) or any(
            tie.strict and equals & tie.places for tie in self._ties if tie.holds(occurrence)
        )

    def _shown(self, label: str) -> ColumnRef | None:
        """Return the place that a selected expression itself is."""
        found = column_ref(self._labels[label], self._root)
        return found if found is not None and self._spells(found, label) else None

    def _spells(self, found: ColumnRef, label: str) -> bool:
        """Return whether the text in a place is, or is made, the canonical one of a value."""
        return found.read_as is None or self._types.get(label) != "text"

    def _equals(self, shown: ColumnRef, occurrence: TableRef) -> set[ColumnRef]:
        """Return what equals a place wherever a row of the occurrence matters."""
        holding = [tie.places for tie in self._ties if tie.holds(occurrence)]
        reached: set[ColumnRef] = set()
        new = {shown}
        while new:
            reached |= new
            new = {
                column_ref for places in holding if places & reached for column_ref in places
            } - reached
        return reached

    def _distinct_by_key(self, mapping: Mapping) -> bool:
        """Return whether DISTINCT ON, if there is one, chooses among rows of one key only."""
        chosen = [
            column_ref(expression, self._root) for expression in distinct_on(self._root.select)
        ]
        shown = [self._shown(name) for name in mapping.key]
        return not chosen or (
            self._adds_up and all(key is not None and key in chosen for key in shown)
        )

    def _read(self, mapping: Mapping, names: list[str]) -> None:
        """Note the columns that it reads."""
        # What EXCEPT compares decides, and what DISTINCT ON may choose by, whatever it is.
        plain = self._adds_up and not distinct_on(self._root.select)
        descriptive = {c.name for c in mapping.columns if c.descriptive and plain}
        for scope in self._root.walk():
            for expression in scope.deciding():
                self._note(expression, scope, decides=True)
            for position, expression in enumerate(scope.select.selected_columns):
                name = names[position] if scope is self._root and position < len(names) else None
                self._note(expression, scope, decides=name not in descriptive)

    def _note(self, expression: Any, scope: SelectNode, *, decides: bool) -> None:
        for column in columns(expression):
            source = scope.source_of(column)
            self.reads[source].add(column.name)
            if decides:
                self.decides[source].add(column.name)


def branches(mapping: Mapping) -> list[Branch]:
    """Return the branches of a mapping's query."""
    return [Branch(mapping, select) for select in parts(mapping.query)]


def _only_unites(query: Any) -> bool:
    """Return whether all branches of a query add up (EXCEPT and INTERSECT take away)."""
    if isinstance(query, SelectStatementGrouping):
        return _only_unites(query.element)
    if isinstance(query, CompoundSelect):
        united = str(query.keyword.value).startswith("UNION")
        return united and all(map(_only_unites, query.selects))
    return True


def _hides_columns(element: Any) -> bool:
    if isinstance(element, ColumnClause) and element.is_literal:
        return not _CONSTANT.fullmatch(element.name)
    return isinstance(element, TextClause) and not _CONSTANT.fullmatch(element.text)


def _entangles(element: Any) -> bool:
    if isinstance(element, FunctionElement):
        # Each yields rows that lack what they are grouped by.
        return str(getattr(element, "name", "")).lower() in _SEVERAL_GROUPINGS
    return isinstance(element, Over) or (isinstance(element, CTE) and element.recursive)


def _limits(select: Any) -> bool:
    """Return whether which rows it yields depends on rows that it does not yield."""
    names = ("_limit_clause", "_offset_clause", "_fetch_clause")
    return any(getattr(select, name, None) is not None for name in names)
