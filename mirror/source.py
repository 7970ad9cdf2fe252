"""Source: the primary as the drain reads it, one snapshot at a time.

The fence packs (xmax, -running) of the snapshot into a bigint. xmax never falls, and while it
stands still, transactions below it can only end; so of two reads the later never has the
smaller fence, and equal fences saw the same data. `running` includes the reader's own
transaction if it has an id below xmax, which a snapshot leaves out of its list: otherwise
another's end and the reader's own presence would cancel out.
"""

from collections.abc import Iterator, Sequence
from collections.abc import Mapping as MappingABC
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from psycopg import sql

from mirror.errors import Halted, NotMigrated, Rejected
from mirror.keys import Key
from mirror.mapping import Mapping
from mirror.postgres import Database
from mirror.queries import dissolves
from mirror.stamp import Stamp

Row = tuple[str | None, ...]
"""A desired row as texts of the target's types: the columns, then references that are none."""

_RUNNING_BITS = 20  # PostgreSQL allows 2^18 connections, so `running` fits.

_STAMP = """
select
  (pg_snapshot_xmax(s.snapshot)::text::bigint << {bits}) + ((1 << {bits}) - 1)
    - (select count(*) from pg_snapshot_xip(s.snapshot))
    - coalesce((pg_current_xact_id_if_assigned() < pg_snapshot_xmax(s.snapshot))::integer, 0),
  (select epoch from mirror.state),
  {system},
  current_setting('neon.timeline_id', true),
  current_database()
from (select pg_current_snapshot() as snapshot offset 0) as s
"""


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
        self._queries: dict[str, tuple[sql.Composable, sql.Composed]] = {}
        self._dissolve: dict[str, bool] = {}

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        self.database.close()

    @contextmanager
    def snapshot(
        self, *before: sql.Composable, keys: Sequence[tuple[Mapping, Sequence[Key]]] = ()
    ) -> Iterator["Snapshot"]:
        """Yield one REPEATABLE READ, READ ONLY view of the primary, with its stamp.

        In the same round trip, transactions of their own go `before` it, and the rows of `keys`
        are read.
        """
        with self.database.ending():
            rows, *found = self._begin(before, [self.rows_query(*each) for each in keys])
            fence, epoch, system, timeline, name = rows[0]
            if epoch is None:
                raise NotMigrated("primary: mirror.state is empty; run `mirror migrate primary`")
            identity = f"{system or '-'}/{timeline or '-'}/{self.name}/{name}"
            snapshot = Snapshot(self, Stamp(identity, epoch, fence))
            for (mapping, some), there in zip(keys, found, strict=False):
                snapshot.keep(mapping, some, there)
            yield snapshot

    def _begin(
        self, before: Sequence[sql.Composable], reads: Sequence[tuple[sql.Composed, object]]
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
        return sql.SQL(_STAMP).format(bits=sql.Literal(_RUNNING_BITS), system=system)

    def query(self, mapping: Mapping) -> tuple[sql.Composable, sql.Composed]:
        """Return the mapping's query and the list of what a row is made of, as SQL."""
        if mapping.name not in self._queries:
            self._queries[mapping.name] = (
                desired_query(mapping),
                sql.SQL(", ").join(
                    sql.SQL("q.{}::{}::text").format(sql.Identifier(name), _type(kind))
                    for name, kind in mapping.row_layout
                ),
            )
        return self._queries[mapping.name]

    def rows_query(
        self, mapping: Mapping, keys: Sequence[Key], *, expired: bool = False
    ) -> tuple[sql.Composed, dict[str, list[str]]]:
        """Return the query for the desired rows of some keys, and its parameters.

        `expired`: also for those that have expired.
        """
        query, values = self.query(mapping)
        names = [sql.Identifier(name) for name in mapping.key]
        # Named, so that each array is sent once.
        arrays = [
            sql.SQL("{}::text[]::{}[]").format(sql.Placeholder(f"k{number}"), _type(column.type))
            for number, column in enumerate(mapping.key_columns)
        ]
        statement = sql.SQL(
            "select {values} from unnest({arrays}) as k ({names}) join ({query}) as q on {same}"
        ).format(
            values=values,
            arrays=sql.SQL(", ").join(arrays),
            names=sql.SQL(", ").join(names),
            query=sql.SQL(mapping.sql) if expired else query,
            same=sql.SQL(" and ").join(sql.SQL("q.{0} = k.{0}").format(name) for name in names),
        )
        if not self._dissolves(mapping):
            # Says no more than the join, but also reaches below a DISTINCT, GROUP BY or UNION.
            # Elsewhere it costs: it names all rows of a key's user before one of them is picked.
            statement += sql.SQL(" where ") + sql.SQL(" and ").join(
                sql.SQL("q.{} = any({})").format(name, array)
                for name, array in zip(names, arrays, strict=True)
            )
        columns = zip(*keys, strict=True)
        return statement, {f"k{number}": list(column) for number, column in enumerate(columns)}

    def _dissolves(self, mapping: Mapping) -> bool:
        if mapping.name not in self._dissolve:
            self._dissolve[mapping.name] = dissolves(mapping.query)
        return self._dissolve[mapping.name]


class Snapshot:
    """Reads of one moment. Valid inside `Source.snapshot()` only."""

    def __init__(self, source: Source, stamp: Stamp) -> None:
        self._source = source
        self.stamp = stamp
        self._expired = False
        self._known: dict[str, dict[Key, Row | None]] = {}

    def with_expired(self) -> "Snapshot":
        """Return the same view with the rows that have expired, for whoever explains."""
        view = Snapshot(self._source, self.stamp)
        view._expired = True
        return view

    def _query(self, mapping: Mapping) -> tuple[sql.Composable, sql.Composed]:
        desired, values = self._source.query(mapping)
        return (sql.SQL(mapping.sql) if self._expired else desired), values

    def keep(self, mapping: Mapping, keys: Sequence[Key], found: list[Row]) -> None:
        """Know the rows of `keys` from now on, without asking again."""
        rows = _collect(mapping, found)
        self._known[mapping.name] = {key: rows.get(key) for key in keys}

    def rows(self, mapping: Mapping, keys: Sequence[Key]) -> dict[Key, Row]:
        """Return the desired row of each of `keys` that has one."""
        known = self._known.get(mapping.name, {})
        rows = {key: row for key in keys if (row := known.get(key)) is not None}
        if missing := [key for key in keys if key not in known]:
            query = self._source.rows_query(mapping, missing, expired=self._expired)
            rows |= _collect(mapping, self._execute(mapping, *query))
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
        """Return the desired rows under any of a reference's values, in key order.

        `reference` `*` means all rows. At most `limit`, those after key `after` if it is one.
        """
        query, selected = self._query(mapping)
        conditions: list[sql.Composable] = [sql.SQL("true")]
        parameters: list[object] = []
        declared = mapping.reference(reference)
        if declared is not None:
            conditions.append(
                sql.SQL("q.{} = any(%s::text[]::{}[])").format(
                    sql.Identifier(reference), _type(declared.type)
                )
            )
            parameters.append(list(values))
        order = sql.SQL(", ").join(
            sql.SQL('q.{} collate "C"' if column.type == "text" else "q.{}").format(
                sql.Identifier(column.name)
            )
            for column in mapping.key_columns
        )
        if after:
            bound = sql.SQL(", ").join(
                sql.SQL("%s::text::{}").format(_type(column.type)) for column in mapping.key_columns
            )
            conditions.append(sql.SQL("({}) > ({})").format(order, bound))
            parameters += after
        statement = sql.SQL(
            "select {values} from ({query}) as q where {conditions} order by {order} limit %s"
        ).format(
            values=selected,
            query=query,
            conditions=sql.SQL(" and ").join(conditions),
            order=order,
        )
        return _collect(mapping, self._execute(mapping, statement, [*parameters, limit]))

    def rows_with(
        self, mapping: Mapping, values: MappingABC[str, str], *, limit: int
    ) -> dict[Key, Row]:
        """Return at most `limit` desired rows in which these columns hold these values."""
        query, selected = self._query(mapping)
        types = {column.name: column.type for column in mapping.columns}
        statement = sql.SQL("select {values} from ({query}) as q where {same} limit %s").format(
            values=selected,
            query=query,
            same=sql.SQL(" and ").join(
                sql.SQL("q.{} = %s::text::{}").format(sql.Identifier(name), _type(types[name]))
                for name in values
            ),
        )
        return _collect(mapping, self._execute(mapping, statement, [*values.values(), limit]))

    def _execute(self, mapping: Mapping, statement: sql.Composed, parameters: Any) -> list[Row]:
        try:
            return self._source.database.execute(statement, parameters)
        except (Rejected, Halted) as error:
            raise type(error)(f"{error}, while reading mapping {mapping.name!r}") from None


def desired_query(mapping: Mapping) -> sql.Composable:
    """Return the mapping's query without rows that have expired, by the primary's clock.

    The clock is no danger to fences, as it would be within the query: it only takes rows away. One
    that an earlier read brings back is refused by now(), and swept again.
    """
    query = sql.SQL(mapping.sql)
    if mapping.expires is None:
        return query
    return sql.SQL(
        "select e.* from ({query}) as e where e.{moment} is null or e.{moment}::timestamptz > now()"
    ).format(query=query, moment=sql.Identifier(mapping.expires))


def _collect(mapping: Mapping, found: list[Row]) -> dict[Key, Row]:
    names = [column.name for column in mapping.columns]
    places = [names.index(name) for name in mapping.key]
    rows: dict[Key, Row] = {tuple(str(row[i]) for i in places): row for row in found}
    if len(rows) < len(found):
        raise Rejected(
            f"mapping {mapping.name!r}: its query yields two rows for one key; "
            f"make the query DISTINCT or group it."
        )
    return rows


def _type(name: str) -> sql.SQL:
    """Return a declared type as SQL: a developer's word, not a user's."""
    return sql.SQL(name)
