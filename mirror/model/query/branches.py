"""Branches: the tables that a SELECT of a mapping's query reads, and how they decide its rows."""

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
    """One SELECT of a mapping's query: the query itself, or a member of its union.

    An occurrence is one appearance of a table in the SELECT; a table can have several. A row that
    the SELECT reads through an occurrence matters to a result row if it is part of the result row,
    or can keep it out of the result (by NOT EXISTS, for example).

    Raises:
        UnreadableQuery: this library does not analyse a query of its shape.
    """

    def __init__(self, mapping: Mapping, select: Select[Any]) -> None:
        self._root = select_node(select)
        self._equalities = equalities(self._root)
        self._types = dict(mapping.row_layout)
        # A union matches the columns of its members by position.
        names = list(mapping.query.selected_columns.keys())
        self._labels = dict(zip(names, select.selected_columns, strict=False))
        self._in_plain_union = _only_unions(mapping.query)
        elements = list(visitors.iterate(select))
        self.occurrences = [
            table for node in self._root.walk() for table in node.tables.values() if table.table
        ]
        self.reads: dict[TableRef, set[str]] = defaultdict(set)
        """The columns that the SELECT reads, by the occurrence of their table or subquery."""
        self.decides: dict[TableRef, set[str]] = defaultdict(set)
        """Those of `reads` on which access may depend. Left out are columns that are read only for
        result columns that the mapping declares as `descriptive`."""
        self._note_columns(mapping, names)
        self.opaque = any(map(_hides_columns, elements))
        """True: the SELECT contains literal SQL text, which may read columns unseen."""
        self.relates_rows = (
            any(map(_relates_rows, elements))
            # A LIMIT, here or around the union, chooses rows by which other rows exist.
            or any(map(_has_limit, [*elements, *visitors.iterate(mapping.query)]))
            or any(distinct_on(n.select) for n in self._root.walk() if n is not self._root)
            or not self._distinct_by_key(mapping)
        )
        """True: a row may affect result rows with which it shares no value (LIMIT, windows)."""

    @property
    def insert_only_adds(self) -> bool:
        """Whether a new row in any table of the SELECT can only add result rows, not remove one."""
        return (
            self._in_plain_union
            and not self._root.inner
            and not self.relates_rows
            and not self._root.select._group_by_clauses  # noqa: SLF001 - there is no public way
            and not distinct_on(self._root.select)
            and not any(table.optional for table in self._root.tables.values())
            # A column outside of an aggregate, without GROUP BY, rules out aggregates.
            and any(self._selected_column(label) for label in self._labels)
        )

    def keeps_rows_apart(self, occurrence: TableRef) -> bool:
        """Return whether at most one row of the table at `occurrence` matters to each result row.

        That is so if the table is in the outermost FROM, without DISTINCT or GROUP BY.
        """
        select = self._root.select
        combined = (
            select._distinct  # noqa: SLF001 - there is no public way
            or select._group_by_clauses  # noqa: SLF001 - likewise
            or distinct_on(select)
        )
        return not combined and occurrence.node is self._root

    def occurrence_count(self, occurrence: TableRef) -> int:
        """Return how often the table at `occurrence` occurs in the SELECT, subqueries included."""
        return [other.table for other in self.occurrences].count(occurrence.table)

    def is_own_column(self, label: str, occurrence: TableRef) -> bool:
        """Return whether the value selected as `label` is a column of the table at `occurrence`."""
        selected = self._selected_column(label)
        return selected is not None and selected.table is occurrence

    def column_equal_to(self, label: str, occurrence: TableRef, *, is_key: bool) -> str | None:
        """Return the column of the table at `occurrence` that has the value selected as `label`.

        The two are equal in every result row to which a row of that table, read through
        `occurrence`, matters. None: no column has the value, or it is computed. `is_key`: whether
        the value is part of the mapping's key, where no result row has NULL.
        """
        selected = self._selected_column(label)
        if selected is None:
            return None
        # A row that completes a LEFT JOIN also replaces a result row that had NULL there.
        if not is_key and selected.table.optional and selected.table in occurrence.enclosing():
            return None
        if selected.table is occurrence:
            return selected.column
        equal = (
            other.column
            for other in self._equal_columns(selected, occurrence)
            if other.table is occurrence and self._has_canonical_text(other, label)
        )
        return min(equal, default=None)

    def never_null(self, label: str, occurrence: TableRef) -> bool:
        """Return whether the value selected as `label` is surely not NULL.

        That is, in every result row to which a row read through `occurrence` matters.
        """
        selected = self._selected_column(label)
        equal = set() if selected is None else self._equal_columns(selected, occurrence)
        return any(column.column in column.table.not_null for column in equal) or any(
            equality.not_null and equal & equality.columns
            for equality in self._equalities
            if equality.holds(occurrence)
        )

    def _selected_column(self, label: str) -> ColumnRef | None:
        """Return the column, of a table or subquery in a FROM, that is selected as `label`.

        None if the value is computed, if its type is none that `column_ref` accepts, or if the
        column's text is not the value's canonical text.
        """
        found = column_ref(self._labels[label], self._root)
        return found if found is not None and self._has_canonical_text(found, label) else None

    def _has_canonical_text(self, column: ColumnRef, label: str) -> bool:
        """Return whether the column's text is the only text of the value selected as `label`.

        It is not if the query casts the column from text to uuid or integer, of which one value has
        several spellings, and the mapping declares `label` as text.
        """
        return column.cast_to is None or self._types.get(label) != "text"

    def _equal_columns(self, column: ColumnRef, occurrence: TableRef) -> set[ColumnRef]:
        """Return `column` and all columns that equal it where `occurrence` matters.

        That is, in each result row to which a row read through `occurrence` matters.
        """
        holding = [e.columns for e in self._equalities if e.holds(occurrence)]
        reached: set[ColumnRef] = set()
        new = {column}
        while new:
            reached |= new
            new = {other for equal in holding if equal & reached for other in equal} - reached
        return reached

    def _distinct_by_key(self, mapping: Mapping) -> bool:
        """Return whether DISTINCT ON, if there is one, chooses only among rows with the same key.

        True if there is none.
        """
        distinct = [
            column_ref(expression, self._root) for expression in distinct_on(self._root.select)
        ]
        selected = [self._selected_column(name) for name in mapping.key]
        return not distinct or (
            self._in_plain_union and all(key is not None and key in distinct for key in selected)
        )

    def _note_columns(self, mapping: Mapping, names: list[str]) -> None:
        """Fill `reads` and `decides` with the columns of all expressions in the SELECT."""
        # EXCEPT compares all columns, and DISTINCT ON may choose by any: all of them decide.
        plain = self._in_plain_union and not distinct_on(self._root.select)
        descriptive = {c.name for c in mapping.columns if c.descriptive and plain}
        for node in self._root.walk():
            for expression in node.deciding_expressions():
                self._note(expression, node, decides=True)
            for position, expression in enumerate(node.select.selected_columns):
                name = names[position] if node is self._root and position < len(names) else None
                self._note(expression, node, decides=name not in descriptive)

    def _note(self, expression: Any, node: SelectNode, *, decides: bool) -> None:
        """Add an expression's columns to `reads`; with `decides`, also to that."""
        for column in columns(expression):
            table = node.table_of(column)
            self.reads[table].add(column.name)
            if decides:
                self.decides[table].add(column.name)


