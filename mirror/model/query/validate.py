"""Validate: refuses a mapping's query whose result does not depend on rows alone.

A fence orders reads of the primary by the rows that they saw: two reads with equal fences must
return equal data. So a query may not depend on the clock, on settings or on randomness.
"""

import re
from typing import Any

from sqlalchemy import Date, DateTime, Select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import (
    BindParameter,
    ColumnClause,
    Over,
    TextClause,
    UnaryExpression,
)
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.operators import distinct_op
from sqlalchemy.sql.selectable import CTE, CompoundSelect, TableSample

from mirror.errors import MappingError
from mirror.model.mapping import Mapping, SelectQuery
from mirror.model.query.select_tree import distinct_on, parts

# PostgreSQL plans these apart from the query around them, or they may contain such a part.
_BARRIERS = (CompoundSelect, CTE, FunctionElement, Over, TextClause)
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
    """Refuse a query that depends on more than rows, or that lacks a declared column.

    Raises:
        MappingError: names the mapping, the fault and the remedy.
    """
    owner = f"mapping {mapping.name!r}"
    query: object = mapping.query
    if not isinstance(query, Select | CompoundSelect):
        raise MappingError(
            f"{owner}: its query is a {type(query).__name__}; use SQLAlchemy's select() or union()."
        )
    labels = set(mapping.query.selected_columns.keys())
    declared = [column.name for column in mapping.columns]
    declared += [reference.name for reference in mapping.all_references]
    for name in declared:
        if name not in labels:
            raise MappingError(
                f"{owner}: its query yields no {name!r}; add that column, or .label({name!r})."
            )
    _check_zone(mapping)
    for element in visitors.iterate(mapping.query):
        _check_element(owner, element)
    for clause, name in (("_limit", "LIMIT"), ("_offset", "OFFSET"), ("_fetch", "FETCH")):
        if getattr(mapping.query, f"{clause}_clause", None) is not None:
            raise MappingError(
                f"{owner}: its query has {_a(name)}; which rows it yields would be chance. "
                f"Remove it."
            )
    try:
        _ = mapping.sql
    except (SQLAlchemyError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise MappingError(
            f"{owner}: its query cannot be printed as SQL ({reason}); give each value as "
            f"text, cast to its type."
        ) from error


def _check_zone(mapping: Mapping) -> None:
    """Refuse an expiry without a time zone: read as UTC, it could allow a row for hours too long.

    A column whose type SQLAlchemy does not know is left to the doctor.
    """
    if mapping.expires is None:
        return
    place = list(mapping.query.selected_columns.keys()).index(mapping.expires)
    for part in parts(mapping.query):
        kind = list(part.selected_columns)[place].type
        if isinstance(kind, Date) or (isinstance(kind, DateTime) and not kind.timezone):
            raise MappingError(
                f"mapping {mapping.name!r}: its expires, {mapping.expires!r}, is a "
                f"{type(kind).__name__} without a time zone in the query. If the primary's column "
                f"has none, write func.timezone('UTC', column), which is column AT TIME ZONE "
                f"'UTC', with the zone that its times are in; else write DateTime(timezone=True)."
            )


def _check_element(owner: str, element: visitors.ExternallyTraversible) -> None:
    text = ""
    # CURRENT_TIMESTAMP and similar keywords have classes of their own; .name has their name, too.
    if isinstance(element, FunctionElement):
        text = str(getattr(element, "name", ""))
    elif isinstance(element, TextClause):
        text = element.text
    elif getattr(element, "is_literal", False):
        text = str(getattr(element, "name", ""))
    found = _UNSTABLE.search(_QUOTED.sub("''", text))
    if found:
        raise MappingError(
            f"{owner}: its query depends on {found.group(0)}, not on rows alone; two reads of "
            f"the same data could differ. Mirror the column and compare it in the policy."
        )
    if isinstance(element, BindParameter) and element.required:
        raise MappingError(
            f"{owner}: its query's parameter {element.key!r} has no value; give one."
        )
    if isinstance(element, TableSample):
        raise MappingError(f"{owner}: its query has a TABLESAMPLE; which rows it yields is chance.")
    if _SUBQUERY.search(text) or _reads_text(element):
        raise MappingError(
            f"{owner}: its query reads a table inside text(), so changes of that table would be "
            f"missed; write that part with table() and select()."
        )
    if isinstance(element, Select | CompoundSelect):
        _check_select(owner, element)


def _check_select(owner: str, element: Any) -> None:
    if element._for_update_arg is not None:  # noqa: SLF001 - there is no public way
        raise MappingError(f"{owner}: its query locks rows, but reads are read-only; remove that.")
    if element._limit_clause is not None and not element._order_by_clauses:  # noqa: SLF001
        raise MappingError(
            f"{owner}: its query has a LIMIT without ORDER BY; which rows it yields would be "
            f"chance. Order by unique columns."
        )


def _reads_text(element: object) -> bool:
    return isinstance(element, Select) and any(
        isinstance(source, TextClause) for source in element.get_final_froms()
    )


def _a(name: str) -> str:
    return f"an {name}" if name[0] in "AEIOU" else f"a {name}"


def is_pulled_up(query: SelectQuery) -> bool:
    """Return whether PostgreSQL surely merges the query, as a subquery, into the query around it.

    If it does, a join outside can use the indexes of the tables inside. Into a subquery that
    groups, unites or counts, PostgreSQL moves only comparisons with constants.
    """
    return not any(map(_prevents_pull_up, visitors.iterate(query)))


def _prevents_pull_up(element: Any) -> bool:
    if isinstance(element, Select):
        return bool(
            element._group_by_clauses  # noqa: SLF001 - there is no public way
            or element._having_criteria  # noqa: SLF001 - likewise
            or element._distinct  # noqa: SLF001 - likewise
            or distinct_on(element)
        )
    if isinstance(element, ColumnClause):
        return bool(element.is_literal) and element.name != "*"
    if isinstance(element, UnaryExpression):
        return element.operator is distinct_op
    return isinstance(element, _BARRIERS)
