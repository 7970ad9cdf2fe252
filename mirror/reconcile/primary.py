"""Primary: the desired rows as a reconcile reads them, in ranges of keys.

Each read is a short transaction of its own: nothing here holds a snapshot for long, which would
keep the primary from cleaning up.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from psycopg import sql

from mirror.errors import Halted, Permanent, Rejected
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.reconcile.clauses import hashed, keys, order, picked, row, within_range
from mirror.sync.row_queries import Row, row_query
from mirror.sync.snapshot import Source
from mirror.sync.targets.reading import Digest, Hashing, KeyRange

_ALL: Final = (1 << 31) - 1
# The row that mirror.digest() hashes as its probe.
_PROBE: Final = """row('permission'::text collate "C", null::text, 'ß€'::text collate "C")"""


class Unreadable(Permanent):
    """Raised when the primary does not give a mapping's rows: nothing follows from that."""


def by_key(mapping: Mapping, found: Sequence[Sequence[Any]]) -> dict[Key, int]:
    """Return hashes by key, of rows that consist of key and hash.

    Raises:
        Unreadable: there are two of one key.
    """
    hashes = {tuple(key): hashed for *key, hashed in found}
    if len(hashes) < len(found):
        raise Unreadable(
            f"mapping {mapping.name!r}: its query yields two rows for one key; "
            f"make the query DISTINCT or group it."
        )
    return hashes


