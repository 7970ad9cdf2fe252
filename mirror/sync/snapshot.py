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
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from psycopg import sql

from mirror.capture.statements import statement
from mirror.errors import (
    Halted,
    NotMigrated,
    Rejected,
    Transient,
    Unexplained,
    UnreadableMapping,
)
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.sync.connections import Database
from mirror.sync.freshness import Look
from mirror.sync.pairing import Pair
from mirror.sync.row_queries import BoundQuery, JsonRows, Row, RowQueries


@dataclass(frozen=True)
class Stamp:
    """Which primary a read came from, and how fresh the read was. Every write carries one."""

    identity: str
    """The primary that was read; the target refuses every other one."""
    epoch: int
    """The number of rebases so far. Fences of different epochs cannot be compared."""
    fence: int
    """Orders the reads of one primary in one epoch; see the module's docstring."""
    pair: Pair
    """The last step that the primary took together with its target."""
    timeline: str | None = None
    """That of the server's log, which changes with a fail-over. Known only to a proposed step."""


Reading = tuple[Stamp, list[JsonRows]]
"""Rows at one moment, as the primary printed them, with their stamp."""


class Snapshot:
    """The primary's rows at one moment. Valid only inside `Source.snapshot()`."""

    def __init__(self, database: Database, desired: RowQueries, stamp: Stamp) -> None:
        self.stamp = stamp
        self._database = database
        self._desired = desired
        self._expired = False

    def with_expired(self) -> "Snapshot":
        """Return the same view with expired rows included, for diagnostics."""
        view = Snapshot(self._database, self._desired, self.stamp)
        view._expired = True
        return view

    def rows(self, mapping: Mapping, keys: Sequence[Key]) -> dict[Key, Row]:
        """Return the desired row of each key that has one."""
        if not keys:
            return {}
        return self._read(mapping, self._desired.of_keys(mapping, keys, expired=self._expired))

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
        except Rejected as error:
            raise Rejected(f"{error}, while reading mapping {mapping.name!r}") from None
        except Halted as error:
            message = f"{error}, while reading mapping {mapping.name!r}"
            raise UnreadableMapping(message, mapping.name) from None
        except Transient as error:
            if not self._database.goes_on:
                raise
            # The query causes it: it calls a function that writes, for example.
            raise Unexplained(f"{error}, while reading mapping {mapping.name!r}") from None
        return _by_key(mapping, found)


def _by_key(mapping: Mapping, found: list[Row]) -> dict[Key, Row]:
    names = [column.name for column in mapping.columns]
    positions = [names.index(name) for name in mapping.key]
    rows: dict[Key, Row] = {tuple(str(row[i]) for i in positions): row for row in found}
    if len(rows) < len(found):
        raise _two_rows(mapping)
    return rows


def _two_rows(mapping: Mapping) -> Rejected:
    return Rejected(
        f"mapping {mapping.name!r}: its query yields two rows for one key; "
        f"make the query DISTINCT or group it."
    )


class Source:
    """The primary as the drain reads it, over a connection of its own.

    Reads of several statements cannot share the claim's transaction: each of them would see another
    moment. A read of one statement can (`mirror.sync.read_ahead`).
    """

    def __init__(self, database: Database, *, idle_seconds: float = 60.0) -> None:
        self.database = database
        self.idle_seconds = idle_seconds
        self.name = urlsplit(database.url).hostname or "local"
        self.desired = RowQueries()

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        self.database.close()

    @contextmanager
    def snapshot(self, *, narrowed: str | None = None) -> Iterator[Snapshot]:
        """Yield a snapshot in a REPEATABLE READ, READ ONLY transaction.

        In rows of the mapping `narrowed`, the descriptive columns are NULL.
        """
        queries = self.desired if narrowed is None else RowQueries(narrowed)
        with self.database.ending():
            ((row,),) = self._begin()
            yield Snapshot(self.database, queries, self._stamp(row))

    def read_json(self, groups: Sequence[tuple[Mapping, Sequence[str | list[str]]]]) -> Reading:
        """Return the rows of some keys at one moment, as JSON texts, with their stamp.

        Each group is a mapping and, for each of its key columns, the values of all keys: a list, or
        an array literal. One round trip does everything, from the snapshot's beginning to its end.

        Raises:
            Rejected: a key has another type than declared, or its mapping yields two rows for it.
        """
        try:
            reads = [
                self.database.bound(*self.desired.as_json(mapping, keys))
                for mapping, keys in groups
            ]
            (row,), *found = self._begin(*reads, sql.SQL("commit"))
        except BaseException as error:
            goes_on = self.database.goes_on
            self.database.rollback()
            if isinstance(error, Transient) and goes_on:
                # If a snapshot without rows fails as well, as on a standby, no query is the cause.
                with self.snapshot():
                    pass
                # A mapping's query may cause it; reading each alone shows which.
                raise Unexplained(str(error)) from None
            raise
        rows = []
        for (mapping, _), ((printed, deleted, two_rows),) in zip(groups, found, strict=True):
            if two_rows:
                raise _two_rows(mapping)
            rows.append(JsonRows(mapping, printed, deleted))
        return self._stamp(row), rows

    def reading(self, mapping: Mapping, row: Sequence[Any]) -> Reading | None:
        """Return what a claim has read ahead of one mapping; None if a key has two rows."""
        *stamp, printed, deleted, two_rows = row
        if two_rows:
            return None
        return self._stamp(stamp), [JsonRows(mapping, printed, deleted)]

    def _begin(self, *first: sql.Composable) -> list[list[Any]]:
        """Begin a snapshot; return the row of its stamp, and the rows of the statements `first`."""
        return self.database.begin(
            sql.SQL(statement("read_stamp")),
            *first,
            mode="isolation level repeatable read read only",
            idle_seconds=self.idle_seconds,
            # The last one is COMMIT.
            slow=max(1, len(first) - 1),
        )

    def read_stamp(self) -> Stamp:
        """Return the stamp of this moment; no transaction is open."""
        return self._stamp(self.database.execute(statement("read_stamp"))[0])

    def propose_step(self) -> Stamp:
        """Propose the next step, if it is time for that; return a stamp with the present one."""
        ((timeline,),), (row,) = self.database.together(
            sql.SQL(statement("propose_step")), sql.SQL(statement("read_stamp"))
        )
        return replace(self._stamp(row), timeline=timeline)

    def acknowledge_step(self, stamp: Stamp) -> None:
        """Note that the target has taken a step; if a crash undoes this, it is noted again."""
        self.database.together(
            sql.SQL("begin; set local synchronous_commit = off"),
            sql.SQL(statement("acknowledge_step")).format(sql.Literal(stamp.pair.token)),
            sql.SQL("commit"),
        )

    def look(self, floor: int) -> Look:
        """Return which recorded revocations may not be in force in the target yet.

        No event has a lower transaction id than `floor`.
        """
        return Look(*self.database.execute(statement("look"), {"floor": floor})[0])

    def _stamp(self, row: Sequence[Any]) -> Stamp:
        fence, epoch, system, timeline, name, *pair = row
        if epoch is None:
            raise NotMigrated("primary: mirror.state is empty; run `mirror migrate primary`")
        identity = f"{system or '-'}/{timeline or '-'}/{self.name}/{name}"
        return Stamp(identity, epoch, fence, Pair(*pair))
