"""Missing row: finds out why a mapping's query yields no row with some values.

It follows the tables of the query inwards: first those whose columns have the values, such as the
ids of the user and of the resource; then the tables that are joined to these, one at a time, until
both ends meet. The first table without a row is the reason. If each has one, the reason is a
condition that these rows do not satisfy.
"""

from collections.abc import Iterator
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import exists, literal, select
from sqlalchemy.sql.selectable import CompoundSelect

from mirror.diagnostics.explain.flat_select import FlatSelect, bare, drops_rows, flat_selects
from mirror.diagnostics.explain.predicates import GivenValue, is_equal
from mirror.diagnostics.explain.row_search import RowSearch, Stop
from mirror.errors import Permanent
from mirror.model.mapping import Mapping, sql_text
from mirror.model.query.select_tree import UnreadableQuery
from mirror.sync.connections import Database

_Given = MappingABC[int, GivenValue]


@dataclass(frozen=True)
class MissingRowReason:
    """Why one SELECT of a query yields no row with some values."""

    says: str
    """Which table has no such row, or which condition its row does not satisfy."""
    exists: bool = True
    """Whether each table whose columns have the values has a row with them."""
    applies: bool = True
    """False: the SELECT is about other values, whatever its tables contain."""

    def __str__(self) -> str:
        return self.says


def missing_row_reasons(
    database: Database, mapping: Mapping, values: MappingABC[str, str]
) -> list[MissingRowReason]:
    """Return why the mapping's query yields no row with these values, for each SELECT in it.

    `values` are texts by column: a key, or others that identify a row. The result is empty if the
    query has a form that is not analysed, or if the primary refuses to run its conditions.
    """
    names = list(mapping.query.selected_columns.keys())
    types = {column.name: column.type for column in mapping.columns}
    given = {
        names.index(name): GivenValue(name, text, types[name]) for name, text in values.items()
    }
    for dissolve in (True, False):
        try:
            reasons = list(_reasons(database, mapping.query, given, dissolve=dissolve))
        except UnreadableQuery:
            break
        except Permanent:
            # Some conditions of a dissolved subquery, an aggregate for example, are none on rows.
            continue
        fitting = [reason for reason in reasons if reason.applies] or reasons[:1]
        return list(dict.fromkeys(fitting))
    return []


def _reasons(
    database: Database, query: Any, given: _Given, *, dissolve: bool
) -> Iterator[MissingRowReason]:
    """Yield why a query yields no row with the given values, for each SELECT in it."""
    query = bare(query)
    if not isinstance(query, CompoundSelect):
        for flat in flat_selects(query, dissolve=dissolve):
            yield from _reasons_of_flat(database, query, flat, given, dissolve=dissolve)
        return
    members = list(query.selects)
    keyword = str(query.keyword.value).split()[0]
    if keyword != "UNION":
        # Of an EXCEPT, only the first member has to have the row.
        needed = members if keyword == "INTERSECT" else members[:1]
        members = [one for one in needed if not _yields(database, one, given)]
    if not members:
        yield MissingRowReason(f"{keyword} of the query drops the row")
    for member in members:
        yield from _reasons(database, member, given, dissolve=dissolve)


def _reasons_of_flat(
    database: Database, query: Any, flat: FlatSelect, given: _Given, *, dissolve: bool
) -> Iterator[MissingRowReason]:
    """Yield why a flat select yields no row; several if the row is missing in a subquery of it."""
    search = RowSearch(database, flat, given)
    never = search.never_yielded()
    if never:
        says = f"no part of the query yields rows with {' and '.join(never)}"
        yield MissingRowReason(says, applies=False)
        return
    stop = search.stop()
    if not stop.failing and stop.missing is None and not drops_rows(query):
        # The row is there now.
        return
    inner = list(_inside(database, search, stop, dissolve=dissolve))
    yield from inner or [MissingRowReason(str(stop), exists=stop.exists)]


def _inside(
    database: Database, search: RowSearch, stop: Stop, *, dissolve: bool
) -> Iterator[MissingRowReason]:
    """Yield why a subquery yields no row, if that is what a search stopped at."""
    if stop.missing is None or stop.missing.table:
        return
    for reason in _reasons(
        database, stop.missing.element, search.values_in(stop), dissolve=dissolve
    ):
        yield replace(reason, exists=reason.exists or stop.exists)


def _yields(database: Database, query: Any, given: _Given) -> bool:
    """Return whether a query yields a row with the given values."""
    rows = bare(query).subquery()
    columns = list(rows.c)
    same = (is_equal(columns[position], value) for position, value in given.items())
    found = select(exists(select(literal(1)).select_from(rows).where(*same)))
    return bool(database.execute(sql_text(found), ())[0][0])
