"""Metrics: the state of the mirror for Prometheus, from the same reading as the page.

A figure that could not be read has no sample: an absent sample is unknown, and a zero would be a
lie. Labels are names of lanes, sides, parts, faults and declared mappings, never ids.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from mirror import __version__
from mirror.diagnostics.figures import Unknown, known
from mirror.diagnostics.runs import Run, last_finished
from mirror.diagnostics.status import REMEDIES, find_faults
from mirror.serve.parts import PARTS
from mirror.serve.watch import Reading, Watch

Sample = tuple[tuple[str, ...], float]
"""The values of the labels, and the value."""

_LANES: Final = ("revocation", "grant")


@dataclass(frozen=True)
class Gauge:
    """One metric whose samples are read, not counted here."""

    name: str
    help: str
    labels: tuple[str, ...]
    samples: Callable[[Reading], Iterable[Sample]]


def scrape(watch: Watch, accepts: str) -> tuple[bytes, str]:
    """Return the metrics and their content type, in the form that a scraper accepts."""
    registry = CollectorRegistry()
    registry.register(ReadingCollector(watch))
    encode, kind = choose_encoder(accepts)
    return encode(registry), kind


class ReadingCollector(Collector):
    """Gives Prometheus the metrics of a reading."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def describe(self) -> Iterable[Metric]:
        """Return nothing: to register the collector must read nothing."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield each metric that has a sample."""
        reading = self._watch.read()
        yield InfoMetricFamily("mirror", HELP["mirror_info"], {"version": __version__})
        for gauge in GAUGES:
            family = GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
            for labels, value in gauge.samples(reading):
                family.add_metric(labels, value)
            if family.samples:
                yield family
        counter = CounterMetricFamily(_EVENTS, HELP[_EVENTS], labels=LABELS[_EVENTS])
        for labels, value in _outcomes(reading):
            counter.add_metric(labels, value)
        if counter.samples:
            yield counter
        histogram = HistogramMetricFamily(_DELAY, HELP[_DELAY], labels=("lane",))
        primary = known(reading.figures.primary)
        for lane in primary.delays if primary else ():
            buckets = [
                ("+Inf" if bound is None else f"{bound:g}", float(events))
                for bound, events in lane.buckets
            ]
            histogram.add_metric((lane.lane,), buckets, lane.seconds)
        if histogram.samples:
            yield histogram


def _up(reading: Reading) -> Iterator[Sample]:
    for side in ("primary", "target", "broker"):
        part = getattr(reading.figures, side)
        if part is not None:
            yield (side,), float(not isinstance(part, Unknown))


def _waiting(reading: Reading) -> Iterator[Sample]:
    primary = known(reading.figures.primary)
    if primary is not None:
        for lane in _LANES:
            yield (lane,), primary.waiting_in(lane)


def _oldest(reading: Reading) -> Iterator[Sample]:
    primary = known(reading.figures.primary)
    if primary is not None:
        for lane in _LANES:
            yield (lane,), primary.oldest_in(lane) or 0.0


def _open_revocation(reading: Reading) -> Iterator[Sample]:
    revocations = reading.revocations
    if not isinstance(revocations, Unknown):
        yield (), revocations[0].age_seconds if revocations else 0.0


def _retries(reading: Reading) -> Iterator[Sample]:
    primary = known(reading.figures.primary)
    if primary is not None:
        yield ("retrying",), primary.retrying
        yield ("dead",), primary.buried


def _faults(reading: Reading) -> Iterator[Sample]:
    if not reading.figures.unknown:
        found = find_faults(reading.figures)
        for fault in REMEDIES:
            yield (fault,), float(fault in found)


def _withheld(reading: Reading) -> Iterator[Sample]:
    target = known(reading.figures.target)
    if target is not None:
        yield (), sum(each.keys for each in target.withheld)


def _fresh(reading: Reading) -> Iterator[Sample]:
    target = known(reading.figures.target)
    ages = {} if target is None else target.stale_seconds
    if set(reading.figures.declared) <= set(ages):
        oldest = max((ages[name] for name in reading.figures.declared), default=0.0)
        yield (), reading.at.timestamp() - oldest


def _messages(reading: Reading) -> Iterator[Sample]:
    broker = known(reading.figures.broker)
    if broker is not None:
        yield (), broker.messages


