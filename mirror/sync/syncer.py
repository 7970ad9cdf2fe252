"""Syncer: brings the keys and scopes of events up to date, in as many sync passes as that takes.

It knows nothing about claims and retries: what fails is the caller's concern.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from mirror.capture.outbox import Event, Lane
from mirror.errors import (
    InvalidKey,
    MappingError,
    Rejected,
    TooLarge,
    TooSlow,
    Transient,
    Unexplained,
    UnreadableMapping,
    WentBack,
)
from mirror.errors.unforeseen import explained
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.sync.claims import Queue
from mirror.sync.snapshot import Reading, Snapshot, Source, Stamp
from mirror.sync.sync_pass import (
    MappingKey,
    PendingKeys,
    SyncPass,
    log_retained,
    pending_keys,
)
from mirror.sync.targets.base import Target
from mirror.sync.targets.writing import TooOld
from mirror.sync.withdrawal import withdraw_in_pages

# Errors of one event, not of the mirror: the event is isolated and set apart.
ISOLATED = (Rejected, TooSlow, Unexplained, MappingError, InvalidKey, UnreadableMapping)

# The batch size for one event that runs into a time limit.
_SLOW_EVENT_BATCH: Final = 10

# A key can lose to a faster worker; after this many losses in a row the syncer gives up.
_MAX_PASSES: Final = 8

# For so long the children of one parent are withdrawn; then other events have their turn.
_WITHDRAWAL_SECONDS: Final = 2.0


class Syncer:
    """Brings events up to date between one primary and one target."""

    def __init__(
        self, registry: Registry, source: Source, target: Target, queue: Queue, batch_size: int
    ) -> None:
        self.registry = registry
        self.source = source
        self.target = target
        target.read_pair = queue.read_pair
        self.queue = queue
        self.batch_size = batch_size
        self.announced = False
        """Whether events were announced since this was last set to False."""
        self.stamp: Stamp | None = None
        """That of the last read; None before the first."""

    def sync(
        self,
        events: Iterable[Event],
        *,
        batch_size: int | None = None,
        narrowed: str | None = None,
    ) -> list[Event]:
        """Apply events; return events to continue with. The arguments are those of `sync_keys`."""
        with explained(TooOld):
            pending = pending_keys(self.registry, events)
            return self.sync_keys(pending, batch_size=batch_size, narrowed=narrowed)

    def sync_alone(self, events: Sequence[Event]) -> list[Event]:
        """Apply the only one of `events`; in smaller batches if it needs more than a call may hold.

        The batch size limits the keys on a scope's page, and the children that are sent along with
        a parent. More children are announced as events and sent in later calls.
        """
        size = self.batch_size
        while True:
            try:
                return self.sync(events, batch_size=size)
            except TooLarge:
                if size == 1:
                    raise
                size = max(1, size // 4)
            except TooSlow:
                stamp = self._stamp_without(events[0])
                if stamp is not None:
                    key = self.registry[events[0].mapping].canonical(events[0].key)
                    return self._withdraw((events[0].mapping, key), stamp, size)
                # One more attempt at most, because this one took long. A scope is split instead,
                # and the row of a key without children has no pieces.
                pieces = events[0].reference is None and self.registry.children(
                    self.registry[events[0].mapping]
                )
                if not pieces or size <= _SLOW_EVENT_BATCH:
                    raise
                size = _SLOW_EVENT_BATCH

    def pass_on(
        self,
        keys: Sequence[tuple[Mapping, Sequence[str | list[str]]]],
        *,
        read: Reading | None = None,
    ) -> list[Event]:
        """Carry the rows of keys, as the primary prints them, to the target, unread.

        `keys` has, for each mapping and each of its key columns, the values of all keys: a list, or
        an array literal. `read`: their rows, if the claim has read them; None: they are read now.
        A sync pass takes the keys that the target refuses. Returns events to continue with.

        Raises:
            TooOld: the target forgets what happened at the time of the read.
        """
        with explained(TooOld):
            self.stamp, rows = self.source.read_json(keys) if read is None else read
            answers = self.target.apply(self.stamp, rows)
        refused = PendingKeys()
        for name, answer in answers.items():
            log_retained(answer)
            refused.keys[name].update(
                answer.stale, answer.orphans, answer.new_parents, answer.large
            )
            refused.new_parents.update((name, key) for key in answer.new_parents)
        if not any(refused.keys.values()):
            return []
        newest_fence = max(answer.newest_fence or 0 for answer in answers.values())
        return self.sync_keys(refused, newest_fence=newest_fence)

    def sync_keys(
        self,
        pending: PendingKeys,
        *,
        batch_size: int | None = None,
        newest_fence: int = 0,
        narrowed: str | None = None,
    ) -> list[Event]:
        """Bring keys and scopes up to date; return events to continue with.

        `batch_size` replaces the syncer's own; with 0, children become events instead of being
        written. `newest_fence` is the newest fence that the target is known to have. In rows of the
        mapping `narrowed`, the descriptive columns are NULL.

        Raises:
            Transient: a database does not answer, or other workers were faster every time.
            Halted: no write is allowed until a person acts.
        """
        continuations: list[Event] = []
        size = self.batch_size if batch_size is None else batch_size
        for number in range(_MAX_PASSES):
            with self.source.snapshot(narrowed=narrowed) as snapshot:
                self.stamp = snapshot.stamp
                if snapshot.stamp.fence < newest_fence:
                    raise WentBack(
                        "the primary is older than what the target has seen "
                        f"(fence {snapshot.stamp.fence}, seen {newest_fence}): was it restored or "
                        "failed over to a standby that lagged? Run `mirror rebase` if it is the "
                        "truth now."
                    )
                sync_pass = self._pass(snapshot, size)
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
            for name_and_key, returns in sync_pass.large:
                stamp = snapshot.stamp
                continuations += self._withdraw(name_and_key, stamp, size, returns=returns)
            if not any(sync_pass.stale.values()):
                return continuations
            newest_fence = max(newest_fence, sync_pass.newest_fence)
            pending = PendingKeys(keys=sync_pass.stale, revoked=pending.revoked)
        raise Transient("target: other workers were faster again and again; the events wait")

    def split_scope(self, event: Event, *, unread: bool = False) -> tuple[list[Event], bool]:
        """Return events for the keys on a scope's first page, and one for the rest of the scope.

        Returns also whether these are all keys. If the primary cannot list them, or if the scope is
        to stay `unread` there, they are those that the target has.
        """
        (scope,) = pending_keys(self.registry, [event]).scopes
        with explained(TooOld), self.source.snapshot() as snapshot:
            return self._pass(snapshot, self.batch_size).split_scope(scope, unread=unread)

    def _stamp_without(self, event: Event) -> Stamp | None:
        """Return the stamp of a read that finds no row for the parent that an event names.

        None: the primary has the row, or the event names no parent.
        """
        mapping = self.registry[event.mapping]
        if event.reference is not None or not self.registry.children(mapping):
            return None
        with self.source.snapshot() as snapshot:
            found = snapshot.rows(mapping, [mapping.canonical(event.key)])
            return None if found else snapshot.stamp

    def _withdraw(
        self, name_and_key: MappingKey, stamp: Stamp, limit: int, *, returns: bool = False
    ) -> list[Event]:
        """Withdraw a parent that is gone as of a read, for a while.

        Returns an event to continue with if children are left, or if the parent `returns`.
        """
        name, key = name_and_key
        done = withdraw_in_pages(
            self.registry,
            self.target,
            self.queue,
            self.registry[name],
            key,
            stamp=stamp,
            limit=limit or self.batch_size,
            seconds=_WITHDRAWAL_SECONDS,
        )
        return [] if done and not returns else [Event(Lane.REVOCATION, name, key)]

    def _pass(self, snapshot: Snapshot, size: int) -> SyncPass:
        return SyncPass(
            self.registry,
            snapshot,
            self.target,
            self._announce,
            self.queue.keep_alive,
            batch_size=size,
        )

    def _announce(self, events: Sequence[Event]) -> None:
        self.queue.announce(events)
        self.announced = self.announced or bool(events)
