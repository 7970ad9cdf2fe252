"""Queries that PostgreSQL merges into an outer join, so that it can use the tables' indexes."""

from typing import Any

import pytest
from sqlalchemy import (
    column,
    distinct,
    exists,
    func,
    literal_column,
    select,
    table,
    text,
    union_all,
)
from sqlalchemy.dialects.postgresql import distinct_on

from mirror.model.query.validate import is_pulled_up

_a = table("a", column("id"), column("x"))
_b = table("b", column("id"), column("a_id"))
_plain = select(_a.c.id, _a.c.x)


@pytest.mark.parametrize(
    "query",
    [
        _plain.where(_a.c.x.is_(None)),
        _plain.join(_b, _b.c.a_id == _a.c.id),
        _plain.outerjoin(_b, _b.c.a_id == _a.c.id),
        _plain.where(exists().where(_b.c.a_id == _a.c.id)),
        select(_plain.subquery()),
        select(_a.alias()),
    ],
)
def test_plain_queries_are_merged(query: Any) -> None:
    """Joins, conditions and subqueries that select only columns."""
    assert is_pulled_up(query)


@pytest.mark.parametrize(
    "query",
    [
        _plain.distinct(),
        _plain.ext(distinct_on(_a.c.id)),
        _plain.group_by(_a.c.id, _a.c.x),
        select(func.max(_a.c.id)),
        select(_a.c.id, func.row_number().over(order_by=_a.c.x)),
        select(distinct(_a.c.id)),
        union_all(_plain, _plain),
        select(union_all(_plain, _plain).subquery()),
        select(_plain.distinct().subquery()),
        select(_plain.cte()),
        select(_a.c.id, literal_column("count(*)")),
        select(_a.c.id, text("count(*)")),
        select(_a.c.id).having(_a.c.x.is_(None)),
    ],
)
def test_queries_that_group_or_number_rows_are_not_merged(query: Any) -> None:
    """Nor are queries with text, which may hide such an expression."""
    assert not is_pulled_up(query)
