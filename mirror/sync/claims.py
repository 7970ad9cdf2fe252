"""Claims: takes waiting events out of the outbox, and gives them back after a failure.

A claim deletes its events in a transaction that stays open until they are applied to the target. If
the worker crashes, the rollback makes them wait again.

A claim holds groups of events, not events: the keys of a group travel as texts from the outbox to
the query that reads their rows. A worker reads single events only where it has to work on each.

An event may itself cause the crash. The row of an event keeps the id of the transaction that
deleted it last (`xmax`), also if that was rolled back. So a later claim sees that a worker claimed
the event and is gone: it sets the event apart (`mirror.sync.retries`), as it does with events that
fail. A worker that lives and gives events back writes their rows anew, without that id.
"""

import time
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import structlog
from psycopg import sql

from mirror.capture.outbox import Event, Lane
from mirror.capture.statements import statement
from mirror.errors import MirrorError, Transient
from mirror.sync.connections import Database
from mirror.sync.event_groups import FIELDS, EventGroup, count_events, values
from mirror.sync.floor import Floor
from mirror.sync.heartbeats import Heartbeat
from mirror.sync.history import Delivered, History
from mirror.sync.pairing import Pair, read_pair
from mirror.sync.retries import Attempt, ClaimedEvent, Failed, Retries, claimed_event

log = structlog.stdlib.get_logger(__name__)

# After this many claimed events, the floor is worth a query.
_EVENTS_PER_FLOOR: Final = 1_000

_MOST_IDS: Final = 20

# For so long after a revocation, others may follow. Each waits until a worker has ended its batch,
# so meanwhile a batch is only this part of a full one.
_SMALL_SECONDS: Final = 10.0
_SMALL_PART: Final = 6

# No wait for the disk: if the server crashes, the events are only delivered again.
_END: Final = (sql.SQL("set local synchronous_commit = off"), sql.SQL("commit"))


class Claim:
    """Claimed events, held in an open transaction until `acknowledge` or `release`."""

    def __init__(
        self,
        queue: "Queue",
        taken: list[EventGroup],
        groups: list[EventGroup],
        *,
        began: float,
        full: bool,
        ahead: Sequence[Any] | None,
    ) -> None:
        self._queue = queue
        self._taken = taken
        self._began = began
        self._claimed = groups
        self._events: list[ClaimedEvent] = []
        self._apart: set[int] = set()
        """Claimed events that are set apart."""
        self.groups = groups
        """The events that nothing has been read of. Empty after a worker crashed on one of them."""
        self.full = full
        """More events may be waiting."""
        self.left_out = count_events(taken) - count_events(groups)
        """Events that this claim sets apart for workers that know their mappings."""
        self.ahead = ahead
        """The rows of all events, as `mirror.read_ahead` returns them; None: they were not read."""

    def __len__(self) -> int:
        """Return the number of events."""
        return count_events(self.groups) + len(self._events)

    def read(self, groups: Sequence[EventGroup]) -> list[ClaimedEvent]:
        """Return the events of some groups, and those that belong to no group."""
        return sorted(
            [*self._queue.read_events(groups), *self._events],
            key=lambda event: (event.lane, event.id),
        )

    @property
    def events(self) -> list[ClaimedEvent]:
        """All events, revocations first; each access reads them from the outbox."""
        return self.read(self.groups)

    def acknowledge(
        self,
        failed: Iterable[Failed] = (),
        continuations: Sequence[Event] = (),
        *,
        later: bool = False,
    ) -> None:
        """Commit: `failed` events are set apart, all others are applied.

        `continuations` are recorded as new events, such as for the rest of a large scope. `later`
        leaves the commit to the queue's next claim, which saves a round trip, or to its `settle`.
        """
        for each in failed:
            self._queue.retries.set_apart(each.event, attempts=int(each.alone), error=each.error)
            self._apart.add(each.event.id)
        self._queue.record(continuations, self._age if continuations else 0.0)
        self._queue.end(self._taken, later=later)
        seconds = time.monotonic() - self._began
        for group in self._claimed:
            self._queue.history.add(
                Delivered(
                    group.mapping, group.ids, group.ages, group.revocations, seconds, self._apart
                )
            )

    @property
    def transactions(self) -> tuple[int, int]:
        """The lowest and the highest id of the transactions that recorded these events."""
        return (
            min(group.oldest for group in self._claimed),
            max(group.newest for group in self._claimed),
        )

    @property
    def few_ids(self) -> list[int] | None:
        """The ids of the events; None if they are too many for a line of the log."""
        if count_events(self._claimed) > _MOST_IDS:
            return None
        return [int(number) for group in self._claimed for number in values(group.ids)]

    @property
    def _age(self) -> float:
        """The age of the oldest claimed event, in seconds."""
        return max(float(age) for group in self._claimed for age in values(group.ages))

    def set_suspects_apart(self) -> None:
        """Set events apart whose earlier worker crashed; the others belong to no group then."""
        suspects = {int(number) for group in self.groups for number in group.suspected}
        if not suspects:
            return
        events, self.groups, self.ahead = self.events, [], None
        for event in events:
            if event.id in suspects:
                self._queue.retries.set_apart(event, attempts=0, error=None)
                self._queue.retry_due = True
        self._apart |= suspects
        self._events = [event for event in events if event.id not in suspects]

    def release(self) -> None:
        """Roll back: the events wait again, without a failed attempt."""
        self._queue.release(self._taken)


