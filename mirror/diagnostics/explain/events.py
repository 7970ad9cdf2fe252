"""Events: reads the waiting and buried events that concern a key."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mirror.model.keys import Key
from mirror.model.mapping import EVERYTHING
from mirror.sync.connections import Database

MappingKey = tuple[str, Key]

# A worker deletes claimed events in a transaction that is still open, so they are visible here.
_WAITING: Final = """
select e.id, e.mapping, e.reference, e.key, e.lane, e.age, e.attempts, e.error, e.buried,
  exists (select from mirror.claims as c where e.id = any(c.events)) as claimed
from (
  select id, mapping, reference, key, lane,
    extract(epoch from now() - recorded_at)::float8 as age, 0 as attempts,
    null as error, false as buried
  from mirror.outbox
  union all
  select id, mapping, reference, key, lane,
    extract(epoch from now() - recorded_at)::float8, attempts, error, buried_at is not null
  from mirror.retries
) as e
join unnest(%s::text[], %s::text[], %s::text[]) as w (mapping, reference, key)
  on e.mapping = w.mapping and e.reference is not distinct from w.reference
  and case when w.reference is null then to_jsonb(e.key) = w.key::jsonb
    when w.reference = '*' then true else e.key[1] = w.key end
order by e.lane, e.id
limit 20
"""


@dataclass(frozen=True)
class QueuedEvent:
    """An event in the outbox, or one that failed."""

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
    """Return the first twenty events for one of these keys or scopes, revocations first.

    A scope is (mapping, reference, value); the reference `*` means the whole mapping.
    """
    rows: list[tuple[str, str | None, str]] = [(m, None, json.dumps(list(k))) for m, k in keys]
    rows += list(scopes)
    if not rows:
        return []
    return [
        QueuedEvent(number, mapping, reference, tuple(key), *rest)
        for number, mapping, reference, key, *rest in database.execute(
            _WAITING, [list(part) for part in zip(*rows, strict=True)]
        )
    ]
