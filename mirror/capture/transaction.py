"""Pending: the events of a transaction that has not committed yet.

They are kept in memory until the commit, written by one statement then, and forgotten when the
transaction ends otherwise.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, RootTransaction, event
from sqlalchemy.orm import Session, SessionTransaction

from mirror.capture.doorbell import Doorbell
from mirror.capture.outbox import Event, insert, outbox_connection
from mirror.capture.receipts import RecordedEvents
from mirror.errors import NotInTransaction
from mirror.model.registry import Registry


class TransactionEvents:
    """The events of one session's or connection's transaction, until it ends."""

    def __init__(self, doorbell: Doorbell) -> None:
        self.doorbell = doorbell
        # A dict for its order and its keys: the same event twice is one.
        self.events: dict[Event, None] = {}
        self.recorded: RecordedEvents | None = None

    def record(self, _place: Any, recorded: Iterable[Event]) -> None:
        """Keep events until commit."""
        self.events.update(dict.fromkeys(recorded))

    def receipt(self, _place: Any, registry: Registry) -> RecordedEvents:
        """Return what the transaction's receipts share."""
        if self.recorded is None:
            self.recorded = RecordedEvents(registry)
        return self.recorded

    def write(self, connection: Connection) -> RootTransaction | None:
        """Record the events; return the transaction that carries them, None if there are none."""
        if not self.events and self.recorded is None:
            return None
        _refuse_autocommit(connection)
        some = bool(self.events)
        if some:
            insert(connection, self.events)
            self.events.clear()
        if self.recorded is not None:
            # Triggers may have recorded others, for which somebody is going to wait.
            some = self.recorded.read(connection) or some
        return connection.get_transaction() if some else None

    def forget(self) -> None:
        """Start anew: the transaction has ended."""
        self.events.clear()
        if self.recorded is not None:
            self.recorded.end()
            self.recorded = None

    def ring(self, carrier: RootTransaction) -> None:
        """Ring once `carrier` has committed."""
        self.doorbell.ring(after=(lambda: not carrier.is_active) if carrier.is_active else None)


class SessionEvents(TransactionEvents):
    """Written when a session's outermost transaction commits.

    Savepoints are not followed. Releasing one writes nothing yet, and the events of one that was
    rolled back stay: they say too much, which does no harm.
    """

    def __init__(self, doorbell: Doorbell, session: Session) -> None:
        super().__init__(doorbell)
        self._carrier: RootTransaction | None = None
        # A first hook may come from a listener, when the commit is under way and its before_commit
        # is over or will not reach ours any more. Nothing public tells. (A savepoint's beginning
        # flushes as well.)
        changing = getattr(session.get_transaction(), "_current_fn", SessionEvents)
        ending = changing is not None and changing.__name__ != "_begin"
        # That listener may be one of the commit's own flush.
        self._late: bool = ending and session._flushing  # noqa: SLF001
        # Between before_commit and the end of that commit, a savepoint's or the outermost.
        self._committing = ending and not self._late
        event.listen(session, "before_commit", self._before_commit)
        event.listen(session, "after_commit", self._after_commit)
        event.listen(session, "after_transaction_end", self._after_end)

    def record(self, place: Any, recorded: Iterable[Event]) -> None:
        """Keep events until commit; write them at once if that is past before_commit."""
        super().record(place, recorded)
        self._write_late(place)

    def receipt(self, place: Any, registry: Registry) -> RecordedEvents:
        """Return what receipts share; read it at once if that is past before_commit."""
        recorded = super().receipt(place, registry)
        self._write_late(place)
        return recorded

    def _write_late(self, session: Session) -> None:
        if self._committing and not session.in_nested_transaction():
            self._write(session)

    def _before_commit(self, session: Session) -> None:
        if session.in_nested_transaction() and not self._committing:
            # A savepoint is released. Or the outermost transaction commits while one is open:
            # then the savepoint's own before_commit follows at once.
            self._committing = True
            return
        self._late = False
        # Listeners of what this flushes may call hooks, too.
        session.flush()
        self._write(session)
        self._committing = True

    def _write(self, session: Session) -> None:
        if self.events or self.recorded is not None:
            self._carrier = self.write(outbox_connection(session)) or self._carrier

    def _after_commit(self, session: Session) -> None:
        if not session.in_nested_transaction():
            carrier, self._carrier = self._carrier, None
            if carrier is not None:
                # Still active where the session has joined a transaction of its caller's.
                self.ring(carrier)

    def _after_end(self, session: Session, transaction: SessionTransaction) -> None:
        parent = transaction.parent
        if self._late and not transaction.nested and parent is not None and parent.is_active:
            # The end of a flush that succeeded, which is a transaction to SQLAlchemy.
            self._write(session)
        if transaction.parent is None:
            self.forget()
            self._carrier = None
            self._late = False
        if transaction.parent is None or transaction.nested:
            self._committing = False


class ConnectionEvents(TransactionEvents):
    """Written when a connection's transaction commits."""

    def __init__(self, doorbell: Doorbell, connection: Connection) -> None:
        super().__init__(doorbell)
        event.listen(connection, "commit", self._commit)
        event.listen(connection, "rollback", self._rollback)
        event.listen(connection, "prepare_twophase", self._commit)
        event.listen(connection, "rollback_twophase", self._rollback)

    def record(self, place: Any, recorded: Iterable[Event]) -> None:
        """Keep events until commit."""
        _refuse_autocommit(place)
        super().record(place, recorded)

    def _commit(self, connection: Connection, *_: object) -> None:
        carrier = self.write(connection)
        if carrier is not None:
            # SQLAlchemy tells before a connection's commit, not after it.
            self.ring(carrier)
        self.forget()

    def _rollback(self, *_: object) -> None:
        self.forget()


def _refuse_autocommit(connection: Connection) -> None:
    driver = connection.connection.dbapi_connection
    if (
        connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"
        or getattr(driver, "autocommit", False) is True
    ):
        raise NotInTransaction(
            "this connection is in AUTOCOMMIT mode, so the change and its event cannot commit "
            "together; use a transaction."
        )
