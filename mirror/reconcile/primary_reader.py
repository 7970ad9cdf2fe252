"""Primary reader: reads the desired rows, or their hashes, from the primary by ranges of keys.

Each read is a short transaction of its own, because a snapshot that is held for long keeps the
primary from vacuuming dead rows.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from psycopg import sql

from mirror.errors import Halted, Permanent, Rejected
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.reconcile.clauses import (
    for_key_columns,
    key_order,
    key_texts,
    range_condition,
    row_hash,
    row_to_hash,
)
from mirror.sync.row_queries import Row, row_query
from mirror.sync.snapshot import Source
from mirror.sync.targets.reading import Digest, Hashing, KeyRange

_UNSPLIT: Final = (1 << 31) - 1
# mirror.digest() hashes the same row, to find out whether both servers compute the same hash.
_PROBE: Final = """row('permission'::text collate "C", null::text, 'ß€'::text collate "C")"""


class Unreadable(Permanent):
    """Raised when the primary cannot return a mapping's rows; the mapping is left unchanged."""


def hashes_by_key(mapping: Mapping, found: Sequence[Sequence[Any]]) -> dict[Key, int]:
    """Return the hashes by key. Each row in `found` has the key's values, then the hash.

    Raises:
        Unreadable: two rows have the same key.
    """
    hashes = {tuple(key): value for *key, value in found}
    if len(hashes) < len(found):
        raise Unreadable(
            f"mapping {mapping.name!r}: its query yields two rows for one key; "
            f"make the query DISTINCT or group it."
        )
    return hashes


