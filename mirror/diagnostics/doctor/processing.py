"""Processing: checks that events are processed in time, and that nothing stands in the way."""

from collections.abc import Iterator
from dataclasses import dataclass

from mirror.diagnostics.doctor.findings import Finding, finding
from mirror.diagnostics.doctor.primary_state import PrimaryState
from mirror.diagnostics.status import Status, digest_states
from mirror.model.registry import Registry
from mirror.settings import Settings
from mirror.sync.targets.catalog import Description


@dataclass(frozen=True)
class Limits:
    """How long something may take before it is a finding, in seconds."""

    heartbeat_seconds: float = 180.0
    """Age of a heartbeat; three intervals of that process, if those are longer."""
    waiting_seconds: float = 300.0
    """Age of the oldest waiting event."""
    open_seconds: float = 300.0
    """Age of a transaction that is open on the primary."""
    clock_seconds: float = 30.0
    """Difference between two clocks."""
    notification_seconds: float = 2.0
    """Time until a notification arrives."""


def check_status(
    registry: Registry,
    status: Status | None,
    described: Description | None,
    *,
    model_late: bool,
) -> Iterator[Finding]:
    """Yield a finding for each fault that `mirror status` reports, too.

    A side that was not read (`status` of the primary, `described` of the target is None) is not
    checked.

    `model_late`: the target lacks the model's latest migration; another check reports that, so the
    outdated mappings are not reported once more.
    """
    states = digest_states(registry, described) if described is not None else {}
    outdated = sorted(name for name, state in states.items() if state != "current")
    if outdated and not model_late:
        message = f"target: it was migrated to another version of {', '.join(outdated)}"
        yield finding("mapping-digest", message)
    if status is None:
        return
    messages = {
        "wrong-source": f"target: it expects {status.target_source}, epoch {status.target_epoch};"
        f" this primary is {status.source}, epoch {status.epoch}",
        "buried": f"primary: {status.buried} event(s) are buried",
        "stuck": f"primary: {status.stuck} event(s) have failed for more than a minute",
        "last-reconcile": "primary: the last reconcile ended with outcome"
        f" {status.last_run.outcome if status.last_run else 'none'!r}",
        "two-schedulers": "primary: within a week, both beat and the platform's scheduler have"
        " started reconciles",
    }
    for fault in status.faults:
        if fault in messages:
            yield finding(fault, messages[fault])


def check_processing(
    settings: Settings,
    registry: Registry,
    primary: PrimaryState,
    status: Status | None,
    limits: Limits,
) -> Iterator[Finding]:
    """Yield findings about late events, silent processes, and transactions that block vacuum."""
    oldest = status.oldest_seconds if status is not None else None
    if oldest is not None and oldest > max(limits.waiting_seconds, 3 * settings.sweep_seconds):
        message = f"primary: the oldest event has been waiting for {_duration(oldest)}"
        yield finding("outbox-late", message)
    if primary.heartbeats is not None:
        yield from _check_heartbeats(settings, registry, primary, primary.heartbeats, limits)
    for transaction in primary.open_transactions:
        if transaction.seconds is None or transaction.seconds > limits.open_seconds:
            since = "" if transaction.seconds is None else f" for {_duration(transaction.seconds)}"
            message = f"primary: {transaction.name} has held back vacuum{since}"
            yield finding("transaction-open", message, command=transaction.command)


def _check_heartbeats(
    settings: Settings,
    registry: Registry,
    primary: PrimaryState,
    heartbeats: dict[str, float],
    limits: Limits,
) -> Iterator[Finding]:
    """Yield a finding for each process that is needed and has noted no heartbeat lately."""
    has_triggers = f"triggers_{registry.name}" in primary.applied
    processes = [
        ("drain", "a worker", "consumer-missing", settings.sweep_seconds, True),
        ("sweep", "beat", "beat-missing", settings.sweep_seconds, settings.redis_url is not None),
        ("relay", "a relay", "relay-missing", settings.relay_seconds, has_triggers),
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
