"""Events: what waits, or was given up, that bears on a key."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mirror.model.keys import Key
from mirror.model.mapping import EVERYTHING
from mirror.sync.connections import Database

MappingKey = tuple[str, Key]

# A worker that holds an event has deleted it in a transaction that is open still, so it is here.
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


def queued_events(
    database: Database, keys: Iterable[MappingKey], scopes: Iterable[tuple[str, str, str]]
) -> list[QueuedEvent]:
    """Return the first twenty that are about one of these keys or scopes.

    A scope is (mapping, reference, value); `*` stands for all of a mapping.
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