def _seen(reading: Reading) -> Iterator[Sample]:
    primary = known(reading.figures.primary)
    heartbeats = {} if primary is None else primary.heartbeats
    for name, part in PARTS.items():
        if name in heartbeats:
            yield (part,), reading.at.timestamp() - heartbeats[name]


def _outcomes(reading: Reading) -> Iterator[Sample]:
    primary = known(reading.figures.primary)
    for each in () if primary is None else primary.outcomes:
        if each.mapping in reading.figures.declared:
            yield (each.mapping, each.outcome), each.events


def _last_run(reading: Reading) -> Run | None:
    return None if isinstance(reading.runs, Unknown) else last_finished(reading.runs)


def _reconciled(reading: Reading) -> Iterator[Sample]:
    run = _last_run(reading)
    if run is not None:
        yield (), reading.at.timestamp() - run.age_seconds


def _drift(reading: Reading) -> Iterator[Sample]:
    run = _last_run(reading)
    for part in () if run is None else run.mappings:
        if part.mapping in reading.figures.declared:
            over, under = part.over_grants, part.under_grants
            yield (part.mapping, "over_grant"), over
            yield (part.mapping, "under_grant"), under
            yield (part.mapping, "other"), part.drifted - over - under


def _remaining(reading: Reading) -> Iterator[Sample]:
    run = _last_run(reading)
    for part in () if run is None else run.mappings:
        if part.mapping in reading.figures.declared:
            yield (part.mapping,), part.remaining_over_grants


GAUGES: Final = (
    Gauge(
        "mirror_up",
        "1 if a side answers and is migrated, otherwise 0: primary, target, broker.",
        ("side",),
        _up,
    ),
    Gauge(
        "mirror_outbox_waiting",
        "Events that wait in the outbox, or that a worker has claimed.",
        ("lane",),
        _waiting,
    ),
    Gauge(
        "mirror_outbox_oldest_age_seconds",
        "Age of the oldest of these events; 0 if there is none.",
        ("lane",),
        _oldest,
    ),
    Gauge(
        "mirror_open_revocation_age_seconds",
        "Age of the oldest revocation that may not be in force: waiting, set apart, or dead; 0 if "
        "there is none.",
        (),
        _open_revocation,
    ),
    Gauge(
        "mirror_retries",
        "Events that were set apart: retrying, or dead until a person retries or discards them.",
        ("state",),
        _retries,
    ),
    Gauge(
        "mirror_faults",
        "1 for each fault that `mirror status` reports, otherwise 0; absent if a part is unknown.",
        ("fault",),
        _faults,
    ),
    Gauge(
        "mirror_target_withheld_keys",
        "Keys that grant nothing, because their truth is unknown.",
        (),
        _withheld,
    ),
    Gauge(
        "mirror_target_fresh_timestamp_seconds",
        "Every revocation that was recorded before this time is in force in the target.",
        (),
        _fresh,
    ),
    Gauge(
        "mirror_broker_messages",
        "Messages in Redis that no worker has taken yet.",
        (),
        _messages,
    ),
    Gauge(
        "mirror_part_seen_timestamp_seconds",
        "When a part was last at work: worker, beat, relay. Each notes it once a minute.",
        ("part",),
        _seen,
    ),
    Gauge(
        "mirror_reconcile_timestamp_seconds",
        "When the last reconcile that has ended was started.",
        (),
        _reconciled,
    ),
    Gauge(
        "mirror_reconcile_drift_rows",
        "Rows that the last reconcile found different: over_grant, under_grant, other.",
        ("mapping", "kind"),
        _drift,
    ),
    Gauge(
        "mirror_reconcile_remaining_over_grants",
        "Rows that allow too much and that the last reconcile did not repair, at most.",
        ("mapping",),
        _remaining,
    ),
)

_EVENTS: Final = "mirror_events_total"
_DELAY: Final = "mirror_delivery_delay_seconds"

HELP: Final = {
    "mirror_info": "The version of permission-mirror that serves these metrics.",
    _EVENTS: "Events that are in_force, were set_apart to be retried, or are dead.",
    _DELAY: "Time from the start of a change's transaction until it was in force; an upper bound.",
} | {gauge.name: gauge.help for gauge in GAUGES}
"""By name: what each metric means; the labels are in `LABELS`."""

LABELS: Final[dict[str, tuple[str, ...]]] = {
    "mirror_info": ("version",),
    _EVENTS: ("mapping", "outcome"),
    _DELAY: ("lane",),
} | {gauge.name: gauge.labels for gauge in GAUGES}
"""By name: the labels of each metric."""
