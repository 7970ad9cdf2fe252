"""Row search: looks for rows of a flat select with given values, and stops where there is none."""

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import Select, Text, and_, cast, exists, literal, select, true
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import BinaryExpression
from sqlalchemy.sql.functions import FunctionElement

from mirror.diagnostics.explain.flat_select import FlatSelect
from mirror.diagnostics.explain.predicates import (
    GivenValue,
    Predicate,
    columns_of,
    condition_text,
    given_text,
    is_equal,
    sides,
    table_text,
)
from mirror.model.mapping import sql_text
from mirror.model.query.select_tree import TableRef
from mirror.sync.connections import Database

_UNIQUE_COLUMNS: Final = """
    select array_agg(a.attname::text) from pg_index as i
    join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
    where i.indrelid = to_regclass(%s) and i.indisunique and i.indpred is null
      and i.indexprs is null
    group by i.indexrelid
"""


@dataclass(frozen=True)
class Stop:
    """Where a search stops."""

    found: tuple[TableRef, ...]
    """The tables that have rows up to here."""
    failing: tuple[Predicate, ...]
    """The conditions that no row satisfies; empty: each of the found rows satisfies everything."""
    missing: TableRef | None = None
    """The table without a row that satisfies `failing`. None: the rows exist, and `failing` are
    conditions on them."""
    exists: bool = True
    """False: the missing row is one that only has to have given values."""

    def __str__(self) -> str:
        failing = " and ".join(one.text for one in self.failing)
        names = ", ".join(map(table_text, self.found))
        several = len(self.found) > 1
        found = f"{names} have the rows" if several else f"{names} has the row"
        if self.missing is not None:
            lacks = f"{table_text(self.missing)} has no row{' with ' if failing else ''}{failing}"
            return f"{found}, but {lacks}" if self.found else lacks
        if not failing:
            return f"{found}, but GROUP BY, DISTINCT or LIMIT of the query drops it"
        refused = "they do not satisfy" if several else "it does not satisfy"
        return f"{found}, but {refused} the condition {failing}"