class PrimaryReader:
    """Reads the desired rows: those of a mapping's query that have their parents."""

    def __init__(self, registry: Registry, source: Source) -> None:
        self.registry = registry
        self.source = source
        self.moved = 0
        """Characters that came over."""

    def probe(self, hashing: Hashing) -> int | None:
        """Return the probe's hash; None where the server lacks that function."""
        if not hashing.md5:
            function = "hash_record_extended(record,bigint)"
            found = self.source.database.execute("select to_regprocedure(%s)", [function])
            if found[0][0] is None:
                return None
        expression = hashed(hashing, sql.SQL(_PROBE))
        value: int = self.source.database.execute(sql.SQL("select ") + expression)[0][0]
        return value

    def estimate(self, mapping: Mapping) -> int:
        """Return about how many rows there are, as the planner thinks."""
        statement = sql.SQL("explain (format json) ") + row_query(mapping)
        with self._reading(mapping):
            plan = self.source.database.execute(statement, [])[0][0]
        return int(plan[0]["Plan"]["Plan Rows"])

    def chunk(self, mapping: Mapping, hashing: Hashing, start: Key, rows: int) -> Digest:
        """Return the digest of the first `rows` rows from `start` on, and where they end."""
        numbered, parameters = self._numbered(mapping, hashing, KeyRange(start), limit=rows + 1)
        statement = sql.SQL(
            "select count(*) filter (where f.n < {rows}),"
            " coalesce(sum(f.hash) filter (where f.n < {rows}), 0)::text, {next} from {numbered}"
        ).format(
            rows=sql.Literal(rows),
            next=picked(mapping, "max(f.{}::text) filter (where f.n = {})", rows),
            numbered=numbered,
        )
        with self._reading(mapping):
            ((count, total, *end),) = self._execute(statement, parameters)
        within = KeyRange(start, None if end[0] is None else tuple(end))
        return Digest(within, count, int(total))

    def digest(self, mapping: Mapping, hashing: Hashing, within: KeyRange) -> Digest:
        """Return the digest of one range."""
        (digest,) = self.split(mapping, hashing, within, _ALL)
        return digest

    def split(
        self, mapping: Mapping, hashing: Hashing, within: KeyRange, size: int
    ) -> list[Digest]:
        """Return digests of `size` rows each that cover the range without a gap."""
        numbered, parameters = self._numbered(mapping, hashing, within)
        statement = sql.SQL(
            "select count(*), sum(f.hash)::text, {firsts} from {numbered}"
            " group by f.n / {size} order by f.n / {size}"
        ).format(
            firsts=picked(mapping, "max(f.{}::text) filter (where f.n %% {} = 0)", size),
            numbered=numbered,
            size=sql.Literal(size),
        )
        with self._reading(mapping):
            found = self._execute(statement, parameters)
        if not found:
            return [Digest(within, 0, 0)]
        # The first piece begins where the range does, each ends where the next begins, the last
        # where the range does: nothing on either side can lie between two.
        starts = [within.start, *(tuple(row[2:]) for row in found[1:])]
        ends = [*starts[1:], within.end]
        return [
            Digest(KeyRange(start, end), row[0], int(row[1]))
            for start, end, row in zip(starts, ends, found, strict=True)
        ]

    def _numbered(
        self, mapping: Mapping, hashing: Hashing, within: KeyRange, *, limit: int | None = None
    ) -> tuple[sql.Composed, list[Any]]:
        """Return a FROM item `f` of the range's rows: key, hash, and their number from 0 on."""
        condition, parameters = within_range(mapping, within)
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
            hash=hashed(hashing, row(mapping)),
            order=order(mapping),
            query=self.desired(mapping),
            condition=condition,
            limit=sql.Literal(limit),
        ), parameters

    def listing(
        self, mapping: Mapping, hashing: Hashing, ranges: Sequence[KeyRange]
    ) -> dict[Key, int]:
        """Return the hash of each row in these ranges."""
        parts = []
        parameters: list[Any] = []
        for within in ranges:
            condition, bounds = within_range(mapping, within)
            parameters += bounds
            parts.append(
                sql.SQL("select {keys}, {hash} from ({query}) as q where {condition}").format(
                    keys=sql.SQL(", ").join(keys(mapping)),
                    hash=hashed(hashing, row(mapping)),
                    query=self.desired(mapping),
                    condition=condition,
                )
            )
        found = self.read(mapping, sql.SQL(" union all ").join(parts), parameters)
        return by_key(mapping, found)

    def ends(self, mapping: Mapping) -> tuple[Key, Key]:
        """Return the first and the last key; empty ones where there is no row."""
        statement = sql.SQL(
            "(select {keys} from ({query}) as q order by {order} limit 1) union all"
            " (select {keys} from ({query}) as q order by {reverse} limit 1)"
        ).format(
            keys=sql.SQL(", ").join(keys(mapping)),
            query=self.desired(mapping),
            order=order(mapping),
            reverse=order(mapping, " desc"),
        )
        with self._reading(mapping):
            found = self._execute(statement, [])
        return (tuple(found[0]), tuple(found[1])) if found else ((), ())

    def first(self, mapping: Mapping, limit: int) -> set[Key]:
        """Return the first keys, at most `limit`."""
        statement = sql.SQL("select {} from ({}) as q order by {} limit {}").format(
            sql.SQL(", ").join(keys(mapping)),
            self.desired(mapping),
            order(mapping),
            sql.Literal(limit),
        )
        return {tuple(key) for key in self.read(mapping, statement, [])}

    def following(self, mapping: Mapping, ranges: Sequence[KeyRange]) -> set[Key]:
        """Return the first key of each range that has one."""
        parts = []
        parameters: list[Any] = []
        for within in ranges:
            condition, bounds = within_range(mapping, within)
            parameters += bounds
            parts.append(
                sql.SQL("(select {} from ({}) as q where {} order by {} limit 1)").format(
                    sql.SQL(", ").join(keys(mapping)),
                    self.desired(mapping),
                    condition,
                    order(mapping),
                )
            )
        with self._reading(mapping):
            found = self._execute(sql.SQL(" union all ").join(parts), parameters)
        return {tuple(key) for key in found}

    def page(self, mapping: Mapping, within: KeyRange, limit: int) -> list[Row]:
        """Return the range's first rows as they travel, in the snapshot that the caller opened."""
        condition, parameters = within_range(mapping, within)
        statement = sql.SQL(
            "select {values} from ({query}) as q where {condition} order by {order} limit {limit}"
        ).format(
            values=self.source.desired.values(mapping),
            query=self.desired(mapping),
            condition=condition,
            order=order(mapping),
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
        """Return a statement's rows; it reads the mapping's.

        Raises:
            Unreadable: it fails, whatever the range.
        """
        with self._reading(mapping, timeout_factor):
            return self._execute(statement, parameters, binary=binary)

    @contextmanager
    def _reading(self, mapping: Mapping, timeout_factor: int = 1) -> Iterator[None]:
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
        self.moved += sum(
            len(value if isinstance(value, str | bytes) else str(value))
            for row in found
            for value in row
        )
        return found

    def desired(self, mapping: Mapping) -> sql.Composed:
        """Return the mapping's query without the rows whose parents are not mirrored."""
        types = {column.name: column.type for column in mapping.columns}
        conditions = []
        for parent in mapping.parents:
            other = self.registry[parent.mapping]
            # A key is never null, and without the OR, PostgreSQL can join instead of looking up.
            nullable = "" if parent.column in mapping.key else "d.{column} is null or "
            conditions.append(
                sql.SQL(
                    f"({nullable}exists ("
                    "select from ({query}) as p where p.{key}::{kind} = d.{column}::{kind}))"
                ).format(
                    column=sql.Identifier(parent.column),
                    query=self.desired(other),
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
