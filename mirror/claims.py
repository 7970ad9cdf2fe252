"""Claims: taking events out of the outbox, and giving them back.

A claim deletes its events in a transaction that stays open until they are mirrored: a crash
gives them back by itself. Beside it, a note of the claim is committed before the events are
read; whoever can lock an event that a note names knows that its last worker died on it. Such
events, and those that failed for themselves, move to `mirror.retries`, where each is retried
alone under a lease, and in the end buried: after so many failures, or so many dead workers.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from psycopg import sql

from mirror.errors import MirrorError, TooSlow, Transient, Unexplained
from mirror.keys import Key
from mirror.outbox import Event, Lane
from mirror.postgres import Database


@dataclass(frozen=True)
class Claimed(Event):
    """An event as it stands in the outbox."""

    id: int = 0
    recorded_at: datetime | None = None


@dataclass(frozen=True)
class Attempt:
    """One event, to be tried alone."""

    event: Claimed
    number: int
    """1 for the first attempt."""
    exhausted: bool
    """It outlived as many workers as it may; no attempt is left."""


_DIED = "its worker died"


_CLAIM = """
delete from mirror.outbox
where ctid = any (array(
  select ctid from mirror.outbox
  order by lane, id
  limit %s
  for update skip locked
))
returning id, lane, recorded_at, mapping, reference, key
"""

# What an earlier claim noted and this one could lock: its worker is gone.
_SUSPECTS = """
select id, array(select unnest(events) intersect select unnest(%(mine)s::bigint[]))
from mirror.claims
where events && %(mine)s::bigint[]
"""

_FORGET = """
with kept as (
  update mirror.claims
  set events = array(select unnest(events) except select unnest(%(suspects)s::bigint[]))
  where id = any(%(notes)s::uuid[])
  returning id, events
)
select id from kept where events = '{}'
"""

_DEFER = """
insert into mirror.retries
  (id, lane, recorded_at, mapping, reference, key, attempts, due_at, error, buried_at)
values (%s, %s, %s, %s, %s, %s, %s, now() + %s * interval '1 second', %s,
  case when %s then now() end)
