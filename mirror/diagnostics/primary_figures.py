"""Primary figures: the state of the primary at one moment.

To add a figure, add it to the statement `read_figures` and to `PrimaryFigures`.
"""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self

from mirror.sync.snapshot import Stamp


@dataclass(frozen=True)
class Waiting:
    """The events of one mapping and lane that wait in the outbox; some may be claimed."""

    mapping: str
    lane: str
    """`revocation` or `grant`."""
    events: int
    oldest_seconds: float
    """Age of the oldest of these events."""


@dataclass(frozen=True)
class SetApart:
    """The events of one mapping and lane that were set apart: they failed or a worker crashed."""

    mapping: str
    lane: str
    retrying: int
    """How many are retried."""
    stuck: int
    """How many of those failed and were recorded more than a minute ago."""
    buried: int
    """How many are dead: no longer retried, until `mirror retry`."""
    parked: int
    """How many of those that are retried wait because their whole mapping fails."""
    unclaimed: int
    """How many wait, for more than a minute, for a worker that knows their mapping."""
    holding_back: int
    """How many keep the mapping from being fresh: revocations whose key is not withheld."""
    oldest_seconds: float
    """Age of the oldest of these events."""


@dataclass(frozen=True)
class Claims:
    """The claims in progress."""

    claims: int
    events: int
    """How many events they hold."""
    oldest_seconds: float | None
    """Age of the oldest; None if there is none, or if the host hides when it began."""


@dataclass(frozen=True)
class Failure:
    """One event that was set apart."""

    id: int
    mapping: str
    lane: str
    attempts: int
    error: str
    buried: bool
    age_seconds: float
    """Seconds since the event was recorded."""


@dataclass(frozen=True)
class LastRun:
    """The last reconcile that finished."""

    outcome: str
    """That of its report (`in line`, `repaired`, `held back`, `drift`); `failed` if an error of the
    mirror ended it, `stopped` if anything else did."""
    started_by: str
    """`hand`, `page`, `beat` or `schedule` (the platform's scheduler)."""
    age_seconds: float
    """Seconds since it started."""
    over_grants: int
    """Rows in all mappings that allowed more in the target than in the primary."""
    under_grants: int
    """Rows that allowed less."""


@dataclass(frozen=True)
class Delays:
    """How long the events of one lane took until they were in force, since the history began.

    A delay begins with the transaction that recorded the event, and ends when a worker has settled
    it: an upper bound.
    """

    lane: str
    buckets: tuple[tuple[float | None, int], ...]
    """Seconds, and how many events took at most as long: cumulative, ascending, and as many events
    as there are at the end, with None for the seconds."""
    seconds: float
    """The sum of all delays."""

    @property
    def events(self) -> int:
        """How many events there were."""
        return self.buckets[-1][1]

    @classmethod
    def from_json(cls, answer: dict[str, Any]) -> Self:
        """Return the delays from the answer of the statement `read_figures`."""
        counts = accumulate(count for _, count in answer["buckets"])
        bounds = [bound for bound, _ in answer["buckets"]]
        buckets = list(zip(bounds, counts, strict=True))
        if bounds[-1] is not None:
            buckets.append((None, buckets[-1][1]))
        return cls(lane=answer["lane"], buckets=tuple(buckets), seconds=answer["seconds"])


@dataclass(frozen=True)
class Outcome:
    """How many events of one mapping ended in one way, since the history began."""

    mapping: str
    outcome: str
    """`in_force`, `set_apart` (it counts again when its retry ends) or `dead`."""
    events: int


@dataclass(frozen=True)
class Revocation:
    """One revocation that is in force."""

    id: int
    """The event's id."""
    mapping: str
    in_force_at: str
    """The time at which it was in force at the latest, by the primary's clock (ISO 8601)."""
    age_seconds: float
    """Seconds since then."""
    seconds: float
    """Its delay, likewise an upper bound."""


@dataclass(frozen=True)
class PrimaryFigures:
    """The primary at one moment."""

    identity: str
    epoch: int
    waiting: tuple[Waiting, ...]
    """By mapping and lane, revocations first; without those that have no event."""
    set_apart: tuple[SetApart, ...]
    """Likewise."""
    loading: tuple[str, ...]
    """Mappings that a reconcile loads, or did not load to the end."""
    reconciling: str | None
    """The reconcile that runs, as `host:process id`; None: none does."""
    claims: Claims
    failures: tuple[Failure, ...]
    """At most a hundred events that were set apart: the buried ones first."""
    last_run: LastRun | None
    """None: no reconcile has finished yet."""
    two_schedulers: bool
    """Whether both beat and the platform's scheduler started a reconcile within the last week."""
    heartbeats: dict[str, float]
    """Seconds since each part was last at work: `drain`, `sweep` (beat), `relay`."""
    delays: tuple[Delays, ...]
    """By lane, revocations first; without a lane of which no event is in force yet."""
    outcomes: tuple[Outcome, ...]
    """By mapping and outcome; without those that no event had yet."""
    revocations: tuple[Revocation, ...]
    """The last ones, MIRROR_HISTORY of them at most, in the order in which they were recorded."""

    @classmethod
    def from_json(cls, stamp: Stamp, answer: dict[str, Any]) -> Self:
        """Return the figures from the answer of the statement `read_figures`."""
        last_run = answer["last_run"]
        return cls(
            identity=stamp.identity,
            epoch=stamp.epoch,
            waiting=tuple(Waiting(**each) for each in answer["waiting"]),
            set_apart=tuple(SetApart(**each) for each in answer["set_apart"]),
            loading=tuple(answer["loading"]),
            reconciling=answer["reconciling"],
            claims=Claims(**answer["claims"]),
            failures=tuple(Failure(**each) for each in answer["failures"]),
            last_run=None if last_run is None else LastRun(**last_run),
            two_schedulers=answer["two_schedulers"],
            heartbeats=answer["heartbeats"],
            delays=tuple(Delays.from_json(each) for each in answer["delays"]),
            outcomes=tuple(Outcome(**each) for each in answer["outcomes"]),
            revocations=tuple(Revocation(**each) for each in answer["revocations"]),
        )

    def waiting_in(self, lane: str) -> int:
        """Return how many events of a lane wait."""
        return sum(each.events for each in self.waiting if each.lane == lane)

    def oldest_in(self, lane: str) -> float | None:
        """Return the age of a lane's oldest waiting event; None if none waits."""
        ages = (each.oldest_seconds for each in self.waiting if each.lane == lane)
        return max(ages, default=None)

    @property
    def oldest_seconds(self) -> float | None:
        """Age of the oldest waiting event; None if none waits."""
        return max((each.oldest_seconds for each in self.waiting), default=None)

    @property
    def retrying(self) -> int:
        """How many events are retried."""
        return sum(each.retrying for each in self.set_apart)

    @property
    def stuck(self) -> int:
        """How many of those failed and were recorded more than a minute ago."""
        return sum(each.stuck for each in self.set_apart)

    @property
    def parked(self) -> list[str]:
        """The mappings that have parked events."""
        return sorted({each.mapping for each in self.set_apart if each.parked})

    @property
    def unclaimed(self) -> list[str]:
        """The mappings that have events which no worker takes."""
        return sorted({each.mapping for each in self.set_apart if each.unclaimed})

    @property
    def buried(self) -> int:
        """How many events are dead."""
        return sum(each.buried for each in self.set_apart)
