"""Snapshot: reads the primary's rows as of one moment, with a stamp that orders the reads.

Every write to the target carries the stamp of the read that it comes from; the target refuses
writes from older reads. The stamp's fence packs two numbers of PostgreSQL's snapshot into a
bigint: xmax in the high bits; in the low bits, their maximum minus the number of transactions that
were running below xmax. xmax never falls, and while it stays the same, transactions below it can
only end. So a later read never has a smaller fence, and reads with equal fences saw the same data.

The count of running transactions includes the reader's own if it has an id below xmax. PostgreSQL
leaves that one out of its list; without it, the end of another transaction and the start of the
reader's own would cancel out.
"""

from collections.abc import Iterator, Sequence
from collections.abc import Mapping as MappingABC
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from psycopg import sql

from mirror.capture.statements import statement
from mirror.errors import Halted, NotMigrated, Rejected
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.sync.connections import Database
from mirror.sync.row_queries import BoundQuery, Row, RowQueries

_RUNNING_BITS = 20  # PostgreSQL allows 2^18 connections, so the count fits.


@dataclass(frozen=True)
class Stamp:
    """Which primary a read came from, and how fresh the read was. Every write carries one."""

    identity: str
    """The primary that was read; the target refuses every other one."""
    epoch: int
    """The number of rebases so far. Fences of different epochs cannot be compared."""
    fence: int
    """Orders the reads of one primary in one epoch; see the module's docstring."""


class Snapshot:
    """The primary's rows at one moment. Valid only inside `Source.snapshot()`."""

    def __init__(self, database: Database, desired: RowQueries, stamp: Stamp) -> None:
        self.stamp = stamp
        self._database = database
        self._desired = desired
        self._expired = False
        self._cache: dict[str, dict[Key, Row | None]] = {}

    def with_expired(self) -> "Snapshot":
        """Return the same view with expired rows included, for diagnostics."""
        view = Snapshot(self._database, self._desired, self.stamp)
        view._expired = True
        return view

    def keep(self, mapping: Mapping, keys: Sequence[Key], found: list[Row]) -> None:
        """Cache the rows found for these keys; `rows` does not query for them again."""
        rows = _by_key(mapping, found)
        self._cache[mapping.name] = {key: rows.get(key) for key in keys}

    def rows(self, mapping: Mapping, keys: Sequence[Key]) -> dict[Key, Row]:
        """Return the desired row of each key that has one."""
        cached = self._cache.get(mapping.name, {})
        rows = {key: row for key in keys if (row := cached.get(key)) is not None}
        if missing := [key for key in keys if key not in cached]:
            rows |= self._read(
                mapping, self._desired.of_keys(mapping, missing, expired=self._expired)
            )
        return rows

    def rows_in_scope(
        self,
        mapping: Mapping,
        reference: str,
        values: Sequence[str],
        *,
        after: Key = (),
        limit: int,
    ) -> dict[Key, Row]:
        """Return at most `limit` desired rows under any of a reference's values, in key order.

        `reference` `*` means all rows. `after` is the key after which to start; `()` for the
        beginning.
        """
        query = self._desired.in_scope(
            mapping, reference, values, after=after, limit=limit, expired=self._expired
        )
        return self._read(mapping, query)

    def rows_with(
        self, mapping: Mapping, values: MappingABC[str, str], *, limit: int
    ) -> dict[Key, Row]:
        """Return at most `limit` desired rows in which these columns have these values."""
        query = self._desired.holding(mapping, values, limit=limit, expired=self._expired)
        return self._read(mapping, query)

    def _read(self, mapping: Mapping, query: BoundQuery) -> dict[Key, Row]:
        try:
            found = self._database.execute(*query)
        except (Rejected, Halted) as error:
            raise type(error)(f"{error}, while reading mapping {mapping.name!r}") from None
        return _by_key(mapping, found)


def _by_key(mapping: Mapping, found: list[Row]) -> dict[Key, Row]:
    names = [column.name for column in mapping.columns]
    positions = [names.index(name) for name in mapping.key]
    rows: dict[Key, Row] = {tuple(str(row[i]) for i in positions): row for row in found}
    if len(rows) < len(found):
        raise Rejected(
            f"mapping {mapping.name!r}: its query yields two rows for one key; "
            f"make the query DISTINCT or group it."
        )
    return rows


class Source:
    """The primary as the drain reads it, over a connection of its own.

    A read cannot share the claim's transaction, which began too early: the read must see changes
    that committed before the claim.
    """

    def __init__(
        self, database: Database, *, name: str | None = None, idle_seconds: float = 60.0
    ) -> None:
        self.database = database
        self.idle_seconds = idle_seconds
        # Neon's pooled and direct addresses differ by this suffix; they are one primary.
        host = urlsplit(database.url).hostname or "local"
        self.name = name or host.replace("-pooler.", ".", 1)
        self.desired = RowQueries()

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        self.database.close()

    @contextmanager
    def snapshot(
        self, *before: sql.Composable, keys: Sequence[tuple[Mapping, Sequence[Key]]] = ()
    ) -> Iterator[Snapshot]:
        """Yield a snapshot in a REPEATABLE READ, READ ONLY transaction.

        One round trip runs the statements `before` (transactions of their own), begins the
        snapshot and reads the rows of `keys`.
        """
        with self.database.ending():
            reads = [self.desired.of_keys(*each, expired=False) for each in keys]
            rows, *found = self._begin(before, reads)
            fence, epoch, system, timeline, name = rows[0]
            if epoch is None:
                raise NotMigrated("primary: mirror.state is empty; run `mirror migrate primary`")
            identity = f"{system or '-'}/{timeline or '-'}/{self.name}/{name}"
            snapshot = Snapshot(self.database, self.desired, Stamp(identity, epoch, fence))
            # `found` is empty if the mappings have to be read one by one.
            for (mapping, some), mapping_rows in zip(keys, found, strict=False):
                snapshot.keep(mapping, some, mapping_rows)
            yield snapshot

    def _begin(
        self, before: Sequence[sql.Composable], reads: Sequence[BoundQuery]
    ) -> list[list[Any]]:
        """Begin a snapshot; return the stamp's row, then the rows of each of `reads`.

        If one of `reads` fails, the stamp's row comes alone.
        """

        def begin(*reads: sql.Composable) -> list[list[Any]]:
            return self.database.begin(
                self._stamp_query,
                *reads,
                before=before,
                mode="isolation level repeatable read read only",
                idle_seconds=self.idle_seconds,
            )

        try:
            return begin(*(self.database.bound(*read) for read in reads))
        except (Rejected, Halted):
            if not reads:
                raise
            # The caller then reads the mappings one by one, and its error names the mapping.
            self.database.rollback()
            return begin()

    @cached_property
    def _stamp_query(self) -> sql.Composed:
        """The stamp's query. Some hosts do not let a user read the system identifier."""
        allowed = self.database.execute(
            "select has_function_privilege('pg_control_system()', 'execute')"
        )[0][0]
        system = (
            sql.SQL("(select system_identifier from pg_control_system())")
            if allowed
            else sql.SQL("null")
        )
        return sql.SQL(statement("read_stamp")).format(
            bits=sql.Literal(_RUNNING_BITS), system=system
        )