class RowSearch:
    """One search; it runs statements on the primary."""

    def __init__(
        self, database: Database, flat: FlatSelect, given: MappingABC[int, GivenValue]
    ) -> None:
        """`given` has values by the position of the selected expression."""
        self._database = database
        self._unique: dict[str, list[set[str]]] = {}
        grouped = flat.group_by or flat.having
        of_rows: list[tuple[Any, GivenValue]] = []
        of_groups: list[tuple[Any, GivenValue]] = []
        for position, value in given.items():
            expression = flat.selected[position]
            aggregate = grouped and _is_aggregate(expression, flat.group_by)
            (of_groups if aggregate else of_rows).append((expression, value))
        # A given value is not NULL: the right side of a LEFT JOIN that has it must have a row.
        self._flat = flat = flat.requiring([expression for expression, _ in of_rows])
        self._predicates = [
            *(self._compared(*one) for one in of_rows),
            *(self._condition(clause) for clause in flat.conditions),
        ]
        self._of_groups = [
            *(self._compared(*one) for one in of_groups),
            *(self._condition(clause) for clause in flat.having),
        ]

    def never_yielded(self) -> list[str]:
        """Return the given values that no row can have: the SELECT has other constants."""
        return [
            one.text
            for one in self._predicates
            if one.given and not one.tables and not self._has_row((), [one])
        ]

    def stop(self) -> Stop:
        """Follow the tables inwards, and return where there is no row, or no reason to stop."""
        ends: list[list[TableRef]] = []
        for table in self._ends():
            own = self._within([table])
            if not self._has_row([table], own):
                return Stop((), own, table, exists=False)
            ends.append([table])
        stopped = self._follow_links(ends) or self._join_ends(ends)
        if stopped is not None:
            return stopped
        tables = [table for end in ends for table in end]
        for table in self._flat.tables:
            if table not in tables:
                tables.append(table)
                if not self._has_row(tables, self._within(tables)):
                    return Stop(tuple(tables[:-1]), self._about(table, tables), table)
        return self._stop_at_conditions(tables)

    def values_in(self, stop: Stop) -> dict[int, GivenValue]:
        """Return the values that a row of the missing table, a subquery, must have, by position."""
        found = {}
        columns = [hash(column) for column in stop.missing.element.c] if stop.missing else []
        for one in stop.failing:
            for column, other in sides(one.clause):
                if hash(column) not in columns:
                    continue
                position = columns.index(hash(column))
                if one.given is not None:
                    found[position] = one.given._replace(name=column.name)
                elif (text := self._value_of(other, stop.found)) is not None:
                    found[position] = GivenValue(column.name, text, None)
        return found

    def _ends(self) -> Iterator[TableRef]:
        """Yield the tables whose columns alone have given values."""
        for table in dict.fromkeys(
            next(iter(one.tables)) for one in self._predicates if one.given and len(one.tables) == 1
        ):
            if table in self._flat.tables:
                yield table

    def _follow_links(self, ends: list[list[TableRef]]) -> Stop | None:
        """Add to each end the tables that are linked to it alone; stop at one without a row."""
        while (step := self._next_table(ends)) is not None:
            end, table = step
            end.append(table)
            if not self._has_row(end, self._within(end)):
                return Stop(tuple(end[:-1]), self._about(table, end), table)
        return None

    def _next_table(self, ends: list[list[TableRef]]) -> tuple[list[TableRef], TableRef] | None:
        """Return a table that is linked to one end, and that end; None: there is none.

        A table of which the end names one row comes first: only that row can lead on.
        """
        seen = {table for end in ends for table in end}
        found = []
        for end in ends:
            for one in self._predicates:
                new = one.tables - seen
                if one.links and len(new) == 1 and one.tables - new <= set(end):
                    found.append((end, next(iter(new))))
        named = (step for step in found if self._names_row(step[1], [*step[0], step[1]]))
        return next(named, found[0] if found else None)

    def _join_ends(self, ends: list[list[TableRef]]) -> Stop | None:
        """Join the ends until one is left; stop where no row of one belongs to a row of another."""
        while len(ends) > 1:
            first, second = self._linked_pair(ends)
            ends.remove(second)
            between = [
                one
                for one in self._within([*first, *second])
                if one not in self._within(first) and one not in self._within(second)
            ]
            joined = [*first, *second]
            if not self._has_row(joined, self._within(joined)):
                linked = [table for table in joined if any(table in one.tables for one in between)]
                table = min(
                    linked,
                    key=lambda table: self._rank(
                        table, first if table in first else second, between
                    ),
                )
                found = tuple(one for one in joined if one is not table)
                return Stop(found, self._about(table, joined), table)
            first += second
        return None

    def _linked_pair(self, ends: list[list[TableRef]]) -> tuple[list[TableRef], list[TableRef]]:
        for position, first in enumerate(ends):
            for second in ends[position + 1 :]:
                if len(self._within([*first, *second])) > len(self._within(first)) + len(
                    self._within(second)
                ):
                    return first, second
        return ends[0], ends[1]

    def _rank(
        self, table: TableRef, end: Sequence[TableRef], between: Iterable[Predicate]
    ) -> tuple[bool, bool, int]:
        """Return the rank of a table among those at which two ends meet; the lowest lacks the row.

        A row that its own end names by unique columns is there, and so is one to which the other
        end refers by unique columns. Else the missing row is that of which the query selects most.
        """
        linking = {name for one in between for name in columns_of(one, table)}
        return (
            self._names_row(table, end),
            any(columns <= linking for columns in self._unique_columns(table)),
            -sum(table in self._flat.read_by(one) for one in self._flat.selected),
        )

    def _names_row(self, table: TableRef, end: Sequence[TableRef]) -> bool:
        """Return whether the values and links of an end name one row of a table in it."""
        own = {name for one in self._within(end) for name in columns_of(one, table)}
        return any(columns <= own for columns in self._unique_columns(table))

    def _unique_columns(self, table: TableRef) -> list[set[str]]:
        """Return the columns of each unique index of a table; of a subquery, none."""
        if table.table not in self._unique:
            rows = self._database.execute(_UNIQUE_COLUMNS, [table.table]) if table.table else []
            self._unique[table.table] = [set(columns) for (columns,) in rows]
        return self._unique[table.table]

    def _stop_at_conditions(self, tables: Sequence[TableRef]) -> Stop:
        """Return at which conditions, on rows of all tables, the search stops."""
        joined = self._within(tables)
        rest = [one for one in self._predicates if one not in joined]
        failing = [one for one in rest if not self._has_row(tables, [*joined, one])]
        for one in failing:
            for table in self._flat.optional:
                if table in one.tables and not self._has_row(
                    tables, [*joined, *(on := self._on(table))]
                ):
                    return Stop(tuple(tables), tuple(on), table)
        if not failing and not self._has_row(tables, [*joined, *rest]):
            # Only together do they fail: leave out those without which the others fail, too.
            failing = list(rest)
            for one in rest:
                others = [other for other in failing if other is not one]
                if not self._has_row(tables, [*joined, *others]):
                    failing = others
        if not failing:
            groups = self._of_groups
            everything = [*joined, *rest]
            failing = [one for one in groups if not self._has_row(tables, everything, [one])]
            if not failing and groups and not self._has_row(tables, everything, groups):
                failing = groups
        read = frozenset(table for one in failing for table in one.tables)
        found = [one for one in (*tables, *self._flat.optional) if one in read] or tables
        return Stop(tuple(found), tuple(failing))

    def _within(self, tables: Iterable[TableRef]) -> tuple[Predicate, ...]:
        """Return the given values and the links that read only these tables."""
        known = set(tables)
        return tuple(
            one
            for one in self._predicates
            if one.tables
            and one.tables <= known
            and (one.links or (one.given is not None and len(one.tables) == 1))
        )

    def _about(self, table: TableRef, tables: Iterable[TableRef]) -> tuple[Predicate, ...]:
        return tuple(one for one in self._within(tables) if table in one.tables)

    def _on(self, table: TableRef) -> list[Predicate]:
        """Return the conditions of a LEFT JOIN."""
        found = map(self._condition, self._flat.optional[table])
        return [replace(one, tables=one.tables | {table}) for one in found]

    def _condition(self, clause: Any) -> Predicate:
        tables = self._flat.read_by(clause)
        return Predicate(clause, tables, condition_text(clause), links=self._links(clause))

    def _links(self, clause: Any) -> bool:
        if not isinstance(clause, BinaryExpression) or clause.operator is not operators.eq:
            return False
        left, right = self._flat.read_by(clause.left), self._flat.read_by(clause.right)
        known = set(self._flat.tables)
        return bool(left and right and not left & right and left | right <= known)

    def _compared(self, expression: Any, value: GivenValue) -> Predicate:
        text = given_text(expression, value)
        return Predicate(is_equal(expression, value), self._flat.read_by(expression), text, value)

    def _has_row(
        self,
        tables: Iterable[TableRef],
        predicates: Iterable[Predicate],
        of_groups: Iterable[Predicate] = (),
    ) -> bool:
        """Return whether rows of the tables, joined, satisfy the predicates."""
        predicates = list(predicates)
        inner = self._joined(
            select(literal(1)), {*tables}.union(*(one.tables for one in predicates))
        ).where(*(one.clause for one in predicates))
        having = [one.clause for one in of_groups]
        if having:
            inner = inner.group_by(*self._flat.group_by).having(and_(*having))
        return bool(self._run(select(exists(inner)))[0][0])

    def _value_of(self, expression: Any, tables: Iterable[TableRef]) -> str | None:
        """Return an expression of the first row that these tables have; None: it is NULL."""
        tables = list(tables)
        wanted = self._joined(select(cast(expression, Text)), set(tables)).limit(1)
        found = self._run(wanted.where(*(one.clause for one in self._within(tables))))
        return found[0][0] if found else None

    def _joined(self, query: Select[Any], tables: set[TableRef]) -> Select[Any]:
        """Return a query with a FROM of these tables."""
        needed = [one.element for one in self._flat.tables if one in tables]
        optional = [one for one in self._flat.optional if one in tables]
        if not optional:
            return query.select_from(*needed)
        joined = needed[0]
        for element in needed[1:]:
            joined = joined.join(element, true())
        for one in optional:
            joined = joined.outerjoin(one.element, and_(true(), *self._flat.optional[one]))
        return query.select_from(joined)

    def _run(self, query: Select[Any]) -> list[Any]:
        # Parameters, although there are none: `sql_text` doubles each %, and only they undo it.
        return self._database.execute(sql_text(query), ())


def _is_aggregate(expression: Any, group_by: Iterable[Any]) -> bool:
    return any(
        isinstance(element, FunctionElement) for element in visitors.iterate(expression)
    ) and not any(expression.compare(one) for one in group_by)
