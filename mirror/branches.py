"""Branches: what one SELECT of a mapping's query reads, and which values in it are equal.

An occurrence is one appearance of a table in a query: the same table in two subqueries is two. A
row of it matters to a result row only if certain equalities hold, and columns that are equal
wherever it matters stand for each other: `users.id` for `memberships.user_id` where the two are
joined on that. Which equalities hold depends on whose row it is: what an EXISTS demands holds
for the rows inside it, what an outer join demands for those of the side that may be missing.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Select, TableClause, types
from sqlalchemy.dialects.postgresql import CITEXT
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BooleanClauseList,
    Cast,
    ColumnClause,
    Grouping,
    Label,
    Null,
    Over,
    TableValuedColumn,
    TextClause,
    TypeCoerce,
)
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import (
    CTE,
    Alias,
    AliasedReturnsRows,
    CompoundSelect,
    FromClause,
    Join,
    Lateral,
    SelectStatementGrouping,
)

from mirror.errors import MappingError
from mirror.mapping import Mapping

_CONSTANT = re.compile(r"\s*('[^']*'|[-+.\w]*\d|null|true|false)\s*(::\s*\w+\s*)?", re.IGNORECASE)
# True of no NULL.
_STRICT = {
    operators.eq,
    operators.ne,
    operators.lt,
    operators.le,
    operators.gt,
    operators.ge,
    operators.in_op,
    operators.is_not,
}
_SEVERAL_GROUPINGS = {"cube", "grouping_sets", "rollup"}


class Place(NamedTuple):
    """A column of one thing that a FROM names: of an occurrence, or of a subquery."""

    source: int
    column: str


_Side = frozenset[int]
"""What one side of an outer join names."""


@dataclass
class _Source:
    """One thing that a FROM names."""

    number: int
    scope: "_Scope"
    optional: tuple[_Side, ...] = ()
    """The sides of outer joins that it is in, each of which may be missing as a whole."""
    around: frozenset[int] = frozenset()
    """It, the subqueries it is in, and the sides of outer joins on whose conditions it acts."""


@dataclass
class _Scope:
    """One SELECT, where it stands."""

    parent: "_Scope | None"
    select: Select[Any]
    around: frozenset[int]
    visible: frozenset[int] = frozenset()
    """What it names and what all around it name, for correlation; by hash."""
    named: frozenset[int] = frozenset()
    """What it names, joins included, by hash."""
    sources: dict[int, _Source] = field(default_factory=dict)
    """By the hash of what SQLAlchemy calls it."""
    derived: dict[int, "_Scope"] = field(default_factory=dict)
    """By a source's number, the SELECT that it is; none for a union."""

    def path(self) -> "Iterator[_Scope]":
        """Yield it and all that it is in."""
        scope: _Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent


@dataclass(frozen=True)
class _Demand:
    """A condition that a SELECT, or one of its joins, demands."""

    clause: Any
    within: tuple[_Side, ...] = ()
    """It holds where none of these sides is missing."""
    acts_on: frozenset[int] = frozenset()
    """What may be missing because of it."""
    holds: bool = True
    """It does so for all rows of those sides (a FULL JOIN also yields the others)."""


@dataclass(frozen=True)
class _Tie:
    """Two places that are equal, for whom this holds."""

    scope: _Scope
    """For what is in this SELECT, or is read beside it as a whole."""
    places: tuple[Place, ...]
    within: tuple[_Side, ...]
    """For what is in each of these sides only."""
    strict: bool = True
    """It demands that they are not NULL."""
    without: tuple[_Side, ...] = ()
    """For nothing in these sides."""
    loose: bool = False
    """Equal as values, though their texts may differ."""


