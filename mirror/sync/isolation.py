"""Isolation: finds the event of a batch that fails, so that the others are applied without it.

An event that fails alone is replaced by events for its parts, as far as it has any; or its key is
withheld; or it is set apart (`mirror.sync.retries`).
"""

import time

from mirror.capture.outbox import Event
from mirror.errors import MirrorError, UnreadableMapping
from mirror.model.mapping import EVERYTHING
from mirror.model.registry import Registry
from mirror.sync.claims import Queue
from mirror.sync.retries import ClaimedEvent, Failed
from mirror.sync.snapshot import Source
from mirror.sync.sync_pass import children_scopes
from mirror.sync.syncer import ISOLATED, Syncer
from mirror.sync.targets.base import Target
from mirror.sync.targets.writing import TooOld
from mirror.sync.withholding import withhold

# For so long the events of an unreadable mapping are set apart without another attempt to read it.
_PARKED_SECONDS = 30.0


class Isolating(Syncer):
    """Brings events up to date, and isolates those that fail."""

    def __init__(
        self, registry: Registry, source: Source, target: Target, queue: Queue, batch_size: int
    ) -> None:
        super().__init__(registry, source, target, queue, batch_size)
        self._parked: dict[str, tuple[float, UnreadableMapping]] = {}
        """By mapping: until when its events are not attempted, and why."""

    def _isolate(
        self, events: list[ClaimedEvent], *, until: float
    ) -> tuple[list[Event], list[Failed]]:
        """Apply events; after a failure, halve them until the failing event is alone.

        Returns continuations, and the events that failed with their errors.
        """
        if not events:
            return [], []
        try:
            apply = self.sync if len(events) > 1 else self.sync_alone
            return apply(events), []
        except ISOLATED as error:
            if isinstance(error, UnreadableMapping) and any(
                event.mapping == error.mapping for event in events
            ):
                return self._leave_out(error, events, until=until)
            if len(events) == 1:
                return self._set_apart(events[0], error)
            return self._halve(events, error, until=until)

    def _halve(
        self,
        events: list[ClaimedEvent],
        error: MirrorError,
        *,
        until: float,
    ) -> tuple[list[Event], list[Failed]]:
        """Apply the halves of events that failed together; return as `_isolate` does."""
        if time.monotonic() > until:
            return [], [Failed(event, error, alone=False) for event in events]
        # The failure may have taken long.
        self.queue.keep_alive()
        middle = len(events) // 2
        first, first_failed = self._isolate(events[:middle], until=until)
        second, second_failed = self._isolate(events[middle:], until=until)
        return first + second, first_failed + second_failed

    def _leave_out(
        self,
        error: UnreadableMapping,
        events: list[ClaimedEvent],
        *,
        until: float,
    ) -> tuple[list[Event], list[Failed]]:
        """Apply the events of other mappings than the unreadable one; return as `_isolate` does."""
        self._parked[error.mapping] = (time.monotonic() + _PARKED_SECONDS, error)
        others = [event for event in events if event.mapping != error.mapping]
        continuations, failed = self._isolate(others, until=until)
        return continuations, failed + [
            Failed(event, error) for event in events if event.mapping == error.mapping
        ]

    def _set_apart(
        self, event: ClaimedEvent, error: MirrorError
    ) -> tuple[list[Event], list[Failed]]:
        """Return as `_isolate` does for an event that failed alone."""
        continuations, found = self._divide(event, error)
        return continuations, [] if found is None else [Failed(event, found)]

    def _divide(
        self, event: Event, error: MirrorError, attempt: int = 1
    ) -> tuple[list[Event], MirrorError | None]:
        """Replace an event that failed alone by events for its parts, as far as it has any.

        So one bad row is alone, and every other row is mirrored. Returns the events, and the error
        with which the event itself is still set apart; None if its parts stand for all of it.

        The parts of a scope are its keys. The scope stays, too: if its parent's row is the one that
        fails, each key announces the scope again, and `announce` skips events that are set apart.
        No key announces the scope `*`, so it stays only if the primary could not list it.

        The parts of a parent are its own row, and the scopes of its children: a child's bad row
        must not be taken for the parent's.
        """
        first = attempt == 1
        # The failure may have taken long, and a claim may be open.
        self.queue.keep_alive()
        try:
            if event.reference is not None:
                if not first:
                    return [], error
                parts, complete = self.split_scope(event)
                return parts, None if complete and event.reference == EVERYTHING else error
            children = self._children(event)
            if not children:
                return [], self._withheld(event, error, attempt)
            try:
                # With room for no child, they become events.
                return list(dict.fromkeys([*self.sync([event], batch_size=0), *children])), None
            except ISOLATED as own:
                # Children that went with an earlier row of this key must not wait for the new one.
                return children if first else [], self._withheld(event, own, attempt)
        except (*ISOLATED, TooOld):
            return [], error

    def _children(self, event: Event) -> list[Event]:
        """Return the scopes of the children that the key of an event has, in all mappings."""
        mapping = self.registry[event.mapping]
        under = children_scopes(self.registry, mapping.name, [mapping.canonical(event.key)])
        return [scope for scopes in under for scope in scopes]

    def _withheld(self, event: Event, error: MirrorError, attempt: int = 1) -> MirrorError:
        """Close the key of an event that failed alone, if need be; return the error to store."""
        found = withhold(self, event, error, attempt=attempt)
        if isinstance(found, UnreadableMapping):
            self._parked[found.mapping] = (time.monotonic() + _PARKED_SECONDS, found)
        return found

    def _parked_error(self, mapping: str) -> UnreadableMapping | None:
        """Return why events of a mapping are not attempted now; None if they are."""
        until, error = self._parked.get(mapping, (0.0, None))
        return error if time.monotonic() < until else None
