"""Processing: checks that events are processed in time, and that nothing stands in the way."""

from collections.abc import Iterator
from dataclasses import dataclass

from mirror.diagnostics.doctor.findings import Finding, finding
from mirror.diagnostics.doctor.primary_state import PrimaryState
from mirror.diagnostics.figures import Figures, Unknown, known
from mirror.diagnostics.status import find_faults
from mirror.model.registry import Registry
from mirror.settings import Settings


@dataclass(frozen=True)
class Limits:
    """How long something may take before it is a finding, in seconds."""

    heartbeat_seconds: float = 180.0
    """Age of a heartbeat; three intervals of that process, if those are longer."""
    open_seconds: float = 300.0
    """Age of a transaction that is open on the primary."""
    clock_seconds: float = 30.0
    """Difference between two clocks."""
    notification_seconds: float = 2.0
    """Time until a notification arrives."""


def check_faults(figures: Figures, *, model_late: bool) -> Iterator[Finding]:
    """Yield a finding for each fault that `mirror status` reports, too.

    `model_late`: the target lacks the model's latest migration; another check reports that, so the
    outdated mappings are not reported once more.
    """
    for fault, message in find_faults(figures).items():
        if fault != "mapping-digest" or not model_late:
            yield finding(fault, message)


def check_processing(
    settings: Settings, registry: Registry, figures: Figures, limits: Limits
) -> Iterator[Finding]:
    """Yield findings about the broker and silent processes."""
    if isinstance(figures.broker, Unknown):
        yield finding("broker-unreachable", str(figures.broker.error))
    primary = known(figures.primary)
    # `mirror run` needs no Redis.
    if settings.redis_url is None and (primary is None or "run" not in primary.heartbeats):
        yield finding("redis-not-set", "REDIS_URL is not set")
    if isinstance(figures.primary, Unknown):
        return
    migrations = known(figures.primary_migrations) or {}
    triggers = f"triggers_{registry.name}" in migrations
    yield from _check_heartbeats(settings, figures.primary.heartbeats, limits, triggers=triggers)


def check_open_transactions(primary: PrimaryState, limits: Limits) -> Iterator[Finding]:
    """Yield a finding for each transaction of the primary that blocks vacuum."""
    for transaction in primary.open_transactions:
        if transaction.seconds is None or transaction.seconds > limits.open_seconds:
            since = "" if transaction.seconds is None else f" for {_duration(transaction.seconds)}"
            message = f"primary: {transaction.name} has held back vacuum{since}"
            yield finding("transaction-open", message, command=transaction.command)


def _check_heartbeats(
    settings: Settings, heartbeats: dict[str, float], limits: Limits, *, triggers: bool
) -> Iterator[Finding]:
    """Yield a finding for each process that is needed and has noted no heartbeat lately."""
    processes = [
        ("drain", "a worker", "consumer-missing", settings.sweep_seconds, True),
        ("sweep", "beat", "beat-missing", settings.sweep_seconds, settings.redis_url is not None),
        ("relay", "a relay", "relay-missing", settings.relay_seconds, triggers),
    ]
    for name, process, code, interval, needed in processes:
        age = heartbeats.get(name)
        if needed and (age is None or age > max(limits.heartbeat_seconds, 3 * interval)):
            seen = "has never run" if age is None else f"last ran {_duration(age)} ago"
            yield finding(code, f"primary: {process} {seen}")


def check_clock(side: str, skew_seconds: float, limits: Limits) -> Iterator[Finding]:
    """Yield a finding if a server's clock is too far from this machine's; positive: ahead."""
    if abs(skew_seconds) > limits.clock_seconds:
        direction = "ahead of" if skew_seconds > 0 else "behind"
        message = f"{side}: its clock is {_duration(abs(skew_seconds))} {direction} this machine's"
        yield finding("clock-skew", message)


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