"""

_ANNOUNCE = """
insert into mirror.outbox (lane, mapping, reference, key)
select %(lane)s, %(mapping)s, %(reference)s, %(key)s::text[]
where not exists (
  select from mirror.outbox
  where mapping = %(mapping)s and reference = %(reference)s and key = %(key)s::text[]
) and not exists (
  select from mirror.retries
  where mapping = %(mapping)s and reference = %(reference)s and key = %(key)s::text[]
)
"""

# The lease, and a death, are committed before the attempt, for a worker that dies in it; one that
# lives takes the death back.
_TAKE = """
update mirror.retries
set deaths = deaths + 1, due_at = now() + %s * interval '1 second'
where id = (
  select id from mirror.retries
  where buried_at is null and due_at <= now()
  order by lane, due_at
  limit 1
  for update skip locked
)
returning id, lane, recorded_at, mapping, reference, key, attempts + 1, deaths
"""


class Claim:
    """Some events, held in an open transaction."""

    def __init__(self, queue: "Queue", note: UUID, events: list[Claimed], *, full: bool) -> None:
        self._queue = queue
        self._note = note
        self.events = events
        self.full = full
        """There may be more where these came from."""

    def settle(
        self, failed: Iterable[tuple[Claimed, MirrorError]] = (), more: Sequence[Event] = ()
    ) -> None:
        """Commit: the events are done, except `failed`, which move to the retries.

        `more` are events to go on with, such as the rest of a large scope.
        """
        database = self._queue.claims
        for event, error in failed:
            self._queue.defer(event, attempts=1, error=error)
        self._queue.record(more)
        database.execute("delete from mirror.claims where id = %s", [self._note])
        # Not waiting for the disk: what a crash of the server takes back is delivered once more.
        database.execute("set local synchronous_commit = off; commit")

    def release(self) -> None:
        """Give the events back as they were; nothing is held against them."""
        # The note first: whoever found it beside events that are free would hold it against them.
        self._queue.withdraw(self._note)
        self._queue.claims.rollback()


class Queue:
    """The outbox as a worker sees it.

    Two connections to the primary: `claims` holds the open transaction, `notes` commits beside it.
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
        self.max_attempts = max_attempts
        self.retry_seconds = retry_seconds
        self.lease_seconds = lease_seconds
        self.idle_seconds = idle_seconds
        self._withdrawn: set[UUID] = set()

    def close(self) -> None:
        """Close both connections; the next use opens others."""
        self.claims.close()
        self.notes.close()

    def claim(self, limit: int) -> Claim | None:
        """Take up to `limit` events, revocations first; None if there are none to take.

        Events whose last worker died are set apart on the way; a claim may come back empty.
        """
        self.withdraw()
        try:
            self.claims.begin(idle_seconds=self.idle_seconds)
            events = sorted(
                (_claimed(row) for row in self.claims.execute(_CLAIM, [limit])),
                key=lambda event: (event.lane, event.id),
            )
            if not events:
                self.claims.rollback()
                return None
            suspects = self._set_suspects_apart([event.id for event in events])
            held = [event for event in events if event.id not in suspects]
            for event in events:
                if event.id in suspects:
                    self.defer(event, attempts=0, error=None)
            return Claim(self, self._note(held), held, full=len(events) == limit)
        except BaseException:
            self.claims.rollback()
            raise

    def _note(self, events: list[Claimed]) -> UUID:
        """Commit which events this claim holds, without waiting for the disk.

        The note must survive the worker, not the server: a crash of the server ends both.
        """
        note = uuid4()
        try:
            self.notes.execute(
                sql.SQL(
                    "begin; set local synchronous_commit = off;"
                    " insert into mirror.claims (id, events) values ({}, {}); commit"
                ).format(sql.Literal(note), sql.Literal([event.id for event in events]))
            )
        except BaseException:
            # It may have been committed all the same, if only the answer was lost.
            self.notes.rollback()
            self._withdrawn.add(note)
            raise
        return note

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
            self.notes.execute(
                "delete from mirror.claims where id = any(%s)", [list(self._withdrawn)]
            )
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
            self.notes.execute(_ANNOUNCE, parameters)

    def _set_suspects_apart(self, mine: list[int]) -> set[int]:
        found = self.claims.execute(_SUSPECTS, {"mine": mine})
        suspects = {event for _, events in found for event in events}
        if suspects:
            parameters = {"suspects": sorted(suspects), "notes": [note for note, _ in found]}
            empty = [row[0] for row in self.claims.execute(_FORGET, parameters)]
            self.claims.execute("delete from mirror.claims where id = any(%s)", [empty])
        return suspects

    def record(self, events: Sequence[Event]) -> None:
        """Add events to the outbox, in the claim's transaction."""
        _record(self.claims, events)

    def defer(self, event: Claimed, *, attempts: int, error: MirrorError | None) -> None:
        """Move an event to the retries; None for an error means that its worker died."""
        self.claims.execute(
            _DEFER,
            [
                event.id,
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

    def take_retry(self) -> Attempt | None:
        """Lease the next event that is due for a retry."""
        rows = self.claims.execute(_TAKE, [self.lease_seconds])
        if not rows:
            return None
        *event, number, deaths = rows[0]
        return Attempt(_claimed(event), number, exhausted=deaths > self.max_attempts)

    def succeeded(self, attempt: Attempt, more: Sequence[Event] = ()) -> None:
        """Forget an event whose retry went through."""
        with self.claims.transaction():
            self.record(more)
            self.claims.execute("delete from mirror.retries where id = %s", [attempt.event.id])

    def failed(self, attempt: Attempt, error: MirrorError | None) -> bool:
        """Note a failed retry and when the next is due; return whether it was buried.

        None for an error means that its worker died.
        """
        buried = error is None or self._buries(error, attempt.number)
        self.claims.execute(
            "update mirror.retries set attempts = attempts + 1, deaths = deaths - 1, error = %s,"
            " due_at = now() + %s * interval '1 second',"
            " buried_at = case when %s then now() end where id = %s",
            [_told(error), self._wait(attempt.number), buried, attempt.event.id],
        )
        return buried

    def postponed(self, attempt: Attempt) -> None:
        """Give back an attempt that ended for no fault of the event."""
        # Where the primary is away too, this one counts as a death, and its lease must run out.
        with suppress(Transient):
            self.claims.close()
            self.claims.execute(
                "update mirror.retries set deaths = deaths - 1, due_at = now() where id = %s",
                [attempt.event.id],
            )

    def _wait(self, attempts: int) -> float:
        return float(min(self.retry_seconds * 2 ** (attempts - 1), 300.0))

    def _buries(self, error: MirrorError, attempts: int) -> bool:
        return attempts >= self.max_attempts and not isinstance(error, TooSlow | Unexplained)


def _claimed(row: Sequence[object]) -> Claimed:
    id_, lane, recorded_at, mapping, reference, key = row
    assert isinstance(id_, int)  # noqa: S101 - the column's type, told to mypy
    assert isinstance(recorded_at, datetime)  # noqa: S101 - likewise
    return Claimed(
        lane=Lane(int(str(lane))),
        mapping=str(mapping),
        key=_key(key),
        reference=None if reference is None else str(reference),
        id=id_,
        recorded_at=recorded_at,
    )


def _record(database: Database, events: Sequence[Event]) -> None:
    for event in events:
        database.execute(
            "insert into mirror.outbox (lane, mapping, reference, key) values (%s, %s, %s, %s)",
            [int(event.lane), event.mapping, event.reference, list(event.key)],
        )


def _key(value: object) -> Key:
    return tuple(str(part) for part in value) if isinstance(value, list) else ()


def _told(error: MirrorError | None) -> str:
    """Return what to keep of an error: its message names ids and codes, never values."""
    return _DIED if error is None else f"{type(error).__name__}: {error}"
