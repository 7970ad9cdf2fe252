"""Drain: carry events from the outbox to the target.

Claim, mirror in rounds (`mirror.sync.sync_pass`), acknowledge. A crash anywhere before the end
gives the events back; fences make the second delivery harmless.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog
from psycopg import sql

from mirror.capture.outbox import Event
from mirror.errors import (
    InvalidKey,
    MappingError,
    MirrorError,
    Rejected,
    TooLarge,
    TooSlow,
    Transient,
    Unexplained,
    WentBack,
)
from mirror.model.mapping import EVERYTHING
from mirror.model.registry import Registry
from mirror.sync.claims import Queue
from mirror.sync.retries import Attempt, ClaimedEvent
from mirror.sync.snapshot import Snapshot, Source
from mirror.sync.sync_pass import PendingKeys, SyncPass, pending_keys
from mirror.sync.targets.base import Target
from mirror.sync.targets.writing import TooOld

log = structlog.stdlib.get_logger(__name__)

# What is wrong with one event, not with the mirror: such an event is isolated.
ISOLATED = (Rejected, TooSlow, Unexplained, MappingError, InvalidKey)

# The batch size of an event that by itself runs into a time limit.
_NARROW = 10

# How long to look for the event that spoils a batch; then all that are left are set apart.
_SEARCH_SECONDS = 20.0

# A key can lose to a faster worker; to lose this often in a row means something else.
_ATTEMPTS = 8


@dataclass
class DrainResult:
    """What one batch did."""

    events: int = 0
    failed: int = 0
    """Events that moved to the retries, or stayed there."""
    full: bool = False
    """The batch was as large as allowed, so there may be more."""


class Drain:
    """One worker's way from the outbox to the target."""

    def __init__(
        self,
        registry: Registry,
        source: Source,
        target: Target,
        queue: Queue,
        *,
        batch_size: int = 500,
    ) -> None:
        self.registry = registry
        self.source = source
        self.target = target
        self.queue = queue
        self.batch_size = batch_size
        self._announced = False

    def close(self) -> None:
        """Close every connection; the next use opens others."""
        self.source.close()
        self.queue.close()
        self.target.close()

    def run(
        self, *, seconds: float = 20.0, on_full_batch: Callable[[], object] = lambda: None
    ) -> DrainResult:
        """Drain until there is nothing left or `seconds` have passed.

        `on_full_batch` is called after each batch that left more behind: others may help.
        `full` in the result says that time ran out first.

        Raises:
            Transient: a database does not answer; the events wait.
            Halted: a person must act; the events wait.
        """
        end = time.monotonic() + seconds
        total = DrainResult()
        fresh = False
        while True:
            try:
                batch = self.once()
                retried = self._retry()
            except BaseException as error:
                # A server that went away took all of our connections to it along, and what was
                # interrupted left them in the middle of something.
                self.close()
                # After an idle hour the first to use a connection finds it dead. That is no reason
                # to let the events wait for the next ring.
                if isinstance(error, Transient) and not fresh:
                    fresh = True
                    continue
                raise
            fresh = True
            total.events += batch.events + retried.events
            total.failed += batch.failed + retried.failed
            # What came meanwhile need not wait for another ring.
            if not batch.events and not batch.full and not retried.events:
                return total
            if time.monotonic() > end:
                total.full = True
                return total
            if batch.full:
                on_full_batch()

    def once(self) -> DrainResult:
        """Mirror one batch of events."""
        self._announced = False
        claim = self.queue.claim(self.batch_size)
        if claim is None:
            return DrainResult()
        started = time.monotonic()
        try:
            more, failed = self._isolate(claim.events, claim.note, until=started + _SEARCH_SECONDS)
            claim.settle(failed, more)
        except BaseException:
            claim.release()
            raise
        for event, error in failed:
            log.warning(
                "event set apart", event_id=event.id, mapping=event.mapping, error=str(error)
            )
        if claim.events:
            log.info(
                "drained",
                events=len(claim.events),
                failed=len(failed),
                milliseconds=round((time.monotonic() - started) * 1000, 1),
            )
        full = claim.full or bool(more) or self._announced
        return DrainResult(len(claim.events), len(failed), full=full)

    def _retry(self, most: int = 20) -> DrainResult:
        """Try events that failed before, each alone, so that none takes others along."""
        done = DrainResult()
        while done.events < most:
            attempt = self.queue.retries.take()
            if attempt is None:
                break
            done.events += 1
            done.failed += not self._try_alone(attempt)
        return done

    def _try_alone(self, attempt: Attempt) -> bool:
        event = attempt.event
        error: MirrorError | None = None
        if not attempt.exhausted:
            try:
                more = self._mirror_alone(event)
            except ISOLATED as caught:
                error = caught
            except BaseException:
                self.queue.retries.postponed(attempt)
                raise
            else:
                self.queue.succeeded(attempt, more)
                return True
        buried = self.queue.retries.failed(attempt, error)
        log.error(
            "event buried" if buried else "event failed again",
            event_id=event.id,
            mapping=event.mapping,
            attempts=attempt.number,
            error=str(error or "its worker died"),
        )
        return False

    def _isolate(
        self, events: list[ClaimedEvent], note: sql.Composed, *, until: float
    ) -> tuple[list[Event], list[tuple[ClaimedEvent, MirrorError]]]:
        """Mirror events; if one spoils the batch, halve it until that one stands alone."""
        if not events:
            return [], []
        try:
            if len(events) == 1:
                return self._mirror_alone(events[0], note), []
            return self._mirror(events, note), []
        except ISOLATED as error:
            if len(events) == 1 and events[0].reference is not None:
                return self._spell_out(events[0], error)
            if len(events) == 1 or time.monotonic() > until:
                return [], [(event, error) for event in events]
        # What failed may have taken its time.
        self.queue.touch()
        middle = len(events) // 2
        first, failed = self._isolate(events[:middle], note, until=until)
        second, failed_too = self._isolate(events[middle:], note, until=until)
        return first + second, failed + failed_too

    def _spell_out(
        self, event: ClaimedEvent, error: MirrorError
    ) -> tuple[list[Event], list[tuple[ClaimedEvent, MirrorError]]]:
        """Replace a scope that one row spoils by its keys, so that this row stands alone.

        The scope itself stays among the retries: it would be announced again and again by keys
        whose parent is what spoils it. All of a mapping is announced by nobody.
        """
        failed = [] if event.reference == EVERYTHING else [(event, error)]
        try:
            (scope,) = pending_keys(self.registry, [event]).scopes
            with self.source.snapshot() as snapshot:
                return self._round(snapshot).split_scope(scope), failed
        except (*ISOLATED, TooOld):
            return [], [(event, error)]

    def _round(self, snapshot: Snapshot, batch_size: int | None = None) -> SyncPass:
        size = batch_size or self.batch_size
        return SyncPass(self.registry, snapshot, self.target, self._announce, batch_size=size)

    def _announce(self, events: Sequence[Event]) -> None:
        self.queue.announce(events)
        self._announced = self._announced or bool(events)

    def _mirror_alone(self, event: Event, *before: sql.Composed) -> list[Event]:
        """Mirror one event, in smaller pieces where it brings too much for one call.

        A scope brings a page of keys, a parent its children: of more than a few they are announced
        first, and come in calls of their own.
        """
        size = self.batch_size
        while True:
            try:
                return self._mirror([event], *before, batch_size=size)
            except TooLarge:
                if size == 1:
                    raise
                size = max(1, size // 4)
            except TooSlow:
                # That took its time; a scope is spelled out instead.
                if event.reference is not None or size <= _NARROW:
                    raise
                size = _NARROW

    def _mirror(
        self, events: Iterable[Event], *before: sql.Composed, batch_size: int | None = None
    ) -> list[Event]:
        """Bring everything these events name up to date; return what is left for later."""
        return self.sync_keys(pending_keys(self.registry, events), *before, batch_size=batch_size)

    def sync_keys(
        self, work: PendingKeys, *before: sql.Composed, batch_size: int | None = None
    ) -> list[Event]:
        """Bring keys and scopes up to date; return events for what is left for later.

        `before` are the primary's to run before anything is read. A smaller `batch_size` is for
        work that brings too much along for one call.

        Raises:
            Transient: a database does not answer, or others were faster again and again.
            Halted: nothing may be written until a person acts.
        """
        more: list[Event] = []
        ahead = 0
        for attempt in range(_ATTEMPTS):
            keys = [(self.registry[name], list(some)) for name, some in work.keys.items() if some]
            with self.source.snapshot(*before, keys=keys) as snapshot:
                if snapshot.stamp.fence < ahead:
                    raise WentBack(
                        "the primary is older than what the target has seen "
                        f"(fence {snapshot.stamp.fence}, seen {ahead}): was it restored or failed "
                        "over to a standby that lagged? Run `mirror rebase` if it is the truth now."
                    )
                this = self._round(snapshot, batch_size)
                try:
                    this.run(work)
                except TooOld as error:
                    # This process slept for longer than the target remembers.
                    ahead = max(ahead, error.horizon)
                    continue
                except WentBack:
                    # A read from before a rebase that happened meanwhile; the next is of today.
                    if attempt:
                        raise
                    continue
            more += this.continuations
            if not any(this.stale.values()):
                return more
            ahead = max(ahead, this.newest_fence)
            work = PendingKeys(keys=this.stale, revoked=work.revoked)
        raise Transient("target: other workers were faster again and again; the events wait")
