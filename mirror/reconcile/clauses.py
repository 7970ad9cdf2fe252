"""Clauses: pieces of the SQL in which the primary is asked about ranges of keys.

They speak of `q`, the mapping's query.
"""

from typing import Any, Final

from psycopg import sql

from mirror.model.keys import Key, KeyColumn
from mirror.model.mapping import Mapping
from mirror.schema.compare_functions import MD5_HASH, RECORD_HASH
from mirror.sync.targets.reading import Hashing, KeyRange

_LOWEST: Final = {
    "uuid": "00000000-0000-0000-0000-000000000000",
    "text": "",
    "smallint": str(-(1 << 15)),
    "integer": str(-(1 << 31)),
    "bigint": str(-(1 << 63)),
}


def lowest(mapping: Mapping) -> Key:
    """Return the key before which there is none."""
    return tuple(_LOWEST[column.type] for column in mapping.key_columns)


def typed(name: str, kind: str) -> sql.Composed:
    """Return a value as text of the type that the target has."""
    return sql.SQL("q.{}::{}::text").format(sql.Identifier(name), sql.SQL(kind))


def keys(mapping: Mapping) -> list[sql.Composed]:
    """Return the key's values."""
    return [typed(column.name, column.type) for column in mapping.key_columns]


def row(mapping: Mapping) -> sql.Composed:
    """Return the row that is hashed."""
    texts = [
        sql.SQL('{} collate "C"').format(typed(name, kind)) for name, kind in mapping.row_layout
    ]
    return sql.SQL("row({})").format(sql.SQL(", ").join(texts))


def picked(mapping: Mapping, template: str, number: int) -> sql.Composed:
    """Return a template filled for each of the columns k0, k1, … and a number."""
    return sql.SQL(", ").join(
        sql.SQL(template).format(sql.Identifier(f"k{i}"), sql.Literal(number))
        for i in range(len(mapping.key))
    )


def hashed(hashing: Hashing, row: sql.Composable) -> sql.Composed:
    """Return a row's hash."""
    template = MD5_HASH if hashing.md5 else RECORD_HASH
    return sql.SQL(template).format(seed=sql.SQL(f"({hashing.seed})::bigint"), row=row)


def ordered(column: KeyColumn) -> sql.Composed:
    """Return a key column as both sides order it."""
    text = 'q.{} collate "C"' if column.type == "text" else "q.{}"
    return sql.SQL(text).format(sql.Identifier(column.name))


def order(mapping: Mapping, direction: str = "") -> sql.Composed:
    """Return the key in its order."""
    return sql.SQL(", ").join(
        ordered(column) + sql.SQL(direction) for column in mapping.key_columns
    )


def within_range(mapping: Mapping, within: KeyRange) -> tuple[sql.Composed, list[Any]]:
    """Return the condition that a key lies in a range, and its parameters."""
    conditions = []
    parameters: list[Any] = []
    first = mapping.key_columns[0]
    for key, operator in ((within.start, ">="), (within.end, "<")):
        if key is None:
            continue
        bound = sql.SQL(", ").join(
            sql.SQL("%s::text::{}").format(sql.SQL(column.type)) for column in mapping.key_columns
        )
        condition = sql.SQL("({}) " + operator + " ({})").format(order(mapping), bound)
        conditions.append(condition)
        parameters += key
        if len(key) > 1:
            # Says no more, but only single columns tell the planner how few rows lie between.
            conditions.append(
                sql.SQL("{} " + operator[0] + "= %s::text::{}").format(
                    ordered(first), sql.SQL(first.type)
                )
            )
            parameters.append(key[0])
    return sql.SQL(" and ").join(conditions), parameters