class PrimaryReader:
    """Reads the desired rows: the rows of a mapping's query whose parents are mirrored, too.

    Every method that reads rows of a mapping, except `page`, raises what `read` raises.
    """

    def __init__(self, registry: Registry, source: Source) -> None:
        self.registry = registry
        self.source = source
        self.transferred = 0
        """Characters that were received."""

    def probe(self, hashing: Hashing) -> int | None:
        """Return the hash of a fixed row, to be compared with the target's hash of the same row.

        None: this server lacks the hash function.
        """
        if not hashing.md5:
            function = "hash_record_extended(record,bigint)"
            found = self.source.database.execute("select to_regprocedure(%s)", [function])
            if found[0][0] is None:
                return None
        expression = row_hash(hashing, sql.SQL(_PROBE))
        value: int = self.source.database.execute(sql.SQL("select ") + expression)[0][0]
        return value

    def estimate(self, mapping: Mapping) -> int:
        """Return the planner's estimate of how many rows the mapping's query yields."""
        statement = sql.SQL("explain (format json) ") + row_query(mapping)
        with self._reading(mapping):
            plan = self.source.database.execute(statement, [])[0][0]
        return int(plan[0]["Plan"]["Plan Rows"])

    def chunk(self, mapping: Mapping, hashing: Hashing, start: Key, rows: int) -> Digest:
        """Return the number and the hash sum of the first `rows` rows from key `start` on.

        The result's range ends at the first key of the next chunk, or nowhere if there are no
        further rows.
        """
        numbered, parameters = self._numbered(mapping, hashing, KeyRange(start), limit=rows + 1)
        statement = sql.SQL(
            "select count(*) filter (where f.n < {rows}),"
            " coalesce(sum(f.hash) filter (where f.n < {rows}), 0)::text, {next} from {numbered}"
        ).format(
            rows=sql.Literal(rows),
            next=for_key_columns(mapping, "max(f.{}::text) filter (where f.n = {})", rows),
            numbered=numbered,
        )
        ((count, total, *end),) = self.read(mapping, statement, parameters)
        within = KeyRange(start, None if end[0] is None else tuple(end))
        return Digest(within, count, int(total))

    def digest(self, mapping: Mapping, hashing: Hashing, within: KeyRange) -> Digest:
        """Return the number of rows in a range of keys, and the sum of their hashes."""
        (digest,) = self.split(mapping, hashing, within, _UNSPLIT)
        return digest

    def split(
        self, mapping: Mapping, hashing: Hashing, within: KeyRange, size: int
    ) -> list[Digest]:
        """Split a range of keys into pieces of `size` rows; return the digest of each piece.

        The last piece may have fewer rows. Together, the pieces cover the whole range.
        """
        numbered, parameters = self._numbered(mapping, hashing, within)
        statement = sql.SQL(
            "select count(*), sum(f.hash)::text, {firsts} from {numbered}"
            " group by f.n / {size} order by f.n / {size}"
        ).format(
            firsts=for_key_columns(mapping, "max(f.{}::text) filter (where f.n %% {} = 0)", size),
            numbered=numbered,
            size=sql.Literal(size),
        )
        found = self.read(mapping, statement, parameters)
        if not found:
            return [Digest(within, 0, 0)]
        # The first piece begins and the last one ends with the range, and each other piece ends
        # where the next one begins. So no key on either side lies between two pieces.
        starts = [within.start, *(tuple(row[2:]) for row in found[1:])]
        ends = [*starts[1:], within.end]
        return [
            Digest(KeyRange(start, end), row[0], int(row[1]))
            for start, end, row in zip(starts, ends, found, strict=True)
        ]

    def _numbered(
        self, mapping: Mapping, hashing: Hashing, within: KeyRange, *, limit: int | None = None
    ) -> tuple[sql.Composed, list[Any]]:
        """Return SQL and its parameters: the FROM item `f` with the rows of a range.

        `f` has each row's key (k0, k1, …), hash, and number `n`, counted from 0.
        """
        condition, parameters = range_condition(mapping, within)
        return sql.SQL(
            "(select {keys}, {hash} as hash, row_number() over (order by {order}) - 1 as n"
            " from ({query}) as q where {condition} order by {order} limit {limit}) as f"
        ).format(
            keys=sql.SQL(", ").join(
                sql.SQL("q.{}::{} as {}").format(
                    sql.Identifier(column.name), sql.SQL(column.type), sql.Identifier(f"k{i}")
                )
                for i, column in enumerate(mapping.key_columns)
            ),
            hash=row_hash(hashing, row_to_hash(mapping)),
            order=key_order(mapping),
            query=self.desired_query(mapping),
            condition=condition,
            limit=sql.Literal(limit),
        ), parameters

    def listing(
        self, mapping: Mapping, hashing: Hashing, ranges: Sequence[KeyRange]
    ) -> dict[Key, int]:
        """Return the hash of each row in these ranges, by key.

        Raises:
            Unreadable: two rows have the same key; otherwise as `read`.
        """
        statement, parameters = self._union(
            mapping,
            ranges,
            "select {keys}, {hash} from ({query}) as q where {condition}",
            hash=row_hash(hashing, row_to_hash(mapping)),
        )
        return hashes_by_key(mapping, self.read(mapping, statement, parameters))

    def first_keys(self, mapping: Mapping, limit: int) -> set[Key]:
        """Return the first keys in key order, at most `limit`."""
        statement = sql.SQL("select {} from ({}) as q order by {} limit {}").format(
            key_texts(mapping),
            self.desired_query(mapping),
            key_order(mapping),
            sql.Literal(limit),
        )
        return {tuple(key) for key in self.read(mapping, statement, [])}

    def _union(
        self,
        mapping: Mapping,
        ranges: Sequence[KeyRange],
        template: str,
        **fragments: sql.Composed,
    ) -> tuple[sql.Composed, list[Any]]:
        """Return one query, the UNION ALL of `template` for each range, and its parameters."""
        bounds = [range_condition(mapping, within) for within in ranges]
        fragments["keys"] = key_texts(mapping)
        fragments["query"] = self.desired_query(mapping)
        parts = [
            sql.SQL(template).format(condition=condition, **fragments) for condition, _ in bounds
        ]
        return sql.SQL(" union all ").join(parts), [each for _, found in bounds for each in found]

    def page(self, mapping: Mapping, within: KeyRange, limit: int) -> list[Row]:
        """Return the first rows of a range, at most `limit`, with the values that the target gets.

        The caller has opened a snapshot of the primary. Errors are those of the database; none is
        turned into Unreadable.
        """
        condition, parameters = range_condition(mapping, within)
        statement = sql.SQL(
            "select {values} from ({query}) as q where {condition} order by {order} limit {limit}"
        ).format(
            values=self.source.desired.values(mapping),
            query=self.desired_query(mapping),
            condition=condition,
            order=key_order(mapping),
            limit=sql.Literal(limit),
        )
        return self._execute(statement, parameters)

    def read(
        self,
        mapping: Mapping,
        statement: sql.Composed,
        parameters: list[Any],
        *,
        timeout_factor: int = 1,
        binary: bool = False,
    ) -> list[Any]:
        """Run a statement that reads the mapping's rows; return its result.

        `timeout_factor` multiplies the statement timeout. `binary` transfers values in binary
        format.

        Raises:
            Unreadable: the primary refuses the statement: a table, column or privilege is missing,
                or a row has a value that cannot be computed or cast to the declared type.
            TooSlow: the statement ran into a limit of time or memory.
            Transient: the primary does not answer.
        """
        with self._reading(mapping, timeout_factor):
            return self._execute(statement, parameters, binary=binary)

    @contextmanager
    def _reading(self, mapping: Mapping, timeout_factor: int = 1) -> Iterator[None]:
        """Run the block in a read-only transaction; raise Unreadable for Rejected and Halted."""
        try:
            with self.source.database.transaction(
                mode="isolation level repeatable read read only",
                idle_seconds=self.source.idle_seconds,
                timeout_factor=timeout_factor,
            ):
                yield
        except (Rejected, Halted) as error:
            raise Unreadable(f"{error}, while reading mapping {mapping.name!r}") from None

    def _execute(
        self, statement: sql.Composed, parameters: list[Any], *, binary: bool = False
    ) -> list[Any]:
        found = self.source.database.execute(statement, parameters, binary=binary)
        self.transferred += sum(
            len(value if isinstance(value, str | bytes) else str(value))
            for row in found
            for value in row
        )
        return found

    def desired_query(self, mapping: Mapping) -> sql.Composed:
        """Return the mapping's query in SQL, without the rows whose parents are not mirrored."""
        types = {column.name: column.type for column in mapping.columns}
        conditions = []
        for parent in mapping.parents:
            other = self.registry[parent.mapping]
            # A key column is never null. Without the OR, PostgreSQL can use a join.
            nullable = "" if parent.column in mapping.key else "d.{column} is null or "
            conditions.append(
                sql.SQL(
                    f"({nullable}exists ("
                    "select from ({query}) as p where p.{key}::{kind} = d.{column}::{kind}))"
                ).format(
                    column=sql.Identifier(parent.column),
                    query=self.desired_query(other),
                    key=sql.Identifier(other.key[0]),
                    kind=sql.SQL(types[parent.column]),
                )
            )
        query = row_query(mapping)
        if not conditions:
            return sql.Composed([query])
        return sql.SQL("select d.* from ({}) as d where {}").format(
            query, sql.SQL(" and ").join(conditions)
        )
