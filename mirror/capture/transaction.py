"""Transaction: keeps the events of a transaction until it ends.

They stay in memory until commit; then one statement writes them. On rollback, they are dropped.
`SessionEvents` reads private attributes of SQLAlchemy's session, for the state of its commit.
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
        # A dict keeps the order and drops duplicates.
        self.events: dict[Event, None] = {}
        self.recorded: RecordedEvents | None = None

    def record(self, _owner: Any, events: Iterable[Event]) -> None:
        """Keep events in memory until commit; `_owner` is the session or connection."""
        self.events.update(dict.fromkeys(events))

    def receipt(self, _owner: Any, registry: Registry) -> RecordedEvents:
        """Return the one RecordedEvents that all receipts of the transaction share."""
        if self.recorded is None:
            self.recorded = RecordedEvents(registry)
        return self.recorded

    def write(self, connection: Connection) -> RootTransaction | None:
        """Write the events to the outbox; return the transaction that they are in.

        If a receipt was taken, also read back the events that triggers recorded in the transaction.
        None: it has no events.

        Raises:
            NotInTransaction: the connection is in AUTOCOMMIT mode.
            NotMigrated: the primary has no outbox, or lacks the functions for receipts.
        """
        if not self.events and self.recorded is None:
            return None
        _refuse_autocommit(connection)
        any_recorded = bool(self.events)
        if any_recorded:
            insert(connection, self.events)
            self.events.clear()
        if self.recorded is not None:
            # The receipt also covers events that triggers have recorded.
            any_recorded = self.recorded.read(connection) or any_recorded
        return connection.get_transaction() if any_recorded else None

    def reset(self) -> None:
        """Drop all events, because the transaction has ended."""
        self.events.clear()
        if self.recorded is not None:
            self.recorded.end()
            self.recorded = None

    def ring(self, carrier: RootTransaction) -> None:
        """Ring the doorbell, which wakes a worker, when the transaction `carrier` has ended."""
        self.doorbell.ring(after=(lambda: not carrier.is_active) if carrier.is_active else None)


class SessionEvents(TransactionEvents):
    """The events of a session, written when its outermost transaction commits.

    Savepoints make no difference: releasing one writes nothing, and rolling one back drops nothing.
    An event without a change is harmless.
    """

    def __init__(self, doorbell: Doorbell, session: Session) -> None:
        super().__init__(doorbell)
        self._carrier: RootTransaction | None = None
        # A listener may call the first hook during the commit. Then before_commit has passed, or
        # SQLAlchemy will not call our listener any more. There is no public way to see that.
        # `_current_fn` is the method that is changing the transaction's state. (`_begin` is the
        # flush before a savepoint.)
        changing = getattr(session.get_transaction(), "_current_fn", SessionEvents)
        ending = changing is not None and changing.__name__ != "_begin"
        # The listener may belong to the flush within the commit.
        self._late: bool = ending and session._flushing  # noqa: SLF001 - there is no public way
        # True from before_commit to the end of that commit, of a savepoint or of the outermost.
        self._committing = ending and not self._late
        event.listen(session, "before_commit", self._before_commit)
        event.listen(session, "after_commit", self._after_commit)
        event.listen(session, "after_transaction_end", self._after_end)

    def record(self, owner: Any, events: Iterable[Event]) -> None:
        """Keep events until commit; write them at once if before_commit has passed."""
        super().record(owner, events)
        self._write_late(owner)

    def receipt(self, owner: Any, registry: Registry) -> RecordedEvents:
        """Return the RecordedEvents; read the events at once if before_commit has passed."""
        recorded = super().receipt(owner, registry)
        self._write_late(owner)
        return recorded

    def _write_late(self, session: Session) -> None:
        if self._committing and not session.in_nested_transaction():
            self._write(session)
        elif self._late:
            # Written after the flush. Then SQLAlchemy would mask an error by one of its own.
            outbox_connection(session)

    def _before_commit(self, session: Session) -> None:
        if session.in_nested_transaction() and not self._committing:
            # A savepoint is released. Or the outermost transaction commits while a savepoint is
            # open; then the savepoint's own before_commit follows at once.
            self._committing = True
            return
        self._late = False
        # Listeners of this flush may call hooks, too.
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
                # The carrier is still active if the session joined a transaction of its caller.
                self.ring(carrier)

    def _after_end(self, session: Session, transaction: SessionTransaction) -> None:
        parent = transaction.parent
        if self._late and not transaction.nested and parent is not None and parent.is_active:
            # A flush, which is a transaction to SQLAlchemy, has ended with success.
            self._write(session)
        if transaction.parent is None:
            self.reset()
            self._carrier = None
            self._late = False
        if transaction.parent is None or transaction.nested:
            self._committing = False


class ConnectionEvents(TransactionEvents):
    """The events of a connection, written when its transaction commits."""

    def __init__(self, doorbell: Doorbell, connection: Connection) -> None:
        super().__init__(doorbell)
        event.listen(connection, "commit", self._commit)
        event.listen(connection, "rollback", self._rollback)
        event.listen(connection, "prepare_twophase", self._commit)
        event.listen(connection, "commit_twophase", self._commit_twophase)
        event.listen(connection, "rollback_twophase", self._rollback)

    def record(self, owner: Any, events: Iterable[Event]) -> None:
        """Keep events until commit.

        Raises:
            NotInTransaction: the connection is in AUTOCOMMIT mode.
        """
        _refuse_autocommit(owner)
        super().record(owner, events)

    def _commit(self, connection: Connection, *_: object) -> None:
        carrier = self.write(connection)
        if carrier is not None:
            # SQLAlchemy calls this before a connection's commit; it has no event after it.
            self.ring(carrier)
        self.reset()

    def _commit_twophase(self, connection: Connection, _xid: object, is_prepared: bool) -> None:  # noqa: FBT001 - SQLAlchemy calls it
        if not is_prepared:
            self._commit(connection)

    def _rollback(self, *_: object) -> None:
        self.reset()


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
