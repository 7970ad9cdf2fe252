"""Traffic: does anybody carry the events, and can they?"""

from collections.abc import Iterator
from dataclasses import dataclass

from mirror.diagnostics.doctor.findings import Finding, finding
from mirror.diagnostics.doctor.primary import PrimaryState
from mirror.diagnostics.status import Status, digest_states
from mirror.model.registry import Registry
from mirror.settings import Settings
from mirror.sync.targets.base import Description


@dataclass(frozen=True)
class Limits:
    """From when on something is worth a finding, in seconds."""

    heartbeat_seconds: float = 180.0
    """A part of the mirror has to show itself within this, or three of its turns."""
    waiting_seconds: float = 300.0
    """An event may wait for this long."""
    open_seconds: float = 300.0
    """Something may be open on the primary for this long."""
    clock_seconds: float = 30.0
    """Clocks may differ by this."""
    notification_seconds: float = 2.0
    """A notification has to arrive within this."""


def check_status(
    registry: Registry,
    status: Status | None,
    described: Description | None,
    *,
    model_late: bool,
) -> Iterator[Finding]:
    """Say what `mirror status` says; either side may be missing.

    `model_late`: that the target has other declarations is known already.
    """
    states = digest_states(registry, described) if described is not None else {}
    other = sorted(name for name, state in states.items() if state != "current")
    if other and not model_late:
        what = f"target: it holds another version of {', '.join(other)}"
        yield finding("mapping-digest", what)
    if status is None:
        return
    whats = {
        "wrong-source": f"target: it expects {status.target_source}, epoch {status.target_epoch};"
        f" this primary is {status.source}, epoch {status.epoch}",
        "buried": f"primary: {status.buried} event(s) are buried",
        "last-reconcile": "primary: the last reconcile ended with"
        f" {status.last_run.outcome if status.last_run else 'nothing'!r}",
        "two-schedulers": "primary: within a week, both beat and the platform have reconciled",
    }
    for fault in status.faults:
        if fault in whats:
            yield finding(fault, whats[fault])


def check_processing(
    settings: Settings,
    registry: Registry,
    primary: PrimaryState,
    status: Status | None,
    limits: Limits,
) -> Iterator[Finding]:
    """Say what waits for whom, and what is in the way."""
    oldest = status.oldest_seconds if status is not None else None
    if oldest is not None and oldest > max(limits.waiting_seconds, 3 * settings.sweep_seconds):
        what = f"primary: the oldest event has waited for {_ago(oldest)}"
        yield finding("outbox-late", what)
    if primary.heartbeats is not None:
        yield from _check_heartbeats(settings, registry, primary, primary.heartbeats, limits)
    for held in primary.open_transactions:
        if held.seconds is None or held.seconds > limits.open_seconds:
            since = "" if held.seconds is None else f" for {_ago(held.seconds)}"
            what = f"primary: {held.what} has held back vacuum{since}"
            yield finding("transaction-open", what, command=held.command)


def _check_heartbeats(
    settings: Settings,
    registry: Registry,
    primary: PrimaryState,
    heartbeats: dict[str, float],
    limits: Limits,
) -> Iterator[Finding]:
    parts = [
        ("drain", "consumer-missing", settings.sweep_seconds, True),
        ("sweep", "beat-missing", settings.sweep_seconds, settings.redis_url is not None),
        (
            "relay",
            "relay-missing",
            settings.relay_seconds,
            f"triggers_{registry.name}" in primary.applied,
        ),
    ]
    for name, code, turn, needed in parts:
        age = heartbeats.get(name)
        if needed and (age is None or age > max(limits.heartbeat_seconds, 3 * turn)):
            last = "was never seen" if age is None else f"was last seen {_ago(age)} ago"
            who = {"drain": "a consumer", "sweep": "beat", "relay": "a relay"}[name]
            yield finding(code, f"primary: {who} {last}")


def check_clock(side: str, skew_seconds: float, limits: Limits) -> Iterator[Finding]:
    """Say by how much a server's clock is off, if it matters."""
    if abs(skew_seconds) > limits.clock_seconds:
        way = "ahead of" if skew_seconds > 0 else "behind"
        what = f"{side}: its clock is {_ago(abs(skew_seconds))} {way} ours"
        yield finding("clock-skew", what)


def _ago(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
