"""Events: what waits, or was given up, that bears on a key."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from mirror.capture.statements import statement
from mirror.model.keys import Key
from mirror.model.mapping import EVERYTHING
from mirror.sync.connections import Database

MappingKey = tuple[str, Key]


@dataclass(frozen=True)
class Waiting:
    """One event."""

    id: int
    mapping: str
    reference: str | None
    key: Key
    lane: int
    age_seconds: float
    attempts: int
    error: str | None
    buried: bool
    claimed: bool
    """A worker has it, or died with it."""

    def __str__(self) -> str:
        about = (
            ",".join(self.key)
            if self.reference is None
            else f"all under {self.reference} {','.join(self.key)}"
            if self.reference != EVERYTHING
            else "everything"
        )
        state = (
            f"buried after {self.attempts} attempt(s): {self.error}"
            if self.buried
            else f"tried {self.attempts} time(s): {self.error}"
            if self.attempts
            else "a worker has it"
            if self.claimed
            else "waits"
        )
        lane = "grant" if self.lane else "revocation"
        about = f"{self.mapping} {about}, {lane}, {self.age_seconds:.0f} s old"
        return f"event {self.id} ({about}) {state}"


def waiting(
    database: Database, keys: Iterable[MappingKey], scopes: Iterable[tuple[str, str, str]]
) -> list[Waiting]:
    """Return the first twenty that are about one of these keys or scopes.

    A scope is (mapping, reference, value); `*` stands for all of a mapping.
    """
    rows: list[tuple[str, str | None, str]] = [(m, None, json.dumps(list(k))) for m, k in keys]
    rows += list(scopes)
    if not rows:
        return []
    return [
        Waiting(number, mapping, reference, tuple(key), *rest)
        for number, mapping, reference, key, *rest in database.execute(
            statement("find_events_about"), [list(part) for part in zip(*rows, strict=True)]
        )
    ]
