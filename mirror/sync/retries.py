"""Retries: events that failed for themselves, or on which a worker died.

Each is retried alone under a lease, and in the end buried: after so many failures, or so many
dead workers.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from mirror.capture.outbox import Event, Lane
from mirror.capture.statements import statement
from mirror.errors import MirrorError, TooSlow, Transient, Unexplained
from mirror.sync.connections import Database

_DIED = "its worker died"


@dataclass(frozen=True)
class ClaimedEvent(Event):
    """An event as it stands in the outbox, or among the retries."""

    id: int = 0
    transaction_id: int = 0
    """Of the transaction that recorded it; 0 for none that anybody waits for."""
    recorded_at: datetime | None = None


@dataclass(frozen=True)
class Attempt:
    """One event, to be tried alone."""

    event: ClaimedEvent
    number: int
    """1 for the first attempt."""
    exhausted: bool
    """It outlived as many workers as it may; no attempt is left."""


class Retries:
    """The events that were set apart, over one connection to the primary."""

    def __init__(
        self, database: Database, *, max_attempts: int, retry_seconds: float, lease_seconds: float
    ) -> None:
        self._database = database
        self.max_attempts = max_attempts
        self.retry_seconds = retry_seconds
        self.lease_seconds = lease_seconds

    def defer(self, event: ClaimedEvent, *, attempts: int, error: MirrorError | None) -> None:
        """Add an event that was claimed; None for an error means that its worker died."""
        self._database.execute(
            statement("set_event_apart"),
            [
                event.id,
                event.transaction_id,
                int(event.lane),
                event.recorded_at,
                event.mapping,
                event.reference,
                list(event.key),
                attempts,
                self._wait(attempts) if error is not None else 0.0,
                _told(error),
                error is not None and self._buries(error, attempts),
            ],
        )

    def take(self) -> Attempt | None:
        """Lease the next event that is due for a retry."""
        rows = self._database.execute(statement("lease_retry"), [self.lease_seconds])
        if not rows:
            return None
        *event, number, deaths = rows[0]
        return Attempt(claimed_event(event), number, exhausted=deaths > self.max_attempts)

    def forget(self, attempt: Attempt) -> None:
        """Remove an event whose retry went through."""
        self._database.execute(statement("delete_retries"), [[attempt.event.id]])

    def failed(self, attempt: Attempt, error: MirrorError | None) -> bool:
        """Note a failed retry and when the next is due; return whether it was buried.

        None for an error means that its worker died.
        """
        buried = error is None or self._buries(error, attempt.number)
        self._database.execute(
            statement("note_failed_retry"),
            [_told(error), self._wait(attempt.number), buried, attempt.event.id],
        )
        return buried

    def postponed(self, attempt: Attempt) -> None:
        """Give back an attempt that ended for no fault of the event."""
        # Where the primary is away too, this one counts as a death, and its lease must run out.
        with suppress(Transient):
            self._database.close()
            self._database.execute(statement("postpone_retry"), [attempt.event.id])

    def _wait(self, attempts: int) -> float:
        return float(min(self.retry_seconds * 2 ** (attempts - 1), 300.0))

    def _buries(self, error: MirrorError, attempts: int) -> bool:
        return attempts >= self.max_attempts and not isinstance(error, TooSlow | Unexplained)


def claimed_event(row: Sequence[object]) -> ClaimedEvent:
    """Return an event from its columns, in the order of the table."""
    id_, transaction_id, lane, recorded_at, mapping, reference, key = row
    assert isinstance(id_, int)  # noqa: S101 - the column's type, told to mypy
    assert isinstance(transaction_id, int)  # noqa: S101 - likewise
    assert isinstance(recorded_at, datetime)  # noqa: S101 - likewise
    return ClaimedEvent(
        lane=Lane(int(str(lane))),
        mapping=str(mapping),
        key=tuple(str(part) for part in key) if isinstance(key, list) else (),
        reference=None if reference is None else str(reference),
        id=id_,
        transaction_id=transaction_id,
        recorded_at=recorded_at,
    )


def _told(error: MirrorError | None) -> str:
    """Return what to keep of an error: its message names ids and codes, never values."""
    return _DIED if error is None else f"{type(error).__name__}: {error}"
