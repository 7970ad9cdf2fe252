"""Events: reads the waiting and buried events that concern a key."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from mirror.capture.statements import statement
from mirror.model.keys import Key
from mirror.model.mapping import EVERYTHING
from mirror.sync.connections import Database

MappingKey = tuple[str, Key]


@dataclass(frozen=True)
class QueuedEvent:
    """An event about a key or a scope: it waits in the outbox, or it failed."""

    id: int
    mapping: str
    reference: str | None
    """None: the event is about a key. Otherwise the scope's reference; `*`: the whole mapping."""
    key: Key
    """The key; for a scope, the value of its reference."""
    lane: int
    age_seconds: float
    attempts: int
    error: str | None
    buried: bool
    claimed: bool
    """A worker is processing it, or crashed while processing it."""

    def __str__(self) -> str:
        subject = (
            ",".join(self.key)
            if self.reference is None
            else f"scope {self.reference} {','.join(self.key)}"
            if self.reference != EVERYTHING
            else "everything"
        )
        state = (
            f"buried after {self.attempts} attempt(s): {self.error}"
            if self.buried
            else f"tried {self.attempts} time(s): {self.error}"
            if self.attempts
            else "is claimed by a worker"
            if self.claimed
            else "waits"
        )
        lane = "grant" if self.lane else "revocation"
        return (
            f"event {self.id} ({self.mapping} {subject}, {lane}, {self.age_seconds:.0f} s old) "
            f"{state}"
        )


def queued_events(
    database: Database, keys: Iterable[MappingKey], scopes: Iterable[tuple[str, str, str]]
) -> list[QueuedEvent]:
    """Return the waiting and failed events about any of these keys or scopes, revocations first.

    At most twenty are returned.

    A scope is (mapping, reference, value); the reference `*` means the whole mapping.
    """
    rows: list[tuple[str, str | None, str]] = [(m, None, json.dumps(list(k))) for m, k in keys]
    rows += list(scopes)
    if not rows:
        return []
    return [
        QueuedEvent(number, mapping, reference, tuple(key), *rest)
        for number, mapping, reference, key, *rest in database.execute(
            statement("find_events_about"), [list(part) for part in zip(*rows, strict=True)]
        )
    ]
