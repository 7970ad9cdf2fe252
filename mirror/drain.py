"""Drain: carry events from the outbox to the target.

Claim, expand scopes, read one snapshot, apply it under its fence, acknowledge. A crash anywhere
before the end gives the events back; fences make the second delivery harmless.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import structlog

from mirror.claims import Attempt, Claimed, Queue
from mirror.errors import (
    InvalidKey,
    MappingError,
    MirrorError,
    Rejected,
    TooSlow,
    Transient,
    WentBack,
)
from mirror.keys import Key, key_order
from mirror.mapping import Mapping
from mirror.outbox import EVERYTHING, Event, Lane
from mirror.registry import Registry
from mirror.source import Row, Snapshot, Source
from mirror.targets.base import Answers, ScopePage, Section, Target, TooOld

log = structlog.stdlib.get_logger(__name__)

# What is wrong with one event, not with the mirror: such an event is isolated.
ISOLATED = (Rejected, TooSlow, MappingError, InvalidKey)

# A key can lose to a faster worker; to lose this often in a row means something else.
_ATTEMPTS = 8

Desired = dict[str, dict[Key, Row | None]]
"""By mapping and key: the row as it should be, or None for no row."""


@dataclass
class Drained:
    """What one batch did."""

    events: int = 0
    failed: int = 0
    """Events that moved to the retries, or stayed there."""
    full: bool = False
    """The batch was as large as allowed, so there may be more."""


@dataclass
class _Work:
    """What is left to be mirrored of a batch."""

    keys: dict[str, set[Key]] = field(default_factory=lambda: defaultdict(set))
    scopes: list[Event] = field(default_factory=list)
    more: list[Event] = field(default_factory=list)
    """Events for later: the rest of large scopes."""


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

    def close(self) -> None:
        """Close every connection; the next use opens others."""
        self.source.database.close()
        self.queue.claims.close()
        self.queue.notes.close()
        self.target.close()

    def run(
        self, *, seconds: float = 20.0, on_full_batch: Callable[[], object] = lambda: None
    ) -> Drained:
        """Drain until there is nothing left or `seconds` have passed.

        `on_full_batch` is called after each batch that left more behind: others may help.
        `full` in the result says that time ran out first.

        Raises:
            Transient: a database does not answer; the events wait.
            Halted: a person must act; the events wait.
        """
        end = time.monotonic() + seconds
        total = Drained()
        while True:
            batch = self.once()
            retried = self._retry()
            total.events += batch.events + retried.events
            total.failed += batch.failed + retried.failed
            if not batch.full and not retried.events:
                return total
            if time.monotonic() > end:
                total.full = True
                return total
            if batch.full:
                on_full_batch()

    def once(self) -> Drained:
        """Mirror one batch of events."""
        claim = self.queue.claim(self.batch_size)
        if claim is None:
            return Drained()
        started = time.monotonic()
        try:
            more, failed = self._isolate(claim.events)
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
        full = len(claim.events) >= self.batch_size or bool(more)
        return Drained(len(claim.events), len(failed), full=full)

    def _retry(self, most: int = 20) -> Drained:
        """Try events that failed before, each alone, so that none takes others along."""
        done = Drained()
        while done.events < most:
            attempt = self.queue.take_retry()
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
                more = self._mirror([event])
            except ISOLATED as caught:
                error = caught
            except BaseException:
                self.queue.postponed(attempt)
                raise
            else:
                self.queue.succeeded(attempt, more)
                return True
        buried = self.queue.failed(attempt, error)
        log.error(
            "event buried" if buried else "event failed again",
            event_id=event.id,
            mapping=event.mapping,
            attempts=attempt.number,
            error=str(error or "its worker died"),
        )
        return False

    def _isolate(
        self, events: list[Claimed]
    ) -> tuple[list[Event], list[tuple[Claimed, MirrorError]]]:
        """Mirror events; if one spoils the batch, halve it until that one stands alone."""
        if not events:
            return [], []
        try:
            return self._mirror(events), []
        except ISOLATED as error:
            if len(events) == 1:
                return [], [(events[0], error)]
        middle = len(events) // 2
        first, failed = self._isolate(events[:middle])
        second, failed_too = self._isolate(events[middle:])
        return first + second, failed + failed_too

    def _mirror(self, events: Iterable[Event]) -> list[Event]:
        """Bring everything these events name up to date; return what is left for later."""
        work = self._sort(events)
        ahead = 0
        for attempt in range(_ATTEMPTS):
            with self.source.snapshot() as snapshot:
                if snapshot.stamp.fence < ahead:
                    raise WentBack(
                        "the primary is older than what the target has seen "
                        f"(fence {snapshot.stamp.fence}, seen {ahead}): was it restored or failed "
                        "over to a standby that lagged? Run `mirror rebase` if it is the truth now."
                    )
                try:
                    stale, seen = self._round(snapshot, work)
                except TooOld as error:
                    # This process slept for longer than the target remembers.
                    ahead = max(ahead, error.horizon)
                    continue
                except WentBack:
                    # A read from before a rebase that happened meanwhile; the next is of today.
                    if attempt:
                        raise
                    continue
            if not stale:
                return work.more
            ahead = max(ahead, seen)
            work = _Work(keys=stale, more=work.more)
        raise Transient("target: other workers were faster again and again; the events wait")

    def _sort(self, events: Iterable[Event]) -> _Work:
        work = _Work()
        for event in events:
            mapping = self.registry[event.mapping]
            if event.reference is None:
                work.keys[mapping.name].add(mapping.canonical(event.key))
            elif event.reference == EVERYTHING:
                if event.key:
                    mapping.canonical(event.key)
                work.scopes.append(event)
            else:
                if not event.key:
                    raise InvalidKey(f"mapping {mapping.name!r}: a scope without a value")
                if mapping.reference(event.reference) is None:
                    raise MappingError(
                        f"mapping {mapping.name!r} has no reference {event.reference!r}"
                    )
                mapping.canonical_reference(event.reference, event.key[0])
                work.scopes.append(event)
        return work

    def _round(self, snapshot: Snapshot, work: _Work) -> tuple[dict[str, set[Key]], int]:
        """Mirror work as of one snapshot; return the keys it is too old for, and by how much."""
        wanted: Desired = defaultdict(dict)
        self._expand(snapshot, work, wanted)
        for name, keys in work.keys.items():
            self._read(snapshot, self.registry[name], keys, wanted)
        stale: dict[str, set[Key]] = defaultdict(set)
        settled: set[tuple[str, Key]] = set()
        tried: set[tuple[str, Key]] = set()
        ahead = 0
        while wanted:
            answers = self.target.apply(snapshot.stamp, _sections(self.registry, wanted))
            tried.update((name, key) for name, rows in wanted.items() for key in rows)
            for name, answer in answers.items():
                stale[name].update(answer.stale)
                ahead = max(ahead, answer.ahead or 0)
                refused = {*answer.stale, *answer.orphans}
                settled.update((name, key) for key in wanted[name] if key not in refused)
                for kind, held in answer.retained.items():
                    log.warning("held back by a foreign key", mapping=kind, rows=len(held))
            wanted = self._follow_up(snapshot, answers, wanted, work, tried, settled)
        return {name: keys for name, keys in stale.items() if keys}, ahead

    def _read(
        self, snapshot: Snapshot, mapping: Mapping, keys: Iterable[Key], wanted: Desired
    ) -> None:
        missing = [key for key in keys if key not in wanted[mapping.name]]
        rows = snapshot.rows(mapping, missing)
        wanted[mapping.name].update({key: rows.get(key) for key in missing})

    def _follow_up(
        self,
        snapshot: Snapshot,
        answers: Answers,
        wanted: Desired,
        work: _Work,
        tried: set[tuple[str, Key]],
        settled: set[tuple[str, Key]],
    ) -> Desired:
        """Return what one call makes necessary: missing parents, and children of new ones."""
        following: Desired = defaultdict(dict)
        for name, answer in answers.items():
            mapping = self.registry[name]
            names = [column.name for column in mapping.columns]
            for key in answer.orphans:
                row = wanted[name][key]
                for parent in mapping.parents:
                    value = row[names.index(parent.column)] if row else None
                    if value is not None and (parent.mapping, (value,)) not in tried:
                        following[parent.mapping].setdefault((value,), None)
                        following[name][key] = row
        for name, rows in following.items():
            unread = [key for key, row in rows.items() if row is None]
            rows.update(snapshot.rows(self.registry[name], unread))
        for name, answer in answers.items():
            for child, parent in self.registry.children(self.registry[name]):
                values = [key[0] for key in answer.appeared]
                children = self._children(snapshot, child, parent.column, values, work)
                for child_key, row in children.items():
                    if (child.name, child_key) not in settled:
                        following[child.name][child_key] = row
        return {name: rows for name, rows in following.items() if rows}

    def _children(
        self, snapshot: Snapshot, child: Mapping, column: str, values: list[str], work: _Work
    ) -> dict[Key, Row]:
        """Return the rows under parents that appeared; too many are left for later."""
        if not values:
            return {}
        limit = 4 * self.batch_size
        rows = snapshot.rows_in_scope(child, column, values, limit=limit)
        if len(rows) == limit:
            work.more += [Event(Lane.GRANT, child.name, (value,), column) for value in values]
            return {}
        return rows

    def _expand(self, snapshot: Snapshot, work: _Work, wanted: Desired) -> None:
        """Read what is, and what is known, under each scope, up to a bound, the rest for later."""
        groups: dict[tuple[str, str, Key], list[Event]] = defaultdict(list)
        for event in work.scopes:
            value_count = 0 if event.reference == EVERYTHING else 1
            groups[event.mapping, str(event.reference), event.key[value_count:]].append(event)
        pending = list(groups.values())
        read = 0
        while pending:
            events = pending.pop()
            if read >= 4 * self.batch_size:
                work.more += events
                continue
            rows, last = self._page(snapshot, events)
            if last is not None and len(events) > 1:
                middle = len(events) // 2
                pending += [events[:middle], events[middle:]]
                continue
            read += len(rows)
            wanted[events[0].mapping].update(rows)
            if last is not None:
                event = events[0]
                value = () if event.reference == EVERYTHING else event.key[:1]
                work.more.append(Event(event.lane, event.mapping, value + last, event.reference))

    def _page(
        self, snapshot: Snapshot, events: list[Event]
    ) -> tuple[dict[Key, Row | None], Key | None]:
        """Return one page of a scope in key order, and its last key if there may be more.

        The page holds the keys that the primary yields and those that the target's ledger
        knows: what left the scope is in the ledger alone.
        """
        mapping, reference = self.registry[events[0].mapping], str(events[0].reference)
        whole = reference == EVERYTHING
        values = ("",) if whole else tuple(dict.fromkeys(event.key[0] for event in events))
        after = events[0].key if whole else events[0].key[1:]
        limit = self.batch_size
        page = ScopePage(mapping, reference, values, after)
        known = self.target.open_scopes(snapshot.stamp, [page], limit=limit)[0]
        rows = snapshot.rows_in_scope(mapping, reference, values, after=after, limit=limit)
        merged = sorted({*known, *rows}, key=lambda key: key_order(mapping.key_columns, key))
        more = len(known) == limit or len(rows) == limit or len(merged) > limit
        keys = merged[:limit]
        elsewhere = snapshot.rows(mapping, [key for key in keys if key not in rows])
        found = {key: rows.get(key, elsewhere.get(key)) for key in keys}
        return found, keys[-1] if more else None


def _sections(registry: Registry, wanted: Desired) -> list[Section]:
    """Return what one call writes, parents first."""
    sections = []
    for mapping in registry:
        if mapping.name not in wanted:
            continue
        section = Section(mapping)
        for key, row in wanted[mapping.name].items():
            if row is None:
                section.gone.append(key)
            else:
                section.rows.append(row)
        sections.append(section)
    return sections
