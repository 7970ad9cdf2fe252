"""Retries: events that were set apart, because they failed or their worker crashed.

Each is retried alone, under a lease. A retry applies the event and deletes it here, or postpones
it. After too many failures or crashes the event is buried: dead until an operator runs
`mirror retry`.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from mirror.capture.outbox import Event, Lane
from mirror.capture.statements import statement
from mirror.errors import (
    MappingError,
    MirrorError,
    TooSlow,
    Transient,
    Unexplained,
    UnreadableMapping,
    Withheld,
)
from mirror.errors.redaction import one_line
from mirror.sync.connections import Database

WORKER_DIED = "its worker died"
"""Stands for the error of an event whose worker crashed."""

_MAX_WAIT_SECONDS = 300.0


@dataclass(frozen=True)
class ClaimedEvent(Event):
    """An event with its columns in the outbox or the retries."""

    id: int = 0
    transaction_id: int = 0
    """The transaction that recorded it; 0 for an event that no receipt can wait for."""
    recorded_at: str = ""
    """As the primary prints it: not every timestamp there has a Python value."""
    origin: int | None = None
    """The lowest transaction whose change it continues; None: that of its own transaction."""


@dataclass(frozen=True)
class Failed:
    """An event of a claim that is set apart."""

    event: ClaimedEvent
    error: MirrorError
    alone: bool = True
    """It was attempted alone. Otherwise the error may be another event's."""


@dataclass(frozen=True)
class Attempt:
    """One retry of one event."""

    event: ClaimedEvent
    number: int
    """1 for the first attempt."""
    exhausted: bool
    """The event's workers have crashed too often: it must be buried, not attempted."""
    closing: bool = False
    """Its key may be withheld before that. Not if a worker has crashed in that, too."""
    parked: bool = False
    """The event waits because its mapping cannot be read at all."""
    version: str = ""
    """That of its row in the primary, which changes if the event is announced meanwhile."""
    age: float = 0.0
    """Seconds from the start of the transaction that recorded the event until the lease."""


class Retries:
    """The events that are set apart, over one connection to the primary."""

    def __init__(
        self, database: Database, *, max_attempts: int, retry_seconds: float, lease_seconds: float
    ) -> None:
        self._database = database
        self.max_attempts = max_attempts
        self.retry_seconds = retry_seconds
        self.lease_seconds = lease_seconds

    def set_apart(self, event: ClaimedEvent, *, attempts: int, error: MirrorError | None) -> None:
        """Add a claimed event; `error` None means that its worker crashed."""
        self._database.execute(
            statement("set_event_apart"),
            {
                "id": event.id,
                "transaction_id": event.transaction_id,
                "origin": event.origin,
                "lane": int(event.lane),
                "recorded_at": event.recorded_at,
                "mapping": event.mapping,
                "reference": event.reference,
                "key": list(event.key),
                "attempts": attempts,
                "wait": self._wait(attempts) if error is not None else 0.0,
                "error": _error_text(error),
                "buried": error is not None and self._buries(error, attempts),
                "withheld": isinstance(error, Withheld) and error.closed,
                "parked": isinstance(error, UnreadableMapping),
            },
        )

    def lease(self) -> Attempt | None:
        """Lease the next event that is due for a retry; None if no event is due."""
        rows = self._database.execute(statement("lease_retry"), [self.lease_seconds])
        if not rows:
            return None
        *event, number, deaths, parked, version, age = rows[0]
        exhausted = deaths > self.max_attempts
        closing = deaths == self.max_attempts + 1
        return Attempt(
            claimed_event(event),
            number,
            exhausted=exhausted,
            closing=closing,
            parked=parked,
            version=version,
            age=age,
        )

    def delete(self, attempt: Attempt) -> None:
        """Delete an event that the retry applied; or make it due, if it was announced meanwhile.

        If it was parked, its mapping can be read again, so all events that wait for that are due.
        """
        parameters = {"id": attempt.event.id, "version": attempt.version}
        if not self._database.execute(statement("delete_retry"), parameters):
            self._database.execute(statement("postpone_retry"), [attempt.event.id])
        if attempt.parked:
            self._database.execute(statement("release_parked"), [attempt.event.mapping])

    def record_failure(
        self, attempt: Attempt, error: MirrorError | None, *, withheld: bool = False
    ) -> bool:
        """Store the error and when the next retry is due; return whether the event was buried.

        `error` None means that too many workers crashed. `withheld`: the target grants nothing by
        the event's key.
        """
        buried = error is None or self._buries(error, attempt.number)
        parked = isinstance(error, UnreadableMapping)
        wait = self._wait(attempt.number)
        parameters = {
            "error": _error_text(error),
            "wait": wait,
            "buried": buried,
            "withheld": withheld or (isinstance(error, Withheld) and error.closed),
            "parked": parked,
            "id": attempt.event.id,
        }
        # Together: events that wait for this one would otherwise wait for ever.
        with self._database.transaction():
            self._database.execute(statement("note_failed_retry"), parameters)
            if attempt.parked and not parked:
                self._database.execute(statement("release_parked"), [attempt.event.mapping])
        return buried

    def leave(self, attempt: Attempt) -> None:
        """Leave the event, and all for which it stands, to a worker that knows their mapping."""
        self._database.execute(
            statement("leave_retry"), {"id": attempt.event.id, "mapping": attempt.event.mapping}
        )

    def postpone(self, attempt: Attempt) -> None:
        """Make the event due again, after an attempt that ended without its fault."""
        # If the primary does not answer either, the attempt counts as a crash, and its lease must
        # expire first.
        with suppress(Transient):
            self._database.close()
            self._database.execute(statement("postpone_retry"), [attempt.event.id])

    def _wait(self, attempts: int) -> float:
        """Return the seconds until the next attempt: an exponential backoff."""
        return float(min(self.retry_seconds * 2 ** max(attempts - 1, 0), _MAX_WAIT_SECONDS))

    def _buries(self, error: MirrorError, attempts: int) -> bool:
        """Return whether this failure is the last.

        It never is where the event may not be the cause (slow, unexplained, an unreadable mapping,
        a mapping that only newer workers know), and where its success is the way back for a key
        that is withheld.
        """
        never = TooSlow | Unexplained | UnreadableMapping | Withheld | MappingError
        return attempts >= self.max_attempts and not isinstance(error, never)


def claimed_event(row: Sequence[object]) -> ClaimedEvent:
    """Return an event from its columns, in the table's order."""
    id_, transaction_id, lane, recorded_at, mapping, reference, key, origin = row
    assert isinstance(id_, int)  # noqa: S101 - the column's type, for mypy
    assert isinstance(transaction_id, int)  # noqa: S101 - likewise
    return ClaimedEvent(
        lane=Lane(int(str(lane))),
        mapping=str(mapping),
        # A part may be NULL; it stays None, so that the event is refused for it.
        key=tuple(key) if isinstance(key, list) else (),
        reference=None if reference is None else str(reference),
        id=id_,
        transaction_id=transaction_id,
        recorded_at=str(recorded_at),
        origin=origin if isinstance(origin, int) else None,
    )


def _error_text(error: MirrorError | None) -> str:
    """Return the text to store; an error's message has ids and codes, never a row's values."""
    return WORKER_DIED if error is None else one_line(f"{type(error).__name__}: {error}")