class Branch:
    """One SELECT of a mapping's query: the query itself, or a part of a union."""

    def __init__(self, mapping: Mapping, select: Select[Any], labels: dict[str, Any]) -> None:
        self.select = select
        self.labels = labels
        """The selected expressions, by the name that the mapping has for them."""
        self._adds_up = only_unites(mapping.query)
        self._types = dict(mapping.row_layout)
        # What EXCEPT compares decides, and what DISTINCT ON may choose by, whatever it is.
        plain = self._adds_up and not _distinct_on(select)
        self._descriptive = {c.name for c in mapping.columns if c.descriptive and plain}
        elements = list(visitors.iterate(select))
        self.tables: dict[int, str] = {}
        """The name of the table behind each occurrence."""
        self.reads: dict[int, set[str]] = defaultdict(set)
        """By occurrence, the columns that are read."""
        self.decides: dict[int, set[str]] = defaultdict(set)
        """Those on which access may depend: read for more than columns declared as descriptive."""
        self._sources: dict[int, _Source] = {}
        self._ties: list[_Tie] = []
        self._mentions: list[tuple[tuple[_Side, ...], set[int]]] = []
        self._required: set[Place] = set()
        self._lost = False
        self._touched: set[int] = set()
        self._root = self._visit(select, None, frozenset())
        self._nested = any(isinstance(e, Select) and e is not select for e in elements)
        self.opaque = self._lost or any(map(_hides_columns, elements))
        """Something in it may read columns that cannot be seen."""
        self.entangled = (
            self._lost
            or any(map(_entangles, elements))
            or any(map(_limits, [*elements, *visitors.iterate(mapping.query)]))
            or any(_distinct_on(e) for e in elements if isinstance(e, Select) and e is not select)
            or not self._distinct_by_key(mapping)
        )
        """A row of it may matter to rows with which it shares no value."""

    @property
    def only_adds(self) -> bool:
        """Whether a row that is inserted into any of its tables can only add result rows."""
        return (
            not self._nested
            and not self.entangled
            and not self.select._group_by_clauses  # noqa: SLF001 - there is no public way
            and not _distinct_on(self.select)
            # A column that stands alone excludes aggregates; something must.
            and any(self._shown(label) for label in self.labels)
            and not any(
                join.isouter or join.full
                for source in self.select.get_final_froms()
                for join in _joins(source)
            )
        )

    def counts_each(self, occurrence: int) -> bool:
        """Whether two rows of an occurrence that matter never become, or decide, one result row."""
        combined = (
            self.select._distinct  # noqa: SLF001 - there is no public way
            or _distinct_on(self.select)
            or self.select._group_by_clauses  # noqa: SLF001 - likewise
        )
        return not combined and self._sources[occurrence].scope is self._root

    def own(self, label: str, occurrence: int) -> bool:
        """Return whether a selected expression is itself a column of the occurrence."""
        return any(place.source == occurrence for place in self._shown(label))

    def tied(self, label: str, occurrence: int, *, is_key: bool) -> str | None:
        """Return the column by which each row that matters tells a selected value, if there is one.

        The value of each result row that the row is in, or that it keeps away. A result row
        whose key is NULL is none.
        """
        start = self._shown(label)
        if not is_key:
            start = {p for p in start if not self._may_be_missed(p, occurrence)}
        reached = self._reached(label, start, occurrence)
        columns = {place.column for place in reached if place.source == occurrence}
        shown = {place.column for place in start if place.source == occurrence}
        return min(shown or columns, default=None)

    def never_null(self, label: str, occurrence: int) -> bool:
        """Return whether no row that matters has NULL where it tells a selected value."""
        reached = self._reached(label, self._shown(label), occurrence)
        if reached & self._required:
            return True
        return any(
            tie.strict and reached & set(tie.places)
            for tie in self._ties
            if self._holds(tie, occurrence)
        )

    def _reached(self, label: str, start: set[Place], occurrence: int) -> set[Place]:
        """Return what equals any of `start` wherever a row of the occurrence matters."""
        exact = self._types.get(label) == "text"
        ties = [t for t in self._ties if self._holds(t, occurrence) and not (exact and t.loose)]
        reached: set[Place] = set()
        new = set(start)
        while new:
            reached |= new
            new = {p for tie in ties if reached & set(tie.places) for p in tie.places} - reached
        return reached

    def _holds(self, tie: _Tie, occurrence: int) -> bool:
        source = self._sources[occurrence]
        return (
            all(side & source.around for side in tie.within)
            and not any(side & source.around for side in tie.without)
            and self._beside(source, tie.scope)
        )

    def _beside(self, source: _Source, scope: _Scope) -> bool:
        """Return whether a row of `source` matters only together with rows of `scope`."""
        if any(scope is around for around in source.scope.path()):
            return True
        # A subquery in a FROM of those, unless it yields a row where there is none.
        parent = scope.parent
        return (
            parent is not None
            and any(
                inner is scope and all(s & source.around for s in self._sources[number].optional)
                for number, inner in parent.derived.items()
            )
            and not _aggregates(scope.select)
            and self._beside(source, parent)
        )

    def _may_be_missed(self, place: Place, occurrence: int) -> bool:
        """Return whether a row may matter to result rows that have NULL instead of `place`.

        Where it completes an outer join, it replaces a result row that had NULL there. Nobody is
        missed if the one is always a row where the other was.
        """
        around = self._sources[occurrence].around
        sides = [side for side in self._sources[place.source].optional if side & around]
        plain = (
            self._adds_up
            and not self.select._having_criteria  # noqa: SLF001 - there is no public way
            and not _distinct_on(self.select)
        )
        return any(
            not plain
            or any(mentioned & side and side not in within for within, mentioned in self._mentions)
            for side in sides
        )

    def _distinct_by_key(self, mapping: Mapping) -> bool:
        """Return whether DISTINCT ON, if there is one, chooses among rows of one key only."""
        distinct_on = _distinct_on(self.select)
        chosen = {self._place(expression, self._root)[0] for expression in distinct_on}
        return not distinct_on or (
            self._adds_up and all(self._shown(name) & chosen for name in mapping.key)
        )

    # --- finding out

    def _visit(
        self,
        select: Select[Any],
        parent: _Scope | None,
        around: frozenset[int],
        *,
        beside: bool = False,
        recursive: frozenset[str] = frozenset(),
    ) -> _Scope:
        """Take in one SELECT. `beside`: it stands in a FROM, and does not see its neighbours."""
        scope = _Scope(parent, select, around)
        froms = _own_froms(select, parent, beside=beside)
        scope.named = frozenset(hash(part) for source in froms for part in _parts_of(source))
        scope.visible = scope.named | (parent.visible if parent else frozenset())
        leaves = [leaf for source in froms for leaf in _leaves(source)]
        for leaf in leaves:
            self._number(leaf, scope)
        demands = [demand for source in froms for demand in self._demands(source, scope, ())]
        for leaf in leaves:
            self._look_into(leaf, scope, recursive)
        if select.whereclause is not None:
            demands.append(_Demand(select.whereclause))
        for demand in demands:
            self._take(demand, scope)
        picks = bool(_distinct_on(select)) or _limits(select)
        # Nothing public tells any of these.
        for expression in (
            *select._group_by_clauses,  # noqa: SLF001
            *select._having_criteria,  # noqa: SLF001
            *_distinct_on(select),
        ):
            self._read(expression, scope)
        for expression in select._order_by_clauses:  # noqa: SLF001
            self._read(expression, scope, decides=picks)
        names = list(self.labels) if parent is None else []
        for position, expression in enumerate(select.selected_columns):
            descriptive = position < len(names) and names[position] in self._descriptive
            self._read(expression, scope, decides=not descriptive)
        return scope

    def _number(self, leaf: Any, scope: _Scope) -> None:
        """Give one thing that a FROM names its number."""
        number = len(self._sources) + 1
        self._sources[number] = _Source(number, scope, around=scope.around | {number})
        # Twice under one name: whose column is meant cannot be seen.
        self._lost = self._lost or hash(leaf) in scope.sources
        scope.sources[hash(leaf)] = self._sources[number]
        table = _plain(leaf)
        if isinstance(table, TableClause):
            self.tables[number] = table_name(table)
            self._required |= {
                Place(number, column.name)
                for column in table.columns
                if not getattr(column, "nullable", True)
            }

    def _demands(
        self, source: Any, scope: _Scope, optional: tuple[_Side, ...]
    ) -> Iterator[_Demand]:
        """Yield what the joins of a FROM demand; note which sides of them may be missing."""
        if not isinstance(source, Join):
            scope.sources[hash(source)].optional = optional
            return
        left, right = (
            frozenset(scope.sources[hash(leaf)].number for leaf in _leaves(side))
            for side in (source.left, source.right)
        )
        missing = (left, right) if source.full else (right,) if source.isouter else ()
        yield from self._demands(source.left, scope, (*optional, left) if source.full else optional)
        yield from self._demands(source.right, scope, (*optional, right) if missing else optional)
        if source.onclause is not None:
            acts_on: frozenset[int] = frozenset().union(*missing)
            yield _Demand(source.onclause, (*optional, *missing), acts_on, holds=not source.full)

    def _look_into(self, leaf: Any, scope: _Scope, recursive: frozenset[str]) -> None:
        """Take in what a subquery in a FROM reads."""
        source = scope.sources[hash(leaf)]
        inner, beside = leaf, True
        while isinstance(inner, AliasedReturnsRows | SelectStatementGrouping):
            beside = beside and not isinstance(inner, Lateral)
            if isinstance(inner, CTE) and inner.recursive:
                if inner.name in recursive:
                    return
                recursive |= {str(inner.name)}
            inner = inner.element
        if isinstance(inner, TableClause):
            return
        with self._touching(scope, ()):
            if not isinstance(inner, Select | CompoundSelect):
                for child in inner.get_children():
                    self._read(child, scope)
                return
            parts = list(_parts(inner))
            for part in parts:
                found = self._visit(part, scope, source.around, beside=beside, recursive=recursive)
                if len(parts) == 1:
                    scope.derived[source.number] = found
                self._hand_on(list(leaf.c.keys()), source, found)

    def _hand_on(self, names: list[str], source: _Source, inner: _Scope) -> None:
        """Note that a subquery's columns are what it selects."""
        columns = list(inner.select.selected_columns)
        if len(names) != len(columns):
            return
        for name, expression in zip(names, columns, strict=True):
            place, loose = self._place(expression, inner)
            if place is not None:
                self._ties.append(
                    _Tie(
                        inner,
                        (Place(source.number, name), place),
                        within=source.optional,
                        without=self._sources[place.source].optional,
                        strict=False,
                        loose=loose,
                    )
                )

    def _take(self, demand: _Demand, scope: _Scope) -> None:
        """Note what is equal, or not NULL, by a condition."""
        nested: dict[int, list[_Scope]] = defaultdict(list)
        with self._touching(scope, demand.within):
            self._read(demand.clause, scope, acts_on=demand.acts_on, nested=nested)
        for part in _conjuncts(demand.clause) if demand.holds else ():
            if isinstance(part, BinaryExpression):
                self._require(part, demand, scope)
                self._equate(part, demand, scope, nested)

    def _require(self, part: Any, demand: _Demand, scope: _Scope) -> None:
        """Note what is not NULL where a condition holds."""
        is_strict = part.operator is not operators.is_not or isinstance(part.right, Null)
        if part.operator in _STRICT and is_strict:
            for side in (part.left, part.right):
                place, loose = self._place(side, scope)
                if place is not None:
                    self._ties.append(_Tie(scope, (place,), demand.within, loose=loose))

    def _equate(
        self, part: Any, demand: _Demand, scope: _Scope, nested: dict[int, list[_Scope]]
    ) -> None:
        """Note what is equal where a condition holds."""
        where, right = scope, part.right
        if part.operator is operators.in_op:
            while hasattr(right, "element"):
                right = right.element
            # Twice in one condition, it is two.
            if not isinstance(right, Select) or len(nested[id(right)]) != 1:
                return
            (where,) = nested[id(right)]
            right = next(iter(right.selected_columns))
        elif part.operator is not operators.eq:
            return
        left, vague = self._place(part.left, scope)
        other, vague_too = self._place(right, where)
        if left is None or other is None or not _comparable(part.left, right):
            return
        without = self._sources[other.source].optional if where is not scope else ()
        self._ties.append(
            _Tie(where, (left, other), demand.within, without=without, loose=vague or vague_too)
        )

    @contextmanager
    def _touching(self, scope: _Scope, within: tuple[_Side, ...]) -> Iterator[None]:
        """Note what of the whole query's own FROM is mentioned meanwhile."""
        if scope.parent is not None:
            yield
            return
        self._touched = set()
        yield
        self._mentions.append((within, self._touched))
        self._touched = set()

    def _read(
        self,
        expression: Any,
        scope: _Scope,
        *,
        decides: bool = True,
        acts_on: frozenset[int] = frozenset(),
        nested: dict[int, list[_Scope]] | None = None,
    ) -> None:
        """Note the columns that an expression reads, and those of the subqueries in it."""
        todo = [expression]
        while todo:
            element = todo.pop()
            if isinstance(element, Select | CompoundSelect | SelectStatementGrouping):
                for part in _parts(element):
                    found = self._visit(part, scope, scope.around | acts_on)
                    if nested is not None:
                        nested[id(part)].append(found)
            elif isinstance(element, FromClause) and not isinstance(element, FunctionElement):
                self._lost = True  # A row as a value.
            elif isinstance(element, ColumnClause):
                self._read_column(element, scope, decides=decides)
            else:
                todo += element.get_children()

    def _read_column(self, column: Any, scope: _Scope, *, decides: bool) -> None:
        if column.table is None:
            self._lost = self._lost or not column.is_literal
            return
        source = _source_of(column, scope)
        if source is None:
            self._lost = True
            return
        self._touched.add(source.number)
        if source.number in self.tables:
            self.reads[source.number].add(column.name)
            if decides:
                self.decides[source.number].add(column.name)

    def _place(self, expression: Any, scope: _Scope) -> tuple[Place | None, bool]:
        """Return the place whose value an expression is, and whether only loosely so."""
        loose = False
        while isinstance(expression, Label | Cast | TypeCoerce | Grouping):
            if isinstance(expression, Cast):
                kept = _keeps(expression)
                if kept is None:
                    return None, False
                loose = loose or not kept
            is_cast = isinstance(expression, Cast | TypeCoerce)
            expression = expression.clause if is_cast else expression.element
        if not isinstance(expression, ColumnClause) or expression.table is None:
            return None, False
        source = _source_of(expression, scope)
        if source is None or (source.number in self.tables and _family(expression) is None):
            return None, False
        is_table = source.number in self.tables
        return Place(source.number, expression.name if is_table else str(expression.key)), loose

    def _shown(self, label: str) -> set[Place]:
        """Return the place that a selected expression itself is."""
        place, loose = self._place(self.labels[label], self._root)
        return set() if place is None or (loose and self._types.get(label) == "text") else {place}


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
    for part in (schema, table.name):
        if part is not None and "." in part:
            raise MappingError(
                f"a query reads {part!r}: a dot in the name of a table or a schema would be taken "
                f"for the one between them; give the schema as schema=..., or rename it."
            )
    return f"{schema}.{table.name}" if schema else str(table.name)


