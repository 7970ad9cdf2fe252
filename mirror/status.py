"""Status: what waits, what failed, what the target says of itself, and what to do about it."""

from dataclasses import asdict, dataclass
from typing import Any

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
    def remedies(self) -> list[str]:
        """What a person should do; empty if nothing is wrong."""
        found = []
        if set(self.digests.values()) != {"current"}:
            found.append("Run `mirror migrate supabase`, deploy the workers, then `mirror resync`.")
        if self.target_source not in {None, self.source} or self.target_epoch > self.epoch:
            found.append(
                "The target mirrors another primary, or this one was restored: nothing is "
                "written. If this primary is the truth now, run `mirror rebase`."
            )
        if self.buried:
            found.append("Mend what buried events say, then run `mirror retry --all`.")
        return found

    @property
    def healthy(self) -> bool:
        """Nothing is buried, and the target is the one that this worker writes."""
        return not self.remedies


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
