"""Event: says for one event what it is about, why it is there, and what access is wrong now."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from mirror.capture.statements import statement
from mirror.errors import InvalidKey, MappingError, MirrorError, UsageError
from mirror.model.keys import Key, key_order
from mirror.model.mapping import EVERYTHING, Mapping
from mirror.model.registry import Registry
from mirror.reconcile.clauses import lowest_key
from mirror.reconcile.drift import Direction
from mirror.reconcile.judge import Judge
from mirror.sync.snapshot import Source
from mirror.sync.targets.base import Target
from mirror.sync.targets.reading import Hashing, KeyRange

_PAGE: Final = 200
# So many keys are named; the others are only counted.
_NAMED: Final = 10


def subject_of(mapping: str, reference: str | None, key: Sequence[str | None]) -> str:
    """Return the mapping of an event with its key, or with its scope."""
    values = ",".join("NULL" if part is None else part for part in key)
    if reference is None:
        return f"{mapping} {values}"
    if reference == EVERYTHING:
        return f"{mapping}, all rows"
    return f"{mapping}, all rows with {reference} {values}"


@dataclass(frozen=True)
class EventState:
    """One event, as the primary has it."""

    id: int
    mapping: str
    reference: str | None
    """None: the event is about a key. Otherwise the scope's reference; `*`: the whole mapping."""
    key: tuple[str | None, ...]
    """The key; for a scope, the value of its reference, and the key after which it goes on."""
    lane: str
    """`revocation` or `grant`."""
    age_seconds: float
    """Seconds since it was recorded."""
    state: str
    """`waiting`, `claimed`, `set apart` or `dead`."""
    attempts: int
    deaths: int
    """How many workers crashed while they attempted it."""
    error: str | None
    next_seconds: float | None
    """Seconds until the next attempt; None if none is planned for this event alone."""

    @property
    def failed(self) -> bool:
        """Whether it was attempted in vain, or is dead."""
        return self.state == "dead" or self.attempts + self.deaths > 0

    @property
    def subject(self) -> str:
        """The mapping with the key, or with the scope."""
        return subject_of(self.mapping, self.reference, self.key)


@dataclass(frozen=True)
class Comparison:
    """How rows of one mapping differ between the sides now, also if a change is under way."""

    mapping: str
    keys: int
    """How many keys were compared."""
    complete: bool
    """Whether these are all keys that the event is about."""
    over: tuple[Key, ...]
    """The keys whose rows allow more in the target than in the primary."""
    under: tuple[Key, ...]
    """The keys whose rows allow less."""
    other: tuple[Key, ...]
    """The keys whose rows differ and allow the same."""
    unknown: str | None = None
    """Why the rows could not be compared; None: they were."""

    def __str__(self) -> str:
        if self.unknown is not None:
            return f"{self.mapping}: unknown: the row cannot be read ({self.unknown})"
        found = [
            f"{len(keys)} {effect} ({_names(keys)})"
            for keys, effect in (
                (self.over, "allow(s) too much in the target"),
                (self.under, "allow(s) too little"),
                (self.other, "differ(s) and allow(s) the same"),
            )
            if keys
        ]
        compared = f"of {self.keys} row(s)" if self.complete else f"of the first {self.keys} row(s)"
        return f"{self.mapping}: {', '.join(found) or 'none is wrong'}, {compared}"


@dataclass(frozen=True)
class EventReport:
    """An event and the access that depends on it."""

    event: EventState
    no_row: str | None
    """Why the event can name no row; None: it can."""
    access: tuple[Comparison, ...]
    """The event's own rows; for the key of a parent, the rows of its children, too."""

    @property
    def remedy(self) -> str:
        """Instructions."""
        number = self.event.id
        if self.no_row is not None:
            return f"It can never succeed: run `mirror discard {number}`."
        if self.event.state == "dead":
            return (
                f"Fix the cause, then run `mirror retry {number}`. If it can never succeed, run "
                f"`mirror discard {number}`."
            )
        if self.event.state == "set apart":
            return "Fix the cause; a worker retries it until it succeeds."
        if self.event.state == "claimed":
            return "A worker processes it. If that worker has crashed, another one sets it apart."
        return "Run a worker, or `mirror drain`."

    @property
    def exit_code(self) -> int:
        """1 if the event has failed, can name no row, or access is unknown; 0 while it waits."""
        unknown = any(comparison.unknown is not None for comparison in self.access)
        return int(self.event.failed or self.no_row is not None or unknown)

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"remedy": self.remedy}


