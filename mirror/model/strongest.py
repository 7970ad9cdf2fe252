"""Unions: rights that come from several sources, as one query.

Somebody may reach one thing in several ways: as a member of the company, by an invitation to the
workspace. `strongest` keeps one row for each, so that what is taken away at one place leaves what
another still grants.
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
    """Return the query that yields, of all rows of the sources, the strongest of each key.

    As a mapping's query, what changes in a source is traced to the references that it shows, which
    may be columns of the key: declare those by which a source can be told, the narrowest first.

    Args:
        sources: each with the same columns, under the same labels, in the same order.
        key: labels of the mapping's key.
        level: label of the column that holds the level.
        levels: from the weakest to the strongest; a row of any other level is none.
        groups: labels of references that are the same in all rows of one key, whichever source
            they are of: to be found by one of these, not all rows have to be read.
        first: labels by which, ascending, a row is chosen among equally strong ones; what is NULL
            comes last. Should several be left, the rest of the columns decides, so that two reads
            of the same data never differ: each must be of a type that can be sorted.

    Raises:
        MappingError: a label that a source lacks, or other columns than the first has.
    """
    # Not the collections themselves: over those, one iterates by column.
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
    chosen = [rows.c[name] for name in dict.fromkeys((*key, *groups))]
    rank = case({name: rank for rank, name in enumerate(levels)}, value=rows.c[level])
    rest = [name for name in (*first, *labels) if name not in {*key, *groups, level}]
    query = select(*(rows.c[name] for name in labels)).where(rows.c[level].in_(levels))
    return _distinct_on(query, chosen).order_by(
        *chosen, rank.desc(), *(rows.c[name].nulls_last() for name in dict.fromkeys(rest))
    )


def _distinct_on(query: Select[*tuple[Any, ...]], columns: list[Any]) -> Select[*tuple[Any, ...]]:
    # An extension since SQLAlchemy 2.1, which warns of what 2.0 has.
    if hasattr(postgresql, "distinct_on"):
        return query.ext(postgresql.distinct_on(*columns))
    return query.distinct(*columns)