def branches(mapping: Mapping) -> list[Branch]:
    """Return one Branch for each SELECT of a mapping's query: several if it is a union."""
    return [Branch(mapping, select) for select in parts(mapping.query)]


def _only_unions(query: Any) -> bool:
    """Return whether the query has no EXCEPT and no INTERSECT, which remove rows."""
    if isinstance(query, SelectStatementGrouping):
        return _only_unions(query.element)
    if isinstance(query, CompoundSelect):
        is_union = str(query.keyword.value).startswith("UNION")
        return is_union and all(map(_only_unions, query.selects))
    return True


def _hides_columns(element: Any) -> bool:
    """Return whether an element of a SELECT is literal SQL text that is more than a constant.

    Such a text may name columns, which SQLAlchemy does not know.
    """
    if isinstance(element, ColumnClause) and element.is_literal:
        return not _CONSTANT.fullmatch(element.name)
    return isinstance(element, TextClause) and not _CONSTANT.fullmatch(element.text)


def _relates_rows(element: Any) -> bool:
    """Return whether an element of a SELECT relates rows that share no value.

    These are windows, recursive CTEs, and CUBE, ROLLUP and GROUPING SETS.
    """
    if isinstance(element, FunctionElement):
        # Each of these groupings returns rows that lack some of the grouping columns.
        return str(getattr(element, "name", "")).lower() in _SEVERAL_GROUPINGS
    return isinstance(element, Over) or (isinstance(element, CTE) and element.recursive)


def _has_limit(select: Any) -> bool:
    names = ("_limit_clause", "_offset_clause", "_fetch_clause")
    return any(getattr(select, name, None) is not None for name in names)
