"""Status: what waits, what failed, what the target says of itself, and what to do about it."""

from dataclasses import asdict, dataclass
from typing import Any

from mirror.capture.statements import statement
from mirror.model.registry import Registry
from mirror.sync.snapshot import Source
from mirror.sync.targets.base import Target
from mirror.sync.targets.catalog import Description

REMEDIES = {
    "mapping-digest": "Run `mirror migrate supabase`, deploy the workers, then `mirror resync`.",
    "wrong-source": "The target mirrors another primary, or this one was restored: nothing is "
    "written. If this primary is the truth now, run `mirror rebase`.",
    "buried": "Mend what buried events say, then run `mirror retry --all`.",
    "last-reconcile": "The last reconcile did not repair everything; run `mirror reconcile`.",
    "two-schedulers": "Both beat and the platform's scheduler reconcile. Set "
    "MIRROR_RECONCILE_CRON=off, or remove the platform's job.",
}
"""What a person should do about each fault; `mirror doctor` says the same."""


@dataclass(frozen=True)
class LastRun:
    """The reconcile that ended last."""

    outcome: str
    started_by: str
    age_seconds: float
    over_grants: int
    """Rows that allowed more than the primary, in all mappings."""
    under_grants: int


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
    """The identity the target expects; None before the first write, or if nobody asked it."""
    target_epoch: int
    digests: dict[str, str]
    """By mapping: `current`, `missing` or `different` in the target."""
    last_run: LastRun | None = None
    """None: no reconcile has ended yet."""
    two_schedulers: bool = False
    """Both beat and the platform started one within a week."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @property
    def faults(self) -> list[str]:
        """What is wrong, as keys of REMEDIES."""
        wrong = {
            "mapping-digest": any(state != "current" for state in self.digests.values()),
            "wrong-source": self.target_source not in {None, self.source}
            or self.target_epoch > self.epoch,
            "buried": self.buried > 0,
            "last-reconcile": self.last_run is not None
            and self.last_run.outcome in {"held back", "drift", "failed"},
            "two-schedulers": self.two_schedulers,
        }
        return [fault for fault, found in wrong.items() if found]

    @property
    def remedies(self) -> list[str]:
        """What a person should do; empty if nothing is wrong."""
        return [REMEDIES[fault] for fault in self.faults]

    @property
    def healthy(self) -> bool:
        """Nothing is buried, and the target is the one that this worker writes."""
        return not self.remedies


def read_status(registry: Registry, source: Source, target: Target) -> Status:
    """Ask both sides.

    Raises:
        MirrorError: one of them does not answer, or is not migrated.
    """
    return read_primary_status(registry, source, target.describe())


def read_primary_status(
    registry: Registry, source: Source, described: Description | None
) -> Status:
    """Ask the primary, with what the target said of itself; None: it says nothing.

    Raises:
        MirrorError: the primary does not answer, or is not migrated.
    """
    database = source.database
    revocations, grants, oldest = database.execute(statement("count_waiting"))[0]
    retrying, buried = database.execute(statement("count_set_apart"))[0]
    failures = [Failure(*row) for row in database.execute(statement("read_failures"))]
    with source.snapshot() as snapshot:
        stamp = snapshot.stamp
    return Status(
        revocations=revocations,
        grants=grants,
        oldest_seconds=oldest,
        retrying=retrying,
        buried=buried,
        failures=failures,
        epoch=stamp.epoch,
        source=stamp.identity,
        target_source=described.identity if described else None,
        target_epoch=described.epoch if described else stamp.epoch,
        digests=digest_states(registry, described) if described else {},
        last_run=next(
            (LastRun(*row) for row in database.execute(statement("read_last_run"))), None
        ),
        two_schedulers=database.execute(statement("find_two_schedulers"))[0][0],
    )


def digest_states(registry: Registry, described: Description) -> dict[str, str]:
    """Return whether the target has each mapping: `current`, `missing` or `different`."""
    states = {}
    for mapping in registry:
        known = described.digests.get(mapping.name)
        states[mapping.name] = (
            "missing" if known is None else "current" if known == mapping.digest else "different"
        )
    return states
