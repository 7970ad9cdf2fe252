"""Queries: what a mapping's query may be, so that events and fences can be relied on.

Two promises hang on it. Equal fences mean equal data: so a query asks nothing but rows, no clock,
no settings, no chance. And a change of any row that a query reads is traced to keys: so each table
holds the key itself, or a reference ties it in.
"""

import re
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Select, TableClause
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import BindParameter, Cast, Label, TextClause, TypeCoerce
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import (
    Alias,
    CompoundSelect,
    Join,
    SelectStatementGrouping,
    TableSample,
)

from mirror.errors import MappingError
from mirror.mapping import Mapping

_UNSTABLE = re.compile(
    r"\b(now|(transaction|statement|clock)_timestamp|timeofday|current_(timestamp|date|time"
    r"|setting|user|role|catalog|schema|schemas)|local(time|timestamp)|session_user|user"
    r"|random|random_normal|setseed|gen_random_uuid|uuidv[47]|uuid_generate_v[14]\w*"
    r"|nextval|next_value|currval|lastval|txid_\w+|pg_\w+|inet_(client|server)_\w+|age|dblink\w*)\b",
    re.IGNORECASE,
)
_QUOTED = re.compile(r'"[^"]*"|\'[^\']*\'')
_SUBQUERY = re.compile(r"\bselect\b", re.IGNORECASE)


