"""Drain: carries events from the outbox to the target.

It claims a batch of waiting events, applies them in sync passes (`mirror.sync.sync_pass`) and
acknowledges the claim. After a crash at any point the events wait again; fences make the second
delivery harmless. An event that fails is set apart and retried alone (`mirror.sync.retries`).
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog
from psycopg import sql

from mirror.capture.outbox import Event
from mirror.errors import (
    Halted,
    InvalidKey,
    MappingError,
    MirrorError,
    Rejected,
    TooLarge,
    TooSlow,
    Transient,
    Unexplained,
    UnreadableMapping,
    WentBack,
)
from mirror.errors.unforeseen import explained
from mirror.model.mapping import EVERYTHING
from mirror.model.registry import Registry
from mirror.sync.claims import MAX_PARTS, Claim, EventGroup, Queue
from mirror.sync.retries import WORKER_DIED, Attempt, ClaimedEvent
from mirror.sync.snapshot import Snapshot, Source
from mirror.sync.sync_pass import PendingKeys, SyncPass, log_retained, pending_keys
from mirror.sync.targets.base import Target
from mirror.sync.targets.writing import TooOld
from mirror.sync.withdrawal import withdraw_in_pages

log = structlog.stdlib.get_logger(__name__)

# Errors of one event, not of the mirror: the event is isolated and set apart.
ISOLATED = (Rejected, TooSlow, Unexplained, MappingError, InvalidKey, UnreadableMapping)

# The batch size for one event that runs into a time limit.
_SLOW_EVENT_BATCH = 10

# For so long the drain searches a batch for the event that fails; then it sets all events apart
# that are left.
_SEARCH_SECONDS = 20.0

# A key can lose to a faster worker; after this many losses in a row the drain gives up.
_MAX_PASSES = 8

_MAX_RETRIES = 20
"""Retries for each batch, so that failed events do not delay new ones."""


@dataclass
class DrainResult:
    """The result of one batch, or of several."""

    events: int = 0
    failed: int = 0
    """Events that were set apart, or whose retry failed."""
    full: bool = False
    """More events may be waiting."""


class Drain:
    """Carries events from one primary's outbox to one target."""

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
        """Drain until no event is left or `seconds` have passed.

        `on_full_batch` is called after each batch that left events, so that other workers can help.
        `full` in the result means that the time ran out first.

        Raises:
            Transient: a database does not answer; the events wait.
            Halted: a person must act; the events wait.
        """
        end = time.monotonic() + seconds
        total = DrainResult()
        connected = False
        while True:
            try:
                batch = self.once()
                retried = self._retry()
            except BaseException as error:
                # The other connections to this server are lost too, or in an open transaction.
                self.close()
                # The first statement after an idle hour may find the connection dead. One new
                # attempt keeps the events from waiting for the next ring.
                if isinstance(error, Transient) and not connected:
                    connected = True
                    continue
                raise
            connected = True
            total.events += batch.events + retried.events
            total.failed += batch.failed + retried.failed
            # As long as there were events, others may have come meanwhile.
            if not batch.events and not batch.full and not retried.events:
                return total
            if time.monotonic() > end:
                total.full = True
                return total
            if batch.full:
                on_full_batch()

    # A batch

    def once(self) -> DrainResult:
        """Claim and apply one batch of events."""
        self._announced = False
        claim = self.queue.claim(self.batch_size)
        if claim is None:
            return DrainResult()
        started = time.monotonic()
        try:
            continuations, failed = self._apply_claim(claim, until=started + _SEARCH_SECONDS)
            claim.acknowledge(failed, continuations)
        except BaseException:
            claim.release()
            raise
        for event, error in failed:
            log.warning(
                "event set apart", event_id=event.id, mapping=event.mapping, error=str(error)
            )
        if len(claim):
            log.info(
                "drained",
                events=len(claim),
                failed=len(failed),
                milliseconds=round((time.monotonic() - started) * 1000, 1),
            )
        full = claim.full or bool(continuations) or self._announced
        return DrainResult(len(claim), len(failed), full=full)

    def _apply_claim(
        self, claim: Claim, *, until: float
    ) -> tuple[list[Event], list[tuple[ClaimedEvent, MirrorError]]]:
        """Apply the events of a claim: plain keys without reading them, all others in sync passes.

        Returns continuations, and the events that failed with their errors.
        """
        plain = [group for group in claim.groups if self._is_plain(group)]
        others = claim.read([group for group in claim.groups if group not in plain])
        continuations, failed = self._isolate(others, claim.note, until=until)
        if plain:
            try:
                continuations += self._pass_on(plain, claim.note)
            except (*ISOLATED, TooOld, Halted):
                # A sync pass finds the event at fault, names the mapping that cannot be read, and
                # reads again what was read too early.
                rest, rest_failed = self._isolate(claim.read(plain), claim.note, until=until)
                continuations, failed = continuations + rest, failed + rest_failed
        return continuations, failed

    def _is_plain(self, group: EventGroup) -> bool:
        """Return whether events are keys of which nothing but the rows has to be known.

        The revocation of a parent is not: its children have to be looked at, too.
        """
        if group.scopes or group.mapping not in self.registry:
            return False
        mapping = self.registry[group.mapping]
        return group.parts == len(mapping.key) <= MAX_PARTS and not (
            group.revocations and self.registry.children(mapping)
        )

    def _pass_on(self, groups: list[EventGroup], note: sql.Composed) -> list[Event]:
        """Apply plain keys: carry the rows that the primary prints to the target, unread.

        A sync pass takes the keys that the target refuses. Returns events to continue with.
        """
        keys = [(self.registry[group.mapping], group.keys[: group.parts]) for group in groups]
        with explained(TooOld):
            stamp, rows = self.source.read_json(keys, note)
            answers = self.target.apply(stamp, rows)
        refused = PendingKeys()
        for name, answer in answers.items():
            log_retained(answer)
            refused.keys[name].update(answer.stale, answer.orphans, answer.new_parents)
            refused.new_parents.update((name, key) for key in answer.new_parents)
        if not any(refused.keys.values()):
            return []
        newest_fence = max(answer.newest_fence or 0 for answer in answers.values())
        return self.sync_keys(refused, newest_fence=newest_fence)

    def _isolate(
        self, events: list[ClaimedEvent], note: sql.Composed, *, until: float
    ) -> tuple[list[Event], list[tuple[ClaimedEvent, MirrorError]]]:
        """Apply events; after a failure, halve them until the failing event is alone.

        Returns continuations, and the events that failed with their errors.
        """
        if not events:
            return [], []
        try:
            apply = self._mirror if len(events) > 1 else self._mirror_alone
            return apply(events, note), []
        except UnreadableMapping as error:
            if len(events) == 1 or any(event.mapping == error.mapping for event in events):
                return self._leave_out(error, events, note, until=until)
        except ISOLATED as error:
            if len(events) == 1 and events[0].reference is not None:
                return self._split_scope(events[0], error)
            if len(events) == 1 or time.monotonic() > until:
                return [], [(event, error) for event in events]
        # The failure may have taken long.
        self.queue.keep_alive()
        middle = len(events) // 2
        first, first_failed = self._isolate(events[:middle], note, until=until)
        second, second_failed = self._isolate(events[middle:], note, until=until)
        return first + second, first_failed + second_failed

    def _leave_out(
        self,
        error: UnreadableMapping,
        events: list[ClaimedEvent],
        note: sql.Composed,
        *,
        until: float,
    ) -> tuple[list[Event], list[tuple[ClaimedEvent, MirrorError]]]:
        """Apply the events of other mappings than the unreadable one; return as `_isolate` does.

        A single event fails also if its children's mapping is the unreadable one.
        """
        others = [event for event in events if event.mapping != error.mapping]
        if len(events) == len(others):
            return [], [(event, error) for event in events]
        continuations, failed = self._isolate(others, note, until=until)
        return continuations, failed + [(e, error) for e in events if e.mapping == error.mapping]

    def _split_scope(
        self, event: ClaimedEvent, error: MirrorError
    ) -> tuple[list[Event], list[tuple[ClaimedEvent, MirrorError]]]:
        """Replace a failing scope by events for its keys, so that the failing row is alone.

        The scope itself is set apart too. If its parent's row is the one that fails, each key
        announces the scope again, and `announce` skips events that are set apart. No key announces
        the scope `*`.
        """
        failed = [] if event.reference == EVERYTHING else [(event, error)]
        try:
            (scope,) = pending_keys(self.registry, [event]).scopes
            with explained(TooOld), self.source.snapshot() as snapshot:
                return self._sync_pass(snapshot).split_scope(scope), failed
        except (*ISOLATED, TooOld):
            return [], [(event, error)]

    # Retries

    def _retry(self, limit: int = _MAX_RETRIES) -> DrainResult:
        """Retry events that were set apart, each alone, so that none fails because of another."""
        done = DrainResult()
        while done.events < limit:
            attempt = self.queue.retries.lease()
            if attempt is None:
                break
            done.events += 1
            done.failed += not self._retry_event(attempt)
        return done

    def _retry_event(self, attempt: Attempt) -> bool:
        """Retry one event; return whether it was applied."""
        event = attempt.event
        error: MirrorError | None = None
        if not attempt.exhausted:
            try:
                continuations = self._mirror_alone([event])
            except ISOLATED as caught:
                error = caught
            except BaseException:
                self.queue.retries.postpone(attempt)
                raise
            else:
                self.queue.complete_retry(attempt, continuations)
                return True
        buried = self.queue.retries.record_failure(attempt, error)
        log.error(
            "event buried" if buried else "event failed again",
            event_id=event.id,
            mapping=event.mapping,
            attempts=attempt.number,
            error=str(error or WORKER_DIED),
        )
        return False

    # Syncing

    def _mirror_alone(self, events: Sequence[Event], *before: sql.Composed) -> list[Event]:
        """Apply the only one of `events`; in smaller batches if it needs more than a call may hold.

        The batch size limits the keys on a scope's page, and the children that are sent along with
        a parent. More children are announced as events and sent in later calls.
        """
        size = self.batch_size
        while True:
            try:
                return self._mirror(events, *before, batch_size=size)
            except TooLarge:
                if size == 1:
                    raise
                size = max(1, size // 4)
            except TooSlow:
                if withdraw_in_pages(
                    self.registry, self.source, self.target, self.queue, events[0], size
                ):
                    return []
                # One more attempt at most, because this one took long. A scope is split instead.
                if events[0].reference is not None or size <= _SLOW_EVENT_BATCH:
                    raise
                size = _SLOW_EVENT_BATCH

    def _mirror(
        self, events: Iterable[Event], *before: sql.Composed, batch_size: int | None = None
    ) -> list[Event]:
        """Apply events; return events to continue with."""
        with explained(TooOld):
            pending = pending_keys(self.registry, events)
            return self.sync_keys(pending, *before, batch_size=batch_size)

    def sync_keys(
        self,
        pending: PendingKeys,
        *before: sql.Composed,
        batch_size: int | None = None,
        newest_fence: int = 0,
    ) -> list[Event]:
        """Bring keys and scopes up to date; return events to continue with.

        The statements `before` run on the primary before any row is read. `batch_size` replaces the
        drain's own. `newest_fence` is the newest fence that the target is known to have.

        Raises:
            Transient: a database does not answer, or other workers were faster every time.
            Halted: no write is allowed until a person acts.
        """
        continuations: list[Event] = []
        for number in range(_MAX_PASSES):
            with self.source.snapshot(*before) as snapshot:
                if snapshot.stamp.fence < newest_fence:
                    raise WentBack(
                        "the primary is older than what the target has seen "
                        f"(fence {snapshot.stamp.fence}, seen {newest_fence}): was it restored or "
                        "failed over to a standby that lagged? Run `mirror rebase` if it is the "
                        "truth now."
                    )
                sync_pass = self._sync_pass(snapshot, batch_size)
                try:
                    sync_pass.run(pending)
                except TooOld as error:
                    # This process slept for longer than the target keeps tombstones.
                    newest_fence = max(newest_fence, error.horizon)
                    continue
                except WentBack:
                    # The snapshot may be from before a rebase; the next one is not.
                    if number:
                        raise
                    continue
            continuations += sync_pass.continuations
            if not any(sync_pass.stale.values()):
                return continuations
            newest_fence = max(newest_fence, sync_pass.newest_fence)
            pending = PendingKeys(keys=sync_pass.stale, revoked=pending.revoked)
        raise Transient("target: other workers were faster again and again; the events wait")

    def _sync_pass(self, snapshot: Snapshot, batch_size: int | None = None) -> SyncPass:
        size = batch_size or self.batch_size
        return SyncPass(self.registry, snapshot, self.target, self._announce, batch_size=size)

    def _announce(self, events: Sequence[Event]) -> None:
        self.queue.announce(events)
        self._announced = self._announced or bool(events)
