"""Claims: taking events out of the outbox, and giving them back.

A claim deletes its events in a transaction that stays open until they are mirrored: a crash
gives them back by itself. Beside it, a note of the claim is committed before what they name is
read; whoever can lock an event that a note names knows that its last worker died on it. Such
events, and those that failed for themselves, move to the retries (`mirror.retries`).
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final
from uuid import UUID, uuid4

from psycopg import sql

from mirror.capture.outbox import Event, Lane
from mirror.capture.statements import statement
from mirror.errors import MirrorError, Transient
from mirror.sync.connections import Database
from mirror.sync.floor import Floor
from mirror.sync.heartbeats import Heartbeat
from mirror.sync.retries import Attempt, ClaimedEvent, Retries, claimed_event

# After so many events, a claim's way to the first one is worth being made shorter.
_MANY: Final = 1_000


class Claim:
    """Some events, held in an open transaction."""

    def __init__(self, queue: "Queue", events: list[ClaimedEvent], *, full: bool) -> None:
        self._queue = queue
        self._note = uuid4()
        self.events = events
        self.full = full
        """There may be more where these came from."""

    @property
    def note(self) -> sql.Composed:
        """Statements that commit which events this claim holds, once or again.

        They go first on the connection that reads what the events name. Not waiting for the disk:
        the note must survive the worker, not the server, whose crash ends both.
        """
        return sql.SQL(statement("note_claim")).format(
            sql.Literal(self._note), sql.Literal([event.id for event in self.events])
        )

    def settle(
        self, failed: Iterable[tuple[ClaimedEvent, MirrorError]] = (), more: Sequence[Event] = ()
    ) -> None:
        """Commit: the events are done, except `failed`, which move to the retries.

        `more` are events to go on with, such as the rest of a large scope.
        """
        database = self._queue.claims
        for event, error in failed:
            self._queue.retries.defer(event, attempts=1, error=error)
        self._queue.record(more)
        database.together(
            sql.SQL(statement("delete_claim_note")).format(sql.Literal(self._note)),
            # Not waiting for the disk: what a crash of the server takes back is delivered again.
            sql.SQL("set local synchronous_commit = off"),
            sql.SQL("commit"),
        )

    def release(self) -> None:
        """Give the events back as they were; nothing is held against them."""
        # The note first: whoever found it beside events that are free would hold it against them.
        self._queue.withdraw(self._note)
        self._queue.claims.rollback()


class Queue:
    """The outbox as a worker sees it.

    Two connections to the primary: `claims` holds the open transaction, `notes` commits what
    must last whatever becomes of it.
    """

    def __init__(
        self,
        claims: Database,
        notes: Database,
        *,
        max_attempts: int = 5,
        retry_seconds: float = 1.0,
        lease_seconds: float = 60.0,
        idle_seconds: float = 60.0,
    ) -> None:
        self.claims = claims
        self.notes = notes
        self.retries = Retries(
            claims,
            max_attempts=max_attempts,
            retry_seconds=retry_seconds,
            lease_seconds=lease_seconds,
        )
        self.idle_seconds = idle_seconds
        self._floor = Floor(claims)
        self._claimed = 0
        """Events since the floor was found."""
        self._withdrawn: set[UUID] = set()
        self._heartbeat = Heartbeat("drain")

    def close(self) -> None:
        """Close both connections; the next use opens others."""
        self.claims.close()
        self.notes.close()
        self._floor.forget()

    def claim(self, limit: int) -> Claim | None:
        """Take up to `limit` events, revocations first; None if there are none to take.

        Events whose last worker died are set apart on the way; a claim may come back empty.
        """
        self.withdraw()
        self._heartbeat.beat(self.claims)
        try:
            if self._claimed >= _MANY or self._floor.stale:
                self._floor.advance()
                self._claimed = 0
            few = max(1, limit // 10)
            values = {"floor": self._floor.value, "limit": limit, "few": few}
            (taken,) = self.claims.begin(
                sql.SQL(statement("claim_events")).format(
                    **{name: sql.Literal(value) for name, value in values.items()}
                ),
                idle_seconds=self.idle_seconds,
            )
            if not taken:
                self.claims.rollback()
                return None
            events = [claimed_event(event) for *event, _ in taken]
            events.sort(key=lambda event: (event.lane, event.id))
            self._claimed += len(events)
            *_, noted = taken[0]
            suspects = self._set_suspects_apart([event.id for event in events]) if noted else set()
            held = [event for event in events if event.id not in suspects]
            for event in events:
                if event.id in suspects:
                    self.retries.defer(event, attempts=0, error=None)
            grants = sum(event.lane is Lane.GRANT for event in events)
            full = len(events) == limit or (grants == few and grants < len(events))
            return Claim(self, held, full=full)
        except BaseException:
            self.claims.rollback()
            raise

    def touch(self) -> None:
        """Keep the claim's transaction from being ended as idle."""
        self.claims.execute("select 1")

    def withdraw(self, *notes: UUID) -> None:
        """Delete notes of claims that ended without their worker's end.

        What cannot be deleted now, because the primary is down, is deleted before the next claim.
        """
        self._withdrawn.update(notes)
        if not self._withdrawn:
            return
        with suppress(Transient):
            self.notes.execute(statement("delete_claim_notes"), [list(self._withdrawn)])
            self._withdrawn.clear()

    def announce(self, events: Sequence[Event]) -> None:
        """Add events to the outbox at once, whatever becomes of the claim.

        Not those that wait already, or are in this very claim (which has not committed yet): each
        attempt at an event may announce the same ones.
        """
        for event in events:
            parameters = {
                "lane": int(event.lane),
                "mapping": event.mapping,
                "reference": event.reference,
                "key": list(event.key),
            }
            self.notes.execute(statement("announce_event"), parameters)

    def _set_suspects_apart(self, mine: list[int]) -> set[int]:
        found = self.claims.execute(statement("find_suspects"), {"mine": mine})
        suspects = {event for _, events in found for event in events}
        if suspects:
            parameters = {"suspects": sorted(suspects), "notes": [note for note, _ in found]}
            empty = [
                row[0]
                for row in self.claims.execute(statement("remove_suspects_from_notes"), parameters)
            ]
            self.claims.execute(statement("delete_claim_notes"), [empty])
        return suspects

    def record(self, events: Sequence[Event]) -> None:
        """Add events to the outbox, in the claim's transaction."""
        for event in events:
            self.claims.execute(
                statement("record_event"),
                [int(event.lane), event.mapping, event.reference, list(event.key)],
            )

    def succeeded(self, attempt: Attempt, more: Sequence[Event] = ()) -> None:
        """Forget an event whose retry went through; `more` are events to go on with."""
        with self.claims.transaction():
            self.record(more)
            self.retries.forget(attempt)
