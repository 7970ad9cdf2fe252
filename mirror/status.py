"""Status: what waits, what failed, and what the target says of itself."""

from dataclasses import asdict, dataclass
from typing import Any

from mirror.claims import Queue
from mirror.errors import MirrorError
from mirror.outbox import EVERYTHING, Event, Lane
from mirror.registry import Registry
from mirror.source import Source
from mirror.targets.base import Target

_BACKLOG = """
select count(*) filter (where lane = 0), count(*) filter (where lane = 1),
  extract(epoch from now() - min(recorded_at))::float8
from mirror.outbox
"""

_FAILED = """
select id, mapping, attempts, error, buried_at is not null,
  extract(epoch from now() - recorded_at)::float8
from mirror.retries
order by buried_at nulls last, id
limit 100
"""


@dataclass(frozen=True)
class Failure:
    """An event that failed."""

    id: int
    mapping: str
    attempts: int
    error: str
    buried: bool
    """Given up until `mirror retry`."""
    age_seconds: float


@dataclass(frozen=True)
class Status:
    """What an operator wants to know first."""

    revocations: int
    """Events waiting in that lane."""
    grants: int
    oldest_seconds: float | None
    """Age of the oldest waiting event; None if none waits."""
    retrying: int
    buried: int
    failures: list[Failure]
    """The first hundred of both."""
    epoch: int
    source: str
    """The primary's identity."""
    target_source: str | None
    """The identity the target expects; None before the first write."""
    target_epoch: int
    digests: dict[str, str]
    """By mapping: `current`, `missing` or `different` in the target."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @property
    def healthy(self) -> bool:
        """Nothing is buried and the target is the one that this worker writes."""
        return (
            not self.buried
            and self.target_source in {None, self.source}
            and set(self.digests.values()) == {"current"}
        )


def read_status(registry: Registry, source: Source, target: Target) -> Status:
    """Ask both sides.

    Raises:
        MirrorError: one of them does not answer, or is not migrated.
    """
    database = source.database
    revocations, grants, oldest = database.execute(_BACKLOG)[0]
    retrying, buried = database.execute(
        "select count(*) filter (where buried_at is null),"
        " count(*) filter (where buried_at is not null) from mirror.retries"
    )[0]
    failures = [Failure(*row) for row in database.execute(_FAILED)]
    with source.snapshot() as snapshot:
        stamp = snapshot.stamp
    described = target.describe()
    digests = {}
    for mapping in registry:
        known = described.digests.get(mapping.name)
        digests[mapping.name] = (
            "missing" if known is None else "current" if known == mapping.digest else "different"
        )
    return Status(
        revocations=revocations,
        grants=grants,
        oldest_seconds=oldest,
        retrying=retrying,
        buried=buried,
        failures=failures,
        epoch=stamp.epoch,
        source=stamp.identity,
        target_source=described.identity,
        target_epoch=described.epoch,
        digests=digests,
    )


def unbury(queue: Queue, ids: list[int] | None) -> int:
    """Give buried events (all, for None) a new set of attempts, from now; return how many."""
    rows = queue.notes.execute(
        "update mirror.retries set attempts = 0, deaths = 0, due_at = now(), buried_at = null"
        " where buried_at is not null and (%s::bigint[] is null or id = any(%s)) returning id",
        [ids, ids],
    )
    return len(rows)


def resync(queue: Queue, registry: Registry, names: list[str]) -> list[str]:
    """Record that everything in the named mappings (all, for none) may have changed.

    Returns the mappings' names, parents first.

    Raises:
        MirrorError: a name that is not declared.
    """
    for name in names:
        registry[name]
    chosen = [mapping.name for mapping in registry if not names or mapping.name in names]
    queue.record([Event(Lane.GRANT, name, (), EVERYTHING) for name in chosen])
    return chosen


def rebase(registry: Registry, source: Source, target: Target, queue: Queue) -> int:
    """Take the primary as it is now for the truth, in a new epoch; return that epoch.

    Everything is recorded as changed, so that the next drains bring the target in line.

    Raises:
        MirrorError: a side does not answer, or is not migrated.
    """
    known = target.describe().epoch
    with queue.claims.transaction():
        epoch = queue.claims.execute(
            "update mirror.state set epoch = greatest(epoch, %s) + 1 where one returning epoch",
            [known],
        )[0][0]
        resync(queue, registry, [])
    with source.snapshot() as snapshot:
        stamp = snapshot.stamp
    try:
        target.rebase(stamp.identity, stamp.epoch)
    except MirrorError as error:
        error.add_note("The primary is in its new epoch already; run `mirror rebase` again.")
        raise
    return int(epoch)
