"""Buckets: queries on the primary that group the desired rows by the hash of their key.

A bucket is the set of rows whose key hashes have the same lowest bits. The results have the form of
the target's `mirror.survey()`. The target stores a row in two tables, so one row of the primary
adds two hashes to its bucket: that of the visible row and that of the ledger row.
"""

from collections.abc import Sequence
from typing import Any, Final

from psycopg import sql

from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.reconcile.clauses import as_text, chained_hash, row_hash
from mirror.reconcile.primary_reader import PrimaryReader, hashes_by_key
from mirror.sync.targets.reading import Buckets, Hashing, SurveyRequest

# One statement reads all rows, and no other work waits for it.
_TIMEOUT_FACTOR: Final = 20


def read_buckets(
    primary: PrimaryReader, mapping: Mapping, hashing: Hashing, request: SurveyRequest
) -> Buckets:
    """Return how many desired rows of the primary each requested bucket has, and its hash.

    The hash of a bucket is the XOR of its rows' hashes. Buckets without rows are left out.

    Raises:
        Unreadable, TooSlow: as `PrimaryReader.read`.
    """
    rows, parameters = _hashed_rows(primary, mapping, hashing, request)
    statement = sql.SQL(
        "select coalesce(string_agg(int4send(b.bucket), ''), ''),"
        " coalesce(string_agg(int4send(b.rows::integer), ''), ''),"
        " coalesce(string_agg(int8send(b.sum), ''), '')"
        " from (select (k.key_hash & %s)::integer as bucket, count(*) as rows,"
        " bit_xor({hash}) as sum from {rows} group by 1) as b"
    ).format(hash=_bucket_hash(mapping, hashing), rows=rows)
    bucket_mask = (1 << request.bits) - 1
    values = [bucket_mask, *parameters]
    ((numbers, counts, sums),) = primary.read(
        mapping, statement, values, timeout_factor=_TIMEOUT_FACTOR, binary=True
    )
    return Buckets(numbers, counts, sums)


def read_members(
    primary: PrimaryReader, mapping: Mapping, hashing: Hashing, request: SurveyRequest
) -> dict[Key, int]:
    """Return, by key, the hash of each desired row of the primary in the requested buckets.

    Raises:
        Unreadable: the query returns a key twice; otherwise as `PrimaryReader.read`.
        TooSlow: as `PrimaryReader.read`.
    """
    rows, parameters = _hashed_rows(primary, mapping, hashing, request)
    statement = sql.SQL("select {keys}, {hash} from {rows}").format(
        keys=sql.SQL(", ").join(
            sql.SQL("k.{}::text").format(sql.Identifier(f"k{i}")) for i in range(len(mapping.key))
        ),
        hash=_bucket_hash(mapping, hashing),
        rows=rows,
    )
    found = primary.read(mapping, statement, parameters, timeout_factor=_TIMEOUT_FACTOR)
    return hashes_by_key(mapping, found)


def _hashed_rows(
    primary: PrimaryReader, mapping: Mapping, hashing: Hashing, request: SurveyRequest
) -> tuple[sql.Composed, list[Any]]:
    """Return SQL and its parameters: the FROM item `k` with the primary's desired rows.

    `k` has the key columns (k0, k1, …), the other columns as text (c0, c1, …), and `key_hash`. If
    the request is for some buckets only, a WHERE clause follows.
    """
    keys = [
        sql.SQL("q.{}::{}").format(sql.Identifier(column.name), sql.SQL(column.type))
        for column in mapping.key_columns
    ]
    texts = [
        sql.SQL('{} collate "C" as {}').format(as_text(name, kind), sql.Identifier(f"c{i}"))
        for i, (name, kind) in enumerate(_other_columns(mapping))
    ]
    names = [sql.SQL("{} as {}").format(key, sql.Identifier(f"k{i}")) for i, key in enumerate(keys)]
    rows = sql.SQL(
        "(select {columns}, {hash} as key_hash from ({query}) as q"
        # Keeps the planner from computing the hash again at each place that uses it.
        " offset 0) as k"
    ).format(
        columns=sql.SQL(", ").join(names + texts),
        hash=_key_hash(mapping, hashing, keys),
        query=primary.desired_query(mapping),
    )
    if request.wanted is None:
        return rows, []
    condition = sql.SQL(" where get_bit(%s::bytea, k.key_hash & %s) = 1")
    return rows + condition, [request.wanted, 8 * len(request.wanted) - 1]


def _bucket_hash(mapping: Mapping, hashing: Hashing) -> sql.Composed:
    """Return the SQL expression of the hash that one row adds to its bucket."""
    count = len(mapping.data_columns)
    texts = [sql.SQL("k.") + sql.Identifier(f"c{i}") for i in range(len(_other_columns(mapping)))]

    def hash_with_key(values: list[sql.Composed], seed: int) -> sql.Composable:
        if hashing.md5:
            row = sql.SQL(", ").join([sql.SQL("k.key_hash"), *values])
            return row_hash(hashing, sql.SQL("row({})").format(row))
        # No value equals this text for null, because the seed is another one each time.
        null = sql.Literal(f"null {hashing.seed}")
        not_null = [sql.SQL("coalesce({}, {})").format(value, null) for value in values]
        of_key = sql.SQL("hashint8extended(k.key_hash, {})").format(_bigint(seed))
        return chained_hash(((value, "text") for value in not_null), of_key)

    known = texts[count:]
    ledger = hash_with_key(known, hashing.seed + 1) if known else sql.SQL("k.key_hash")
    return sql.SQL("{} # {}").format(hash_with_key(texts[:count], hashing.seed), ledger)


def _key_hash(mapping: Mapping, hashing: Hashing, keys: Sequence[sql.Composable]) -> sql.Composable:
    """Return the SQL expression of a key's hash; `keys` are its columns."""
    if hashing.md5:
        return row_hash(hashing, sql.SQL("row({})").format(sql.SQL(", ").join(keys)))
    kinds = [column.type for column in mapping.key_columns]
    return chained_hash(zip(keys, kinds, strict=True), _bigint(hashing.seed))


def _bigint(number: int) -> sql.SQL:
    return sql.SQL(f"({number})::bigint")


def _other_columns(mapping: Mapping) -> list[tuple[str, str]]:
    """Return name and type of each column outside the key, the ledger's own columns last."""
    return [(name, kind) for name, kind in mapping.row_layout if name not in mapping.key]
