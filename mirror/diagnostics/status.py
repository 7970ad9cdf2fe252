"""Status: waiting and failed events, the versions on both sides, and the remedy for each fault."""

from dataclasses import asdict, dataclass
from typing import Any

from mirror.capture.statements import statement
from mirror.model.registry import Registry
from mirror.sync.snapshot import Source
from mirror.sync.targets.base import Target
from mirror.sync.targets.catalog import Description

REMEDIES = {
    "mapping-digest": "The target was migrated to other declarations. Run `mirror migrate "
    "supabase`, deploy the workers, then run `mirror resync`.",
    "wrong-source": "The target mirrors another primary, or this primary was restored, so nothing "
    "is written. If this primary is the truth now, run `mirror rebase`.",
    "buried": "Events are buried: fix the errors that they report, then run `mirror retry --all`. "
    "`mirror discard ID` deletes one that can never succeed.",
    "stuck": "Events fail again and again: fix the errors that `mirror status` shows. They are "
    "retried until they succeed, at the latest every five minutes.",
    "last-reconcile": "The last reconcile did not repair everything. Run `mirror reconcile`.",
    "two-schedulers": "Both beat and the platform's scheduler start reconciles. Set "
    "MIRROR_RECONCILE_CRON=off, or remove the platform's job.",
}
"""The remedy for each fault, also shown by `mirror doctor`."""


@dataclass(frozen=True)
class LastRun:
    """The last reconcile that finished."""

    outcome: str
    """That of its report (`in line`, `repaired`, `held back`, `drift`); `failed` if an error of the
    mirror ended it, `stopped` if anything else did."""
    started_by: str
    """`hand`, `beat` or `schedule` (the platform's scheduler)."""
    age_seconds: float
    """Seconds since it started."""
    over_grants: int
    """Rows in all mappings that allowed more in the target than in the primary."""
    under_grants: int
    """Rows that allowed less."""


@dataclass(frozen=True)
class Failure:
    """An event that was set apart, because it failed or its worker crashed.

    It is retried alone, or it is buried.
    """

    id: int
    mapping: str
    attempts: int
    error: str
    buried: bool
    """Whether it is no longer retried, until `mirror retry`."""
    age_seconds: float
    """Seconds since the event was recorded."""


@dataclass(frozen=True)
class Status:
    """The state of the mirror as an operator needs it first."""

    revocations: int
    """How many events wait that may take access away."""
    grants: int
    """How many other events wait."""
    oldest_seconds: float | None
    """Age of the oldest waiting event; None if none waits."""
    retrying: int
    """How many failed events are retried."""
    buried: int
    """How many failed events are no longer retried."""
    failures: list[Failure]
    """At most a hundred failed events: the buried ones first, then those being retried."""
    epoch: int
    source: str
    """The primary's identity."""
    target_source: str | None
    """The identity the target expects; None before the first write, or if it was not asked."""
    target_epoch: int
    """The epoch that the target expects; that of the primary if the target was not asked."""
    digests: dict[str, str]
    """By mapping name: whether the target was migrated to the present declaration (`current`), to
    another one (`different`), or to none (`missing`); empty if the target was not asked."""
    last_run: LastRun | None = None
    """None: no reconcile has finished yet."""
    stuck: int = 0
    """How many of the events that are retried were recorded more than a minute ago."""
    two_schedulers: bool = False
    """Whether both beat and the platform's scheduler started a reconcile within the last week."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @property
    def faults(self) -> list[str]:
        """The faults found, as keys of REMEDIES."""
        checks = {
            "mapping-digest": any(state != "current" for state in self.digests.values()),
            "wrong-source": self.target_source not in {None, self.source}
            or self.target_epoch > self.epoch,
            "buried": self.buried > 0,
            "stuck": self.stuck > 0,
            "last-reconcile": self.last_run is not None
            and self.last_run.outcome in {"held back", "drift", "failed"},
            "two-schedulers": self.two_schedulers,
        }
        return [fault for fault, found in checks.items() if found]

    @property
    def remedies(self) -> list[str]:
        """The remedy for each fault; empty if there is none."""
        return [REMEDIES[fault] for fault in self.faults]

    @property
    def healthy(self) -> bool:
        """Whether there is no fault."""
        return not self.remedies


def read_status(registry: Registry, source: Source, target: Target) -> Status:
    """Read both sides and return their status.

    Raises:
        MirrorError: a side does not answer, or is not migrated.
    """
    return read_primary_status(registry, source, target.describe())


def read_primary_status(
    registry: Registry, source: Source, described: Description | None
) -> Status:
    """Return the status of the primary, and that of the target from `described`; None: unknown.

    Raises:
        MirrorError: the primary does not answer, or is not migrated.
    """
    database = source.database
    revocations, grants, oldest = database.execute(statement("count_waiting"))[0]
    retrying, buried, stuck = database.execute(statement("count_set_apart"))[0]
    failures = [Failure(*row) for row in database.execute(statement("read_failures"))]
    with source.snapshot() as snapshot:
        stamp = snapshot.stamp
    return Status(
        revocations=revocations,
        grants=grants,
        oldest_seconds=oldest,
        retrying=retrying,
        buried=buried,
        stuck=stuck,
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
    """Return, by mapping name, `current`, `different` or `missing`, as in `Status.digests`."""
    states = {}
    for mapping in registry:
        digest = described.digests.get(mapping.name)
        states[mapping.name] = (
            "missing" if digest is None else "current" if digest == mapping.digest else "different"
        )
    return states
