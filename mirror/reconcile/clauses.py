"""Clauses: SQL fragments for queries on the primary by ranges of keys.

In each fragment, `q` is the alias of the mapping's query in FROM.
"""

from collections.abc import Iterable
from typing import Any, Final

from psycopg import sql

from mirror.model.keys import Key, KeyColumn
from mirror.model.mapping import Mapping
from mirror.sync.targets.reading import Hashing, KeyRange

# Hashes of a row that are equal on every server. The target hashes the same texts in the same way:
# `mirror.row_hash` in migrations/supabase/0001_engine/08_compare.sql.
_RECORD_HASH: Final = "hash_record_extended({row}, {seed})"
_MD5_HASH: Final = "('x' || left(md5({seed}::text || {row}::text), 16))::bit(64)::bigint"

_TYPE_HASHES: Final = {
    "uuid": "uuid_hash_extended({value}, {seed})",
    "text": 'hashtextextended({value} collate "C", {seed})',
    "smallint": "hashint2extended({value}, {seed})",
    "integer": "hashint4extended({value}, {seed})",
    "bigint": "hashint8extended({value}, {seed})",
}

_LOWEST: Final = {
    "uuid": "00000000-0000-0000-0000-000000000000",
    "text": "",
    "smallint": str(-(1 << 15)),
    "integer": str(-(1 << 31)),
    "bigint": str(-(1 << 63)),
}


def lowest_key(mapping: Mapping) -> Key:
    """Return the smallest key that a row of the mapping could have."""
    return tuple(_LOWEST[column.type] for column in mapping.key_columns)


def as_text(name: str, kind: str) -> sql.Composed:
    """Return SQL for column `name` of `q`, cast to the target's type `kind` and then to text."""
    return sql.SQL("q.{}::{}::text").format(sql.Identifier(name), sql.SQL(kind))


def key_texts(mapping: Mapping) -> sql.Composed:
    """Return an SQL list of the mapping's key columns, each as text."""
    return sql.SQL(", ").join(as_text(column.name, column.type) for column in mapping.key_columns)


def row_to_hash(mapping: Mapping) -> sql.Composed:
    """Return the SQL row of all values as text: its hash is compared with the target's."""
    texts = [
        sql.SQL('{} collate "C"').format(as_text(name, kind)) for name, kind in mapping.row_layout
    ]
    return sql.SQL("row({})").format(sql.SQL(", ").join(texts))


def for_key_columns(mapping: Mapping, template: str, number: int) -> sql.Composed:
    """Return an SQL list that has the template once for each key column.

    The template's two placeholders get the column's name (k0, k1, …) and `number`.
    """
    return sql.SQL(", ").join(
        sql.SQL(template).format(sql.Identifier(f"k{i}"), sql.Literal(number))
        for i in range(len(mapping.key))
    )


def row_hash(hashing: Hashing, row: sql.Composable) -> sql.Composed:
    """Return the SQL expression that hashes `row` with the function and the seed of `hashing`."""
    template = _MD5_HASH if hashing.md5 else _RECORD_HASH
    return sql.SQL(template).format(seed=sql.SQL(f"({hashing.seed})::bigint"), row=row)


def chained_hash(
    values: Iterable[tuple[sql.Composable, str]], seed: sql.Composable
) -> sql.Composable:
    """Return the SQL expression that hashes values: the hash of each is the next one's seed.

    Each value comes with its type, one of those that a key may have. The expression is faster than
    the hash of a row, and equal to that of `mirror.survey` in the target.
    """
    for value, kind in values:
        seed = sql.SQL(_TYPE_HASHES[kind]).format(value=value, seed=seed)
    return seed


def sort_column(column: KeyColumn) -> sql.Composed:
    """Return SQL for a key column of `q`, with the collation by which both databases sort it."""
    text = 'q.{} collate "C"' if column.type == "text" else "q.{}"
    return sql.SQL(text).format(sql.Identifier(column.name))


def key_order(mapping: Mapping, direction: str = "") -> sql.Composed:
    """Return the list for ORDER BY the key; `direction` is an empty string or ` desc`."""
    return sql.SQL(", ").join(
        sort_column(column) + sql.SQL(direction) for column in mapping.key_columns
    )


def range_condition(mapping: Mapping, within: KeyRange) -> tuple[sql.Composed, list[Any]]:
    """Return the SQL condition that a row's key lies in a range, and its parameters."""
    conditions = []
    parameters: list[Any] = []
    first = mapping.key_columns[0]
    for key, operator in ((within.start, ">="), (within.end, "<")):
        if key is None:
            continue
        bound = sql.SQL(", ").join(
            sql.SQL("%s::text::{}").format(sql.SQL(column.type)) for column in mapping.key_columns
        )
        condition = sql.SQL("({}) " + operator + " ({})").format(key_order(mapping), bound)
        conditions.append(condition)
        parameters += key
        if len(key) > 1:
            # Redundant, but the planner estimates the number of rows from single columns only.
            conditions.append(
                sql.SQL("{} " + operator[0] + "= %s::text::{}").format(
                    sort_column(first), sql.SQL(first.type)
                )
            )
            parameters.append(key[0])
    return sql.SQL(" and ").join(conditions), parameters