class Queue:
    """The outbox as a worker uses it, over two connections to the primary.

    `claims` has the open transaction of a claim. `beside` commits what must survive a rollback of
    the claim.
    """

    def __init__(
        self,
        claims: Database,
        beside: Database,
        *,
        max_attempts: int = 5,
        retry_seconds: float = 1.0,
        lease_seconds: float = 60.0,
        idle_seconds: float = 60.0,
        revocations: int = 0,
    ) -> None:
        self.claims = claims
        self.beside = beside
        self.retries = Retries(
            claims,
            max_attempts=max_attempts,
            retry_seconds=retry_seconds,
            lease_seconds=lease_seconds,
        )
        self.idle_seconds = idle_seconds
        self.history = History(claims, revocations=revocations)
        self._leased_at = 0.0
        """When the last retry began."""
        self._claimed_at = 0.0
        """When the last claim was made or kept alive; 0: never."""
        self._floor = Floor(claims)
        self._claimed = 0
        """Claimed events since the floor was last found."""
        self._origin: int | None = None
        """The lowest transaction id whose change is being applied; events that are recorded
        meanwhile continue it."""
        self._unsettled: list[EventGroup] = []
        """The events of a claim whose commit was left for later."""
        self._released: list[EventGroup] = []
        """Events of claims that were rolled back, until their rows are written anew."""
        self.retry_due = False
        """Whether an event was due for a retry at the last claim."""
        self._heartbeat = Heartbeat("drain")
        self._small_until = 0.0
        """Until then, by the monotonic clock, batches are small."""

    @property
    def floor(self) -> int:
        """No event has a lower transaction id."""
        return self._floor.value

    def close(self) -> None:
        """Close both connections; the next use opens others.

        The events of a claim that is not settled wait again.
        """
        try:
            self._give_back()
        finally:
            self.claims.close()
            self.beside.close()
            self._floor.reset()

    def claim(
        self, limit: int, known: Collection[str] | None = None, ahead: str | None = None
    ) -> Claim | None:
        """Claim up to `limit` waiting events, revocations first; None if no event is waiting.

        Claims fewer for some seconds after a revocation, so that the next one does not wait long.
        Events whose worker crashed are set apart, and so are those of mappings that are not `known`
        (None: all are), so a claim may hold no events. `ahead`: the queries that read rows within
        the claim (`mirror.sync.read_ahead`).
        """
        self.release()
        every: list[EventGroup] = []
        if self._heartbeat.due:
            self.settle()
            self._heartbeat.beat(self.claims)
        try:
            if self._claimed >= _EVENTS_PER_FLOOR or self._floor.stale:
                self.settle()
                self._floor.advance()
                self._claimed = 0
            began = time.monotonic()
            if began < self._small_until:
                limit = max(1, limit // _SMALL_PART)
            few = max(1, limit // 10)
            (rows,) = self.claims.begin(
                _claiming(
                    self._floor.value, limit, few, None if known is None else tuple(known), ahead
                ),
                ending=_END if self._unsettled else (),
                idle_seconds=self.idle_seconds,
            )
            self._claimed_at = time.monotonic()
            self._unsettled = []
            self.retry_due, mapping, *_ = rows[0]
            if mapping is None:
                self.claims.rollback()
                return None
            every = [EventGroup(*row[1 : 1 + FIELDS]) for row in rows]
            self._origin = min(group.origin for group in every)
            count, grants = count_events(every), sum(group.grants for group in every)
            if grants < count:
                # Many revocations are in force sooner if batches are full.
                few_revoked = 2 * (count - grants) < limit
                self._small_until = began + _SMALL_SECONDS if few_revoked else 0.0
            self._claimed += count
            full = count >= limit or (grants == few and grants < count)
            groups = [group for group in every if known is None or group.mapping in known]
            read = rows[0][1 + FIELDS :]
            ahead = None if read[0] is None else read
            claim = Claim(self, every, groups, began=began, full=full, ahead=ahead)
            claim.set_suspects_apart()
        except BaseException:
            self._give_back()
            self.release(every)
            self.claims.rollback()
            raise
        else:
            return claim

    def end(self, groups: list[EventGroup], *, later: bool) -> None:
        """Commit the open claim of these events, at once or `later`."""
        if later:
            self._unsettled = groups
        else:
            self.claims.together(*_END)

    def settle(self) -> None:
        """Commit the claim whose commit was left for later, if there is one."""
        if not self._unsettled:
            return
        try:
            self.claims.together(*_END)
        except BaseException:
            self._give_back()
            raise
        self._unsettled = []

    def _give_back(self) -> None:
        """Roll back the claim whose commit was left for later; see `Claim.release`."""
        groups, self._unsettled = self._unsettled, []
        if groups:
            self.release(groups)

    def release(self, groups: Sequence[EventGroup] = ()) -> None:
        """Roll back the claim of these events, so that no later claim takes its worker for crashed.

        If the primary does not answer, the next claim begins with that. Never raises: after any
        other error these events are suspects, which costs time and nothing else.
        """
        if groups:
            self._released += groups
            self.claims.rollback()
        if not self._released:
            return
        released, self._released = self._released, []
        try:
            self.beside.together(
                *(
                    sql.SQL(statement("release_events")).format(
                        ids=sql.Literal(group.innocent), oldest=group.oldest, newest=group.newest
                    )
                    for group in released
                )
            )
        except Transient:
            self._released = released
        except MirrorError as error:
            log.warning("events not given back", reason=str(error))

    def read_events(self, groups: Sequence[EventGroup]) -> list[ClaimedEvent]:
        """Return the claimed events of some groups.

        `beside` reads them: the transaction of `claims` has deleted them, and no other sees that.
        """
        if not groups:
            return []
        parameters = {
            "oldest": min(group.oldest for group in groups),
            "newest": max(group.newest for group in groups),
            "ids": "{" + ",".join(group.ids[1:-1] for group in groups) + "}",
        }
        rows = self.beside.execute(statement("read_claimed_events"), parameters)
        return [claimed_event(row) for row in rows]

    def keep_alive(self) -> None:
        """Run a statement if none has run for some time.

        Call it often in long work, or the server ends the claim's transaction as idle.
        """
        if self._claimed_at and time.monotonic() > self._claimed_at + self.idle_seconds / 4:
            self.claims.execute("select 1")
            self._claimed_at = time.monotonic()

    def read_pair(self) -> Pair:
        """Return the primary's last step."""
        return read_pair(self.beside)

    def announce(self, events: Sequence[Event]) -> None:
        """Record events at once, even if the claim is rolled back later.

        Skips events that are waiting already, because each attempt at an event may announce the
        same events. One that a worker has claimed is not waiting: that worker may have read the
        primary before the change that this announcement is for.
        """
        for event in events:
            parameters = {
                "lane": int(event.lane),
                "mapping": event.mapping,
                "reference": event.reference,
                "key": list(event.key),
                "origin": self._origin,
            }
            self.beside.execute(statement("announce_event"), parameters)

    def record(self, events: Sequence[Event], age: float = 0.0) -> None:
        """Record events in the claim's transaction; they continue one that is `age` seconds old."""
        for event in events:
            values = [int(event.lane), event.mapping, event.reference, list(event.key)]
            self.claims.execute(statement("record_event"), [*values, self._origin, age])

    def lease_retry(self) -> Attempt | None:
        """Lease the next event that is due for a retry; None if no event is due."""
        self.settle()
        self._leased_at = time.monotonic()
        attempt = self.retries.lease()
        if attempt is not None:
            event = attempt.event
            self._origin = event.transaction_id if event.origin is None else event.origin
        return attempt

    def complete_retry(self, attempt: Attempt, continuations: Sequence[Event] = ()) -> None:
        """Delete an event that a retry applied, and record its continuations."""
        with self.claims.transaction():
            self.record(continuations, attempt.age)
            self.retries.delete(attempt)
        event, seconds = attempt.event, time.monotonic() - self._leased_at
        ids, ages = f"{{{event.id}}}", f"{{{attempt.age}}}"
        revocations = int(event.lane is Lane.REVOCATION)
        self.history.add(Delivered(event.mapping, ids, ages, revocations, seconds))


@lru_cache(maxsize=16)
def _claiming(
    floor: int, limit: int, few: int, known: tuple[str, ...] | None, ahead: str | None
) -> sql.SQL:
    """Return the statement that claims events, as one text: to compose it takes longer."""
    composed = sql.SQL(statement("claim_events")).format(
        floor=sql.Literal(floor),
        limit=sql.Literal(limit),
        few=sql.Literal(few),
        known=sql.Literal(None if known is None else list(known)),
        ahead=sql.Literal(ahead),
    )
    return sql.SQL(composed.as_string(None))
