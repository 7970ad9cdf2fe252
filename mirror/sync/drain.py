"""Drain: carries events from the outbox to the target.

It claims a batch of waiting events, applies them in sync passes (`mirror.sync.sync_pass`) and
acknowledges the claim. After a crash at any point the events wait again; fences make the second
delivery harmless. An event that fails is isolated (`mirror.sync.isolation`), set apart, and retried
alone (`mirror.sync.retries`).
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from mirror.capture.outbox import Event
from mirror.errors import (
    Halted,
    MirrorError,
    Rejected,
    TooSlow,
    Transient,
    WrongMapping,
)
from mirror.model.registry import Registry
from mirror.sync.claims import Claim, Queue
from mirror.sync.event_groups import MAX_PARTS, EventGroup
from mirror.sync.isolation import Isolating
from mirror.sync.known_mappings import KnownMappings
from mirror.sync.read_ahead import ReadAhead
from mirror.sync.retries import WORKER_DIED, Attempt, Failed
from mirror.sync.snapshot import Source
from mirror.sync.stepping import Stepping
from mirror.sync.syncer import ISOLATED
from mirror.sync.targets.base import Target
from mirror.sync.targets.writing import TooOld
from mirror.sync.withholding import withhold_unread

log = structlog.stdlib.get_logger(__name__)

# In seconds. So long at most, a drain that finds events again and again puts off what is due
# beside them.
_PUT_OFF_SECONDS = 1.0

# For so long the drain searches a batch for the event that fails; then it sets all events apart
# that are left. New revocations wait meanwhile.
_SEARCH_SECONDS = 5.0

_MAX_RETRIES = 20
"""Retries for each batch, so that failed events do not delay new ones."""

# … and no further one after so many seconds.
_RETRY_SECONDS = 5.0


@dataclass
class DrainResult:
    """The result of one batch, or of several."""

    events: int = 0
    failed: int = 0
    """Events that were set apart, or whose retry failed."""
    full: bool = False
    """More events may be waiting."""


class Drain(Isolating):
    """Carries events from one primary's outbox to one target."""

    def __init__(
        self,
        registry: Registry,
        source: Source,
        target: Target,
        queue: Queue,
        *,
        batch_size: int = 500,
        fresh_seconds: float | None = None,
    ) -> None:
        super().__init__(registry, source, target, queue, batch_size)
        self._stepping = Stepping(
            source,
            target,
            queue,
            [mapping.name for mapping in registry],
            idle_seconds=fresh_seconds,
        )
        self._known = KnownMappings(registry, target)
        self._ahead = ReadAhead(registry, source)
        self._well = True
        """Whether the last batch was applied."""

    def close(self) -> None:
        """Close every connection; the next use opens others."""
        self._stepping.abandon()
        self.source.close()
        self.queue.close()
        self.target.close()

    def run(
        self,
        *,
        seconds: float = 20.0,
        on_full_batch: Callable[[], object] = lambda: None,
        stopping: Callable[[], bool] = lambda: False,
        goes_on: bool = False,
    ) -> DrainResult:
        """Drain until no event is left, `seconds` have passed, or `stopping` returns True.

        `on_full_batch` is called after each batch that left events, so that other workers can help.
        `full` in the result means that events may be left. `goes_on`: the caller drains again at
        the next ring, and calls `rest` if none follows. Until then, what is due beside the events
        is done in parts, so that no event waits long for it.

        Raises:
            Transient: a database does not answer; the events wait.
            Halted: a person must act; the events wait.
        """
        end = time.monotonic() + seconds
        put_off_until = time.monotonic() + _PUT_OFF_SECONDS
        total = DrainResult()
        connected = False
        while True:
            try:
                batch = self.once(settle=False)
                retried = self._retry() if self.queue.retry_due else DrainResult()
                # As long as there were events, others may have come meanwhile.
                working = bool(batch.events or batch.full or retried.events)
                stopped = stopping()
                ended = stopped or time.monotonic() > end
                put_off = goes_on and not batch.full and time.monotonic() < put_off_until
                if ended or not working or (self._due and not put_off):
                    self.queue.settle()
                    self._do_what_is_due(
                        working=working or total.events > 0,
                        whole=stopped or not goes_on,
                        last=stopped,
                    )
            except BaseException as error:
                # The other connections to this server are lost too, or in an open transaction.
                self.close()
                if isinstance(error, WrongMapping) and self._known.look():
                    continue
                # The first statement after an idle hour may find the connection dead. One new
                # attempt keeps the events from waiting for the next ring.
                if isinstance(error, Transient) and not connected:
                    connected = True
                    continue
                raise
            connected = True
            total.events += batch.events + retried.events
            total.failed += batch.failed + retried.failed
            if not working:
                return total
            if ended:
                total.full = True
                return total
            if batch.full:
                on_full_batch()

    @property
    def _due(self) -> bool:
        """Whether there is something to do beside the events."""
        return self._stepping.due or self.queue.history.due

    def _do_what_is_due(self, *, working: bool, whole: bool, last: bool) -> None:
        """Do what is due beside the events, or with `whole` False a part of it.

        `last`: no drain of this process follows.
        """
        due = self._stepping.due
        self._stepping.step(working=working, whole=whole)
        if whole or not due:
            self.queue.history.write(at_once=last)

    def rest(self) -> None:
        """Finish what `run` has begun beside the events, because no further ones seem to follow.

        Raises as `run` does.
        """
        try:
            self._stepping.finish()
            self.queue.history.write()
        except BaseException:
            self.close()
            raise

    # A batch

    def once(self, *, settle: bool = True) -> DrainResult:
        """Claim and apply one batch of events; `settle` False leaves its commit to the caller."""
        self.announced = False
        # While the target is away, each claim is given back, which writes each of its rows anew.
        limit = self.batch_size if self._well else 1
        claim = self.queue.claim(limit, self._known.names(), self._ahead.request())
        if claim is None:
            return DrainResult()
        started = time.monotonic()
        try:
            continuations, failed = self._apply_claim(claim, until=started + _SEARCH_SECONDS)
            claim.acknowledge(failed, continuations, later=not settle)
            self._well = True
        except BaseException:
            self._well = False
            claim.release()
            raise
        for each in failed:
            log.warning(
                "event set apart",
                event_id=each.event.id,
                mapping=each.event.mapping,
                error=str(each.error),
            )
        if claim.left_out:
            log.warning("events left to workers that know their mappings", events=claim.left_out)
        if len(claim):
            first, last = claim.transactions
            log.info(
                "drained",
                events=len(claim),
                failed=len(failed),
                event_ids=claim.few_ids,
                first_transaction=first,
                last_transaction=last,
                fence=self.stamp and self.stamp.fence,
                milliseconds=round((time.monotonic() - started) * 1000, 1),
            )
        full = claim.full or bool(continuations) or self.announced
        return DrainResult(len(claim) + claim.left_out, len(failed) + claim.left_out, full=full)

    def _apply_claim(self, claim: Claim, *, until: float) -> tuple[list[Event], list[Failed]]:
        """Apply the events of a claim: plain keys without reading them, all others in sync passes.

        Returns continuations, and the events that failed with their errors.
        """
        read = self._ahead.reading(claim)
        # Looked up once: the time of a mapping must not end in between.
        errors = {group.mapping: self._parked_error(group.mapping) for group in claim.groups}
        groups = [group for group in claim.groups if errors[group.mapping] is None]
        parked = [group for group in claim.groups if errors[group.mapping] is not None]
        plain = [group for group in groups if self._is_plain(group)]
        others = claim.read([group for group in groups if group not in plain])
        continuations, failed = self._isolate(others, until=until)
        failed += [
            Failed(event, error)
            for event in (claim.read(parked) if parked else [])
            if (error := errors[event.mapping]) is not None
        ]
        if plain:
            try:
                continuations += self.pass_on(
                    [(self.registry[group.mapping], group.keys[: group.parts]) for group in plain],
                    read=read if plain == claim.groups else None,
                )
            except (*ISOLATED, TooOld, Halted) as error:
                # A sync pass names the mapping that cannot be read, and reads again what was read
                # too early. A batch that is slow or refused would fail again as a whole.
                events = claim.read(plain)
                if isinstance(error, Rejected | TooSlow) and len(events) > 1:
                    rest, rest_failed = self._halve(events, error, until=until)
                else:
                    rest, rest_failed = self._isolate(events, until=until)
                continuations, failed = continuations + rest, failed + rest_failed
        return continuations, failed

    def _is_plain(self, group: EventGroup) -> bool:
        """Return whether events are keys of which nothing but the rows has to be known.

        An event of a parent whose children have to be looked at, too, is not (`PendingKeys`).
        """
        if group.scopes or group.mapping not in self.registry:
            return False
        mapping = self.registry[group.mapping]
        return group.parts == len(mapping.key) <= MAX_PARTS and not (
            self.registry.children(mapping) and (group.revocations or mapping.parents)
        )

    # Retries

    def _retry(self, limit: int = _MAX_RETRIES) -> DrainResult:
        """Retry events that were set apart, each alone, so that none fails because of another."""
        done = DrainResult()
        end = time.monotonic() + _RETRY_SECONDS
        while done.events < limit and time.monotonic() < end:
            attempt = self.queue.lease_retry()
            if attempt is None:
                break
            done.events += 1
            done.failed += not self._retry_event(attempt)
        return done

    def _retry_event(self, attempt: Attempt) -> bool:
        """Retry one event; return whether it was applied."""
        event = attempt.event
        error: MirrorError | None = None
        withheld = False
        try:
            if event.mapping not in self._known.names():
                self.queue.retries.leave(attempt)
                return False
            if not attempt.exhausted:
                continuations, error = self._attempt(attempt)
                if error is None:
                    self._parked.pop(event.mapping, None)
                    self.queue.complete_retry(attempt, continuations)
                    return True
                self.queue.announce(continuations)
            elif attempt.closing:
                withheld = self._close_unread(event)
        except BaseException:
            self.queue.retries.postpone(attempt)
            raise
        buried = self.queue.retries.record_failure(attempt, error, withheld=withheld)
        if buried:
            self.queue.history.add_dead(event.mapping)
        log.error(
            "event buried" if buried else "event failed again",
            event_id=event.id,
            mapping=event.mapping,
            attempts=attempt.number,
            error=str(error or WORKER_DIED),
        )
        return False

    def _attempt(self, attempt: Attempt) -> tuple[list[Event], MirrorError | None]:
        """Apply one event; return events to continue with, and the error to store, if it failed."""
        try:
            return self.sync_alone([attempt.event]), None
        except ISOLATED as error:
            # Until its mapping could be read, the event had no attempt of its own.
            return self._divide(attempt.event, error, 1 if attempt.parked else attempt.number)

    def _close_unread(self, event: Event) -> bool:
        """Withhold the key of an event on which workers crash; return whether it is withheld.

        Events of the keys that the target has in it replace a scope. The children of a parent may
        be gone, and a later write of the parent alone opens it again; so they become events, too.
        """
        if event.reference is None:
            withheld = withhold_unread(self, event)
            if withheld:
                self.queue.announce(self._children(event))
            return withheld
        with suppress(*ISOLATED, TooOld, Halted):
            self.queue.announce(self.split_scope(event, unread=True)[0])
        return False
