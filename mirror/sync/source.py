"""Source: the primary as the drain reads it, one snapshot at a time.

The fence packs (xmax, -running) of the snapshot into a bigint. xmax never falls, and while it
stands still, transactions below it can only end; so of two reads the later never has the
smaller fence, and equal fences saw the same data. `running` includes the reader's own
transaction if it has an id below xmax, which a snapshot leaves out of its list: otherwise
another's end and the reader's own presence would cancel out.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from psycopg import sql

from mirror.capture.statements import statement
from mirror.errors import Halted, NotMigrated, Rejected
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.sync.connections import Database
from mirror.sync.row_queries import BoundQuery, RowQueries
from mirror.sync.snapshot import Snapshot
from mirror.sync.stamp import Stamp

_RUNNING_BITS = 20  # PostgreSQL allows 2^18 connections, so `running` fits.


class Source:
    """The primary, over a connection of its own.

    A claim's transaction began too early: the read must see what committed before the claim.
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
        """Yield one REPEATABLE READ, READ ONLY view of the primary, with its stamp.

        In the same round trip, transactions of their own go `before` it, and the rows of `keys`
        are read.
        """
        with self.database.ending():
            reads = [self.desired.of_keys(*each, expired=False) for each in keys]
            rows, *found = self._begin(before, reads)
            fence, epoch, system, timeline, name = rows[0]
            if epoch is None:
                raise NotMigrated("primary: mirror.state is empty; run `mirror migrate primary`")
            identity = f"{system or '-'}/{timeline or '-'}/{self.name}/{name}"
            snapshot = Snapshot(self.database, self.desired, Stamp(identity, epoch, fence))
            # Nothing was found if they have to be read one by one.
            for (mapping, some), there in zip(keys, found, strict=False):
                snapshot.keep(mapping, some, there)
            yield snapshot

    def _begin(
        self, before: Sequence[sql.Composable], reads: Sequence[BoundQuery]
    ) -> list[list[Any]]:
        """Begin a snapshot; return the stamp's row and those of `reads`, or the former alone."""

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
            # Who reads them one by one learns which mapping it is.
            self.database.rollback()
            return begin()

    @cached_property
    def _stamp_query(self) -> sql.Composed:
        """The stamp's query; some hosts keep the system identifier to themselves."""
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