def _names(keys: Sequence[Key]) -> str:
    names = ["/".join(key) for key in keys[:_NAMED]]
    return ", ".join(names) + (", …" if len(keys) > _NAMED else "")


def read_event(registry: Registry, source: Source, target: Target, number: int) -> EventReport:
    """Return all that is known about an event. It has keys, and no other value of a row.

    Raises:
        UsageError: the primary has no event of this number.
        MirrorError: the primary does not answer, or is not migrated.
    """
    found = source.database.execute(statement("find_event"), [number])
    if not found:
        raise UsageError(
            f"event {number} neither waits nor is set apart: it was applied or discarded, or never "
            f"existed; `mirror status` prints the numbers of failed events."
        )
    mapping, reference, key, *rest = found[0]
    event = EventState(number, mapping, reference, tuple(key), *rest)
    try:
        declared = registry[event.mapping]
        value = _canonical(declared, event)
    except (InvalidKey, MappingError) as error:
        return EventReport(event, no_row=str(error), access=())
    comparing = _Comparing(registry, source, target)
    return EventReport(event, no_row=None, access=tuple(comparing.compare(declared, event, value)))


def _canonical(mapping: Mapping, event: EventState) -> Key:
    """Return the event's key in canonical form; for a scope, its value and the key after it.

    Raises:
        InvalidKey: the key does not fit the mapping, or the value does not fit the reference.
        MappingError: the mapping has no such reference.
    """
    if event.reference is None:
        return mapping.canonical(event.key)
    if event.reference == EVERYTHING:
        return ("", *map(str, event.key[1:]))
    if mapping.reference(event.reference) is None:
        raise MappingError(f"mapping {mapping.name!r} has no reference {event.reference!r}.")
    value = event.key[0] if event.key else None
    return (mapping.canonical_reference(event.reference, value), *map(str, event.key[1:]))


@dataclass(frozen=True)
class _Comparing:
    """Compares the rows that an event is about."""

    registry: Registry
    source: Source
    target: Target

    def compare(self, mapping: Mapping, event: EventState, value: Key) -> Iterator[Comparison]:
        """Yield the comparison of the event's own rows, and for a parent's key of its children."""
        if event.reference is not None:
            yield self._compare(mapping, event.reference, value)
            return
        yield self._compare(mapping, None, value)
        for child, parent in self.registry.children(mapping):
            yield self._compare(child, parent.column, value)

    def _compare(self, mapping: Mapping, reference: str | None, value: Key) -> Comparison:
        try:
            keys, complete = (
                ([value], True)
                if reference is None
                else self._keys_in_scope(mapping, reference, value)
            )
            judge = Judge(self.registry, self.source, self.target)
            found = judge.differences(mapping, keys)
        except MirrorError as error:
            return Comparison(
                mapping.name,
                keys=0,
                complete=False,
                over=(),
                under=(),
                other=(),
                unknown=str(error),
            )
        # An expired row grants nothing, and the next sweep deletes it.
        by_direction: dict[Direction, list[Key]] = {direction: [] for direction in Direction}
        for one in found:
            by_direction[Direction.NEITHER if one.expired else one.direction].append(one.key)
        over, under, other = (
            tuple(by_direction[direction])
            for direction in (Direction.OVER, Direction.UNDER, Direction.NEITHER)
        )
        return Comparison(mapping.name, len(keys), complete, over, under, other)

    def _keys_in_scope(
        self, mapping: Mapping, reference: str, value: Key
    ) -> tuple[Sequence[Key], bool]:
        """Return the first keys that either side has in a scope, and whether these are all."""
        first, *rest = value
        after = tuple(rest)
        with self.source.snapshot() as snapshot:
            rows = snapshot.rows_in_scope(mapping, reference, [first], after=after, limit=_PAGE)
        keys, whole = set(rows), len(rows) < _PAGE
        if reference == EVERYTHING:
            start = KeyRange(after or lowest_key(mapping))
            (page,) = self.target.listing(mapping, Hashing(0), [start], limit=_PAGE)
            keys.update(page.hashes)
            whole = whole and page.range.end is None
        elif reference in mapping.types:
            known = self.target.keys(mapping, {reference: first}, limit=_PAGE)
            keys.update(known)
            whole = whole and len(known) < _PAGE
        else:
            # Only the target's ledger has this reference, and it is not searched here.
            whole = False
        ordered = sorted(keys, key=lambda key: key_order(mapping.key_columns, key))
        return ordered[:_PAGE], whole and len(ordered) <= _PAGE
