"""A run: three phases, one for each way of capture, each with faults and a check of its end."""

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from random import Random

from mappings.trips import registry
from mirror.reconcile import Options, Throttle, reconcile
from mirror.sync.wiring import build_drain
from tests.chaos.access import Checker, Denials
from tests.chaos.faults import Faults
from tests.chaos.report import Report
from tests.chaos.servers import Servers, Transport
from tests.chaos.writers import WAYS, Way, Writer, backend
from tests.support.reconciling import EQUAL, differing

_WRITERS = 3
_LEFT = (
    "select 'outbox', mapping, '' from mirror.outbox"
    " union all select 'retries', mapping, error from mirror.retries"
)


@dataclass(frozen=True)
class Plan:
    """The orders for a run."""

    seed: int
    seconds: float
    """The time with faults, of all phases together."""
    transport: Transport | None = None
    """None: the seed decides."""
    ways: tuple[Way, ...] = WAYS
    """The ways of capture, one for each phase."""
    bound: float = 10.0
    """Seconds that a writer's transaction may take, on a busy machine."""
    drain_seconds: float = 120.0
    """Seconds in which the workers must mirror what is left after the last fault of a phase."""
    faults: bool = True
    prepare: Callable[[Servers], object] = lambda _: None
    """Called before the first write, to plant a bug."""


def run(plan: Plan, home: Path) -> Report:
    """Carry a plan out, with the servers' files in the directory `home`."""
    report = Report()
    transport = plan.transport or ("rest" if plan.seed % 2 else "postgres")
    with Servers.start(home, transport) as servers:
        plan.prepare(servers)
        for way in plan.ways:
            _phase(plan, servers, way, report)
    return report


def _phase(plan: Plan, servers: Servers, way: Way, report: Report) -> None:
    denials = Denials()
    checker = Checker(servers.target, denials, report)
    seconds = plan.seconds / len(plan.ways)
    with backend(servers, way) as changed, ExitStack() as running:
        checker.start()
        running.callback(checker.stop)
        for number in range(_WRITERS):
            random = Random(f"{plan.seed} {way} {number}")
            writer = Writer(servers, changed, random, denials, report, bound=plan.bound)
            writer.start()
            running.callback(writer.stop)
        if plan.faults:
            breaking = Faults(servers, Random(f"{plan.seed} {way} faults"))
            breaking.run(seconds)
            report.faults += breaking.made
        else:
            time.sleep(seconds)
    _check_end(plan, servers, way, report)
    checker.check()


def _check_end(plan: Plan, servers: Servers, way: Way, report: Report) -> None:
    """The first invariant: all events are mirrored, and both sides are equal."""
    end = time.monotonic() + plan.drain_seconds
    while (left := servers.primary.query(_LEFT)) and time.monotonic() < end:
        report.faults["worker ended"] += servers.replace_ended_workers()
        time.sleep(0.1)
    for place, mapping, error in left[:5]:
        report.violated("equality", f"{way}: {mapping} is still in mirror.{place}: {error}")
    if (found := differing(servers.primary, servers.target)) != EQUAL:
        counts = {name: len(rows) for name, rows in found.items() if rows}
        report.violated("equality", f"{way}: rows differ: {counts}")
    with closing(build_drain(servers.settings(), registry)) as drain:
        throttle = Throttle(drain.queue.beside, backlog=10**9, latency_seconds=60)
        compared = reconcile(drain, Options(dry_run=True, grace_seconds=0.0), throttle)
    if compared.outcome != "in line":
        report.violated("equality", f"{way}: a reconcile finds: {compared.outcome}")
