"""Strongest: builds one query for rights that come from several sources.

A user may have access to one resource from several sources, for example as a member of the company
and by an invitation to the workspace. `strongest` keeps the strongest right for each key; when one
source revokes its right, the rights from the others remain.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, case, select, union_all
from sqlalchemy.dialects import postgresql

from mirror.errors import MappingError


def strongest(
    *sources: Select[*tuple[Any, ...]],
    key: Sequence[str],
    level: str,
    levels: Sequence[str],
    groups: Sequence[str] = (),
    first: Sequence[str] = (),
) -> Select[*tuple[Any, ...]]:
    """Return the query that yields the strongest row of each key among all rows of the sources.

    If it is a mapping's query, a changed row of a source is recorded as a scope: all keys under
    the value of one reference, which the source must select. So declare references until each
    source selects one, the narrowest first. A column of the key may be a reference.

    Args:
        sources: all with the same columns, under the same labels, in the same order.
        key: labels of the mapping's key.
        level: label of the column that holds the level.
        levels: from the weakest to the strongest; rows with another level are ignored.
        groups: labels of references that have one value in all rows of a key, from all sources.
            A query for one value of these references then reads only the rows with that value.
        first: labels that choose among equally strong rows: the smallest value wins, NULL comes
            last. If several rows remain, the other columns decide in the same way, so that two
            reads of the same data are equal. Therefore each column must be of a sortable type.

    Raises:
        MappingError: a source lacks a label, its columns differ from those of the first, or
            `levels` is empty or repeats a level.
    """
    # A column collection iterates over columns; the labels are its keys.
    found = [list(map(str, source.selected_columns.keys())) for source in sources]
    labels = found[0] if found else []
    for number, others in enumerate(found, 1):
        if others != labels:
            raise MappingError(
                f"strongest: source {number} yields other columns than the first, or in another "
                f"order; give all of them {', '.join(labels)}."
            )
    for name in (*key, level, *groups, *first):
        if name not in labels:
            raise MappingError(f"strongest: no source yields {name!r}; add that column.")
    if not levels or len(set(levels)) != len(levels):
        raise MappingError("strongest: name each level once, from the weakest to the strongest.")
    rows = union_all(*sources).subquery("source")
    distinct = [rows.c[name] for name in dict.fromkeys((*key, *groups))]
    rank = case({name: rank for rank, name in enumerate(levels)}, value=rows.c[level])
    rest = [name for name in (*first, *labels) if name not in {*key, *groups, level}]
    query = select(*(rows.c[name] for name in labels)).where(rows.c[level].in_(levels))
    return _distinct_on(query, distinct).order_by(
        *distinct, rank.desc(), *(rows.c[name].nulls_last() for name in dict.fromkeys(rest))
    )


def _distinct_on(query: Select[*tuple[Any, ...]], columns: list[Any]) -> Select[*tuple[Any, ...]]:
    # SQLAlchemy 2.1 has it as an extension, and deprecates the method of 2.0.
    if hasattr(postgresql, "distinct_on"):
        return query.ext(postgresql.distinct_on(*columns))
    return query.distinct(*columns)
