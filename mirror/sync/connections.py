"""Connections: PostgreSQL over psycopg, with its errors translated into ours.

Everything here works behind a transaction pooler (Neon's, Supabase's): no prepared statements, no
session settings, no session locks. Required settings are SET LOCAL, sent in one round trip with
BEGIN.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from mirror.errors import MirrorError, Transient
from mirror.errors.sqlstates import translate
from mirror.sync.deadlines import Connection

# row_security: a policy that would hide rows from this role becomes an error. Otherwise a row that
# is only hidden would be deleted in the target. One statement sets everything: each statement of a
# message has a result of its own, which takes the driver longer to read than the server to run.
_BEGIN: Final = """
begin {};
select set_config('statement_timeout', {}, true),
  set_config('idle_in_transaction_session_timeout', {}, true),
  set_config('timezone', 'UTC', true), set_config('datestyle', 'ISO, YMD', true),
  set_config('intervalstyle', 'postgres', true), set_config('extra_float_digits', '1', true),
  set_config('bytea_output', 'hex', true), set_config('row_security', 'off', true)
"""

_NO_WAIT: Final = sql.SQL("set local synchronous_commit = off")
"""The commit does not wait for the disk."""


class Database:
    """One connection, opened when needed, and opened again after it was lost.

    `role` names the database (primary, target) in error messages. A statement may take
    `statement_seconds` on the server, and its way there and back `connect_seconds` more.
    """

    def __init__(
        self, url: str, *, role: str, connect_seconds: int = 5, statement_seconds: float = 8.0
    ) -> None:
        self.url = url
        self.role = role
        self.connect_seconds = connect_seconds
        self.statement_seconds = statement_seconds
        self._connection: Connection | None = None
        self._timeout_factor = 1
        """That of the transaction that is open."""

    def __repr__(self) -> str:
        return f"<Database {self.role}>"

    def twin(self) -> "Database":
        """Return another connection to the same database, not yet open."""
        return Database(
            self.url,
            role=self.role,
            connect_seconds=self.connect_seconds,
            statement_seconds=self.statement_seconds,
        )

    @property
    def connection(self) -> Connection:
        """The open connection, in autocommit mode.

        Raises:
            Unreachable: the server does not answer.
        """
        if self._connection is None or self._connection.closed:
            with translated(self.role):
                self._connection = Connection.connect(
                    self.url,
                    autocommit=True,
                    prepare_threshold=None,
                    connect_timeout=self.connect_seconds,
                    application_name="permission-mirror",
                    # By default TCP notices a vanished server only after two hours.
                    keepalives=1,
                    keepalives_idle=10,
                    keepalives_interval=5,
                    keepalives_count=3,
                    tcp_user_timeout=30_000,
                )
        return self._connection

    @property
    def goes_on(self) -> bool:
        """Whether the open transaction failed by one of its statements, and not the connection."""
        connection = self._connection
        return (
            connection is not None
            and connection.info.transaction_status is TransactionStatus.INERROR
        )

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def execute(
        self, query: str | sql.SQL | sql.Composed, parameters: Any = None, *, binary: bool = False
    ) -> list[Any]:
        """Run one statement and return its rows; an empty list if it returns none.

        `binary` transfers the values in binary format: half the size of text for `bytea`.
        """
        with translated(self.role):
            cursor = self._limited().execute(query, parameters, binary=binary)
            return cursor.fetchall() if cursor.rownumber is not None else []

    def column_types(self, query: sql.Composed, parameters: Any = None) -> list[int]:
        """Run one statement and return the type oid of each of its columns."""
        with translated(self.role):
            described = self._limited().execute(query, parameters).description
            return [column.type_code for column in described or []]

    def call(
        self,
        query: str,
        arguments: Sequence[str],
        *,
        timeout_factor: int = 1,
        durable: bool = True,
    ) -> list[Any]:
        """Run one statement with texts for its placeholders (`{}`), and return its rows.

        `timeout_factor` multiplies the statement timeout. `durable` False: a crash of the server
        within the next moments may undo it.
        """
        # All statements are in one message, so they share a transaction, and SET LOCAL holds.
        found = self.together(
            self._limit(timeout_factor),
            *([] if durable else [_NO_WAIT]),
            sql.SQL(query).format(*map(sql.Literal, arguments)),
            timeout_factor=timeout_factor,
        )
        return found[0] if found else []

    def call_early(
        self, query: str, arguments: Sequence[str], *, flush: sql.SQL, timeout_factor: int = 1
    ) -> list[Any]:
        """Do as `call`, but let others see what it writes before that is on disk.

        `flush` then runs in a transaction of its own, in the same round trip. Its commit waits
        until all commits before it are on disk, so this returns when the write is there.
        """
        self._expect(TransactionStatus.IDLE)
        try:
            found = self.together(
                sql.SQL("begin"),
                self._limit(timeout_factor),
                sql.SQL(query).format(*map(sql.Literal, arguments)),
                _NO_WAIT,
                sql.SQL("commit"),
                flush,
                timeout_factor=timeout_factor,
            )
        except MirrorError:
            if self.goes_on:
                self.rollback()
            raise
        return found[0]

    def _limit(self, timeout_factor: int) -> sql.Composed:
        """Return the statement that limits the time of each statement of a transaction."""
        return sql.SQL("set local statement_timeout = {}").format(
            sql.Literal(int(self.statement_seconds * 1000 * timeout_factor))
        )

    def together(
        self, *statements: sql.Composable, timeout_factor: int | None = None
    ) -> list[list[Any]]:
        """Run statements in one round trip; return the rows of each that returns rows.

        `timeout_factor` multiplies the statement timeout in the time that all of them may take
        together; None: the transaction's.
        """
        with translated(self.role):
            connection = self._limited(timeout_factor)
            # To join them as statements takes longer.
            texts = b"; ".join(statement.as_bytes(connection) for statement in statements)
            cursor = connection.execute(texts)
            found = []
            while True:
                # `rownumber` is None without a result, as `description` is, which takes longer.
                if cursor.rownumber is not None:
                    found.append(cursor.fetchall())
                if not cursor.nextset():
                    return found

    def bound(self, query: sql.SQL | sql.Composed, parameters: Any) -> sql.SQL:
        """Return a statement with its parameters filled in, to send it together with others."""
        with translated(self.role):
            text = psycopg.ClientCursor(self.connection).mogrify(query, parameters)
        return sql.SQL(text)

    @contextmanager
    def transaction(
        self, *, mode: str = "", idle_seconds: float = 60, timeout_factor: int = 1
    ) -> Iterator[None]:
        """Run a block in one transaction with our timeouts; roll back if it raises."""
        with self.ending():
            self.begin(mode=mode, idle_seconds=idle_seconds, timeout_factor=timeout_factor)
            yield

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Run a block that begins a transaction; commit at the end, or roll back if it raises."""
        try:
            yield
            self.execute("commit")
        except BaseException:
            self.rollback()
            raise
        finally:
            self._timeout_factor = 1

    def begin(
        self,
        *first: sql.Composable,
        ending: Sequence[sql.Composable] = (),
        mode: str = "",
        idle_seconds: float = 60,
        timeout_factor: int = 1,
        slow: int = 1,
    ) -> list[list[Any]]:
        """Begin a transaction, and return the rows of each statement that returns rows.

        One round trip sends the statements `ending`, which end the transaction that is open, BEGIN
        with `mode` after it, and the statements `first` of the new transaction. `timeout_factor`
        multiplies the statement timeout; as many as `slow` of the statements may take that long.

        A transaction that is open without statements to end it is a bug in the caller. PostgreSQL
        would only warn, and the next commit would end both.
        """
        self._expect(TransactionStatus.INTRANS if ending else TransactionStatus.IDLE)
        _, *found = self.together(
            *ending,
            _begin(mode, self.statement_seconds * timeout_factor, idle_seconds),
            *first,
            timeout_factor=timeout_factor * slow,
        )
        self._timeout_factor = timeout_factor
        return found

    def _expect(self, status: TransactionStatus) -> None:
        if self.connection.info.transaction_status is not status:
            self.close()
            raise Transient(f"{self.role}: the connection was in use; it has been closed")

    def cancel(self) -> None:
        """Cancel the statement that another thread runs, if there is one."""
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.cancel_safe(timeout=self.connect_seconds)

    def rollback(self) -> None:
        """Roll back. If that fails, close the connection, which has the same effect."""
        if self._connection is None or self._connection.closed:
            return
        try:
            self._limited(0).execute("rollback")
        except psycopg.Error:
            self.close()

    def _limited(self, timeout_factor: int | None = None) -> Connection:
        """Return the connection, on which the next statement has a deadline."""
        factor = self._timeout_factor if timeout_factor is None else timeout_factor
        connection = self.connection
        connection.seconds = self.statement_seconds * factor + self.connect_seconds
        return connection


@cache
def _begin(mode: str, statement_seconds: float, idle_seconds: float) -> sql.SQL:
    """Return the statements that begin a transaction, as one text: to compose it takes longer."""
    composed = sql.SQL(_BEGIN).format(
        sql.SQL(mode),
        sql.Literal(str(int(statement_seconds * 1000))),
        sql.Literal(str(int(idle_seconds * 1000))),
    )
    return sql.SQL(composed.as_string(None))


@contextmanager
def translated(role: str) -> Iterator[None]:
    """Translate psycopg's errors into ours; `role` (primary, target) names the database."""
    try:
        yield
    except psycopg.Error as error:
        # Without the cause: its message has DETAIL and CONTEXT, which contain values of rows.
        raise translate(error, role) from None
