"""Buckets: the primary's desired rows by the hash of their key, as `mirror.survey` has them.

What the target has in two tables is one row here, so it adds both hashes: the visible row's, and
that of its ledger row.
"""

from typing import Any, Final

from psycopg import sql

from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.reconcile.clauses import hashed, typed
from mirror.reconcile.primary import PrimaryReader, by_key
from mirror.sync.targets.reading import Buckets, Hashing, SurveyRequest

# One statement reads all rows, and nobody waits for it.
_PATIENCE: Final = 20


def buckets(
    primary: PrimaryReader, mapping: Mapping, hashing: Hashing, look: SurveyRequest
) -> Buckets:
    """Return what lies in each wanted bucket."""
    rows, parameters = _rows(primary, mapping, hashing, look)
    statement = sql.SQL(
        "select coalesce(string_agg(int4send(b.bucket), ''), ''),"
        " coalesce(string_agg(int4send(b.rows::integer), ''), ''),"
        " coalesce(string_agg(int8send(b.sum), ''), '')"
        " from (select (k.key_hash & %s)::integer as bucket, count(*) as rows,"
        " bit_xor({hash}) as sum from {rows} group by 1) as b"
    ).format(hash=_hash(mapping, hashing), rows=rows)
    low = (1 << look.bits) - 1
    values = [low, *parameters]
    ((numbers, counts, sums),) = primary.read(
        mapping, statement, values, timeout_factor=_PATIENCE, binary=True
    )
    return Buckets(numbers, counts, sums)


def members(
    primary: PrimaryReader, mapping: Mapping, hashing: Hashing, look: SurveyRequest
) -> dict[Key, int]:
    """Return the hash of each row in wanted buckets.

    Raises:
        Unreadable: the query yields a key twice.
    """
    rows, parameters = _rows(primary, mapping, hashing, look)
    statement = sql.SQL("select {keys}, {hash} from {rows}").format(
        keys=sql.SQL(", ").join(
            sql.SQL("k.{}::text").format(sql.Identifier(f"k{i}")) for i in range(len(mapping.key))
        ),
        hash=_hash(mapping, hashing),
        rows=rows,
    )
    return by_key(mapping, primary.read(mapping, statement, parameters, timeout_factor=_PATIENCE))


def _rows(
    primary: PrimaryReader, mapping: Mapping, hashing: Hashing, look: SurveyRequest
) -> tuple[sql.Composed, list[Any]]:
    """Return a FROM item `k` with its condition: key, other values, and the key's hash."""
    keys = [
        sql.SQL("q.{}::{}").format(sql.Identifier(column.name), sql.SQL(column.type))
        for column in mapping.key_columns
    ]
    texts = [
        sql.SQL('{} collate "C" as {}').format(typed(name, kind), sql.Identifier(f"c{i}"))
        for i, (name, kind) in enumerate(_others(mapping))
    ]
    names = [sql.SQL("{} as {}").format(key, sql.Identifier(f"k{i}")) for i, key in enumerate(keys)]
    rows = sql.SQL(
        "(select {columns}, {hash} as key_hash from ({query}) as q"
        # So that a hash is taken once, not wherever it is named.
        " offset 0) as k"
    ).format(
        columns=sql.SQL(", ").join(names + texts),
        hash=hashed(hashing, sql.SQL("row({})").format(sql.SQL(", ").join(keys))),
        query=primary.desired(mapping),
    )
    if look.wanted is None:
        return rows, []
    wanted = sql.SQL(" where get_bit(%s::bytea, k.key_hash & %s) = 1")
    return rows + wanted, [look.wanted, 8 * len(look.wanted) - 1]


def _hash(mapping: Mapping, hashing: Hashing) -> sql.Composed:
    """Return what a row adds to its bucket."""
    count = len(mapping.data_columns)
    texts = [sql.SQL("k.") + sql.Identifier(f"c{i}") for i in range(len(_others(mapping)))]

    def of(some: list[sql.Composed]) -> sql.Composed:
        row = sql.SQL(", ").join([sql.SQL("k.key_hash"), *some])
        return hashed(hashing, sql.SQL("row({})").format(row))

    ledger = of(texts[count:]) if texts[count:] else sql.SQL("k.key_hash")
    return sql.SQL("{} # {}").format(of(texts[:count]), ledger)


def _others(mapping: Mapping) -> list[tuple[str, str]]:
    """Return what a row is made of beside its key: first what is visible."""
    return [(name, kind) for name, kind in mapping.row_layout if name not in mapping.key]