def check_query(mapping: Mapping) -> None:
    """Refuse a query that rows alone do not decide, or that does not yield what is declared.

    Raises:
        MappingError: names the mapping, what it found, and the remedy.
    """
    who = f"mapping {mapping.name!r}"
    query: object = mapping.query
    if not isinstance(query, Select | CompoundSelect):
        raise MappingError(
            f"{who}: its query is a {type(query).__name__}; use SQLAlchemy's select() or union()."
        )
    labels = set(mapping.query.selected_columns.keys())
    wanted = [column.name for column in mapping.columns]
    wanted += [reference.name for reference in mapping.all_references]
    for name in wanted:
        if name not in labels:
            raise MappingError(
                f"{who}: its query yields no {name!r}; add that column, or .label({name!r})."
            )
    for element in visitors.iterate(mapping.query):
        _check_element(who, element)
    for clause, name in (("_limit", "LIMIT"), ("_offset", "OFFSET"), ("_fetch", "FETCH")):
        if getattr(mapping.query, f"{clause}_clause", None) is not None:
            raise MappingError(
                f"{who}: its query has {_a(name)}; which rows it yields would be chance. Remove it."
            )
    try:
        _ = mapping.sql
    except (SQLAlchemyError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise MappingError(
            f"{who}: its query cannot be printed as SQL ({reason}); give each value as "
            f"text, cast to its type."
        ) from error


def check_sources(mapping: Mapping) -> None:
    """Refuse a table whose changes could not be traced to keys of this mapping.

    Raises:
        MappingError: names the mapping, the table, and the declaration that is missing.
    """
    declared = {reference.table for reference in mapping.references}
    for select in _selects(mapping.query):
        holding = _tables_that_hold_the_key(mapping, select)
        for table in sorted(_tables(select) - declared - holding):
            raise MappingError(
                f"mapping {mapping.name!r}: its query reads {table!r}, but no reference ties that "
                f"table in, so a change of it would be missed. Declare Reference(<label>, <type>, "
                f"table={table!r}) and select the value that points at it."
            )
        for table in sorted(_read_twice(select) - declared):
            raise MappingError(
                f"mapping {mapping.name!r}: its query reads {table!r} more than once, but the key "
                f"names one of its rows only, so a change of the other would be missed. Declare "
                f"Reference(<label>, <type>, table={table!r}) and select the value that points at "
                f"the other."
            )


def _check_element(who: str, element: visitors.ExternallyTraversible) -> None:
    text = ""
    # CURRENT_TIMESTAMP and its kin have classes of their own; their name is in .name too.
    if isinstance(element, FunctionElement):
        text = str(getattr(element, "name", ""))
    elif isinstance(element, TextClause):
        text = element.text
    elif getattr(element, "is_literal", False):
        text = str(getattr(element, "name", ""))
    found = _UNSTABLE.search(_QUOTED.sub("''", text))
    if found:
        raise MappingError(
            f"{who}: its query asks {found.group(0)}, which rows do not decide; two reads of "
            f"the same data could differ. Mirror the column and compare it in the policy."
        )
    if isinstance(element, BindParameter) and element.required:
        raise MappingError(f"{who}: its query's parameter {element.key!r} has no value; give one.")
    if isinstance(element, TableSample):
        raise MappingError(f"{who}: its query has a TABLESAMPLE; which rows it yields is chance.")
    if _SUBQUERY.search(text) or _reads_text(element):
        raise MappingError(
            f"{who}: its query reads a table inside text(), where it cannot be seen that a change "
            f"of it matters; write that part with table() and select()."
        )
    if isinstance(element, Select | CompoundSelect):
        _check_select(who, element)


def _check_select(who: str, element: Any) -> None:
    if element._for_update_arg is not None:  # noqa: SLF001 - nothing public tells
        raise MappingError(f"{who}: its query locks rows, but reads are read-only; remove it.")
    if element._limit_clause is not None and not element._order_by_clauses:  # noqa: SLF001
        raise MappingError(
            f"{who}: its query has a LIMIT without ORDER BY; which rows it yields would be "
            f"chance. Order by something unique."
        )


def _reads_text(element: object) -> bool:
    return isinstance(element, Select) and any(
        isinstance(source, TextClause) for source in element.get_final_froms()
    )


def _selects(query: Any) -> Iterator[Select[Any]]:
    """Yield the branches of a union, or the one select."""
    if isinstance(query, SelectStatementGrouping):
        yield from _selects(query.element)
    elif isinstance(query, CompoundSelect):
        for branch in query.selects:
            yield from _selects(branch)
    else:
        yield query


def _tables(select: Select[Any]) -> set[str]:
    """Return every table that a select reads, however deep inside."""
    return {
        _table_name(element)
        for element in visitors.iterate(select)
        if isinstance(element, TableClause)
    }


def _read_twice(select: Select[Any]) -> set[str]:
    """Return the tables that a select reads under several names."""
    sources: set[Any] = set()
    for element in visitors.iterate(select):
        if isinstance(element, Select):
            for source in element.get_final_froms():
                sources.update(_named(source))
    names = [_table_name(_plain(source)) for source in sources]
    return {name for name in names if names.count(name) > 1}


def _named(source: Any) -> Iterator[Any]:
    """Yield the tables and aliases of tables in a FROM."""
    if isinstance(source, Join):
        yield from _named(source.left)
        yield from _named(source.right)
    elif isinstance(_plain(source), TableClause):
        yield source


def _plain(source: Any) -> Any:
    while isinstance(source, Alias):
        source = source.element
    return source


def _tables_that_hold_the_key(mapping: Mapping, select: Select[Any]) -> set[str]:
    """Return the tables whose own row shows every key column: their changes name the key."""
    columns: dict[str, Any] = dict(select.selected_columns)
    holders: list[set[str]] = []
    for name in mapping.key:
        column = columns.get(name)
        while isinstance(column, Label | Cast | TypeCoerce):
            column = column.element if isinstance(column, Label) else column.clause
        bases = getattr(column, "base_columns", ())
        tables = [getattr(base, "table", None) for base in bases]
        holders.append({_table_name(table) for table in tables if isinstance(table, TableClause)})
    return set.intersection(*holders)


def _table_name(table: TableClause) -> str:
    schema = getattr(table, "schema", None)
    return f"{schema}.{table.name}" if schema else str(table.name)


def _a(name: str) -> str:
    return f"an {name}" if name[0] in "AEIOU" else f"a {name}"