def _parts(query: Any) -> Iterator[Select[Any]]:
    if isinstance(query, SelectStatementGrouping):
        yield from _parts(query.element)
    elif isinstance(query, CompoundSelect):
        for branch in query.selects:
            yield from _parts(branch)
    else:
        yield query


def _own_froms(select: Any, parent: _Scope | None, *, beside: bool) -> list[Any]:
    """Return what a SELECT names itself; the rest of what it reads is of those around it.

    As SQLAlchemy's compiler decides it, for which there is no public way.
    """
    froms = list(select.get_final_froms())
    if parent is None:
        return froms
    seen = parent.visible - parent.named if beside else parent.visible
    if select._correlate:  # noqa: SLF001
        meant = seen & {hash(source) for source in select._correlate}  # noqa: SLF001
        froms = [source for source in froms if hash(source) not in meant]
    if select._correlate_except is not None:  # noqa: SLF001
        meant = seen - {hash(source) for source in select._correlate_except}  # noqa: SLF001
        froms = [source for source in froms if hash(source) not in meant]
    if select._auto_correlate and not beside and len(froms) > 1:  # noqa: SLF001
        froms = [source for source in froms if hash(source) not in parent.named]
    return froms


def _source_of(column: Any, scope: _Scope) -> _Source | None:
    """Return what a column is of: the innermost of that name."""
    name = hash(column.table)
    return next((s.sources[name] for s in scope.path() if name in s.sources), None)


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


def _leaves(source: Any) -> Iterator[Any]:
    if isinstance(source, Join):
        yield from _leaves(source.left)
        yield from _leaves(source.right)
    else:
        yield source


def _parts_of(source: Any) -> Iterator[Any]:
    yield source
    if isinstance(source, Join):
        yield from _parts_of(source.left)
        yield from _parts_of(source.right)


def _plain(source: Any) -> Any:
    while isinstance(source, Alias):
        source = source.element
    return source


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


def _keeps(cast: Any) -> bool | None:
    """Return whether a cast's text is its argument's; False if only its value; None if neither."""
    before, after = _family(cast.clause), _family(cast)
    if before is None or after is None or getattr(cast.type, "length", None) is not None:
        return None
    if before == after or (after == "text" and before != "unknown"):
        return True
    return False if before in {"text", "unknown"} else None


def _hides_columns(element: Any) -> bool:
    if isinstance(element, ColumnClause) and element.is_literal:
        return not _CONSTANT.fullmatch(element.name)
    if isinstance(element, TextClause):
        return not _CONSTANT.fullmatch(element.text)
    return isinstance(element, TableValuedColumn)


def _entangles(element: Any) -> bool:
    if isinstance(element, FunctionElement):
        # Each yields rows that lack what they are grouped by.
        return str(getattr(element, "name", "")).lower() in _SEVERAL_GROUPINGS
    return isinstance(element, Over) or (isinstance(element, CTE) and element.recursive)


def _limits(select: Any) -> bool:
    """Return whether which rows it yields depends on rows that it does not yield."""
    names = ("_limit_clause", "_offset_clause", "_fetch_clause")
    return any(getattr(select, name, None) is not None for name in names)


def _aggregates(select: Any) -> bool:
    """Return whether it may yield a row where there is none: an aggregate of nothing."""
    return not select._group_by_clauses and (  # noqa: SLF001 - there is no public way
        bool(select._having_criteria)  # noqa: SLF001 - likewise
        or any(
            isinstance(element, FunctionElement)
            for column in select.selected_columns
            for element in visitors.iterate(column)
        )
    )


def _distinct_on(select: Any) -> list[Any]:
    """Return the expressions of DISTINCT ON, which SQLAlchemy 2.1 keeps as an extension."""
    extension = getattr(select, "_pre_columns_clause", None)
    holders = [] if extension is None else visitors.iterate(extension)
    return [
        expression
        for holder in (select, *holders)
        for expression in getattr(holder, "_distinct_on", ())
    ]
