"""Soak: an hour of mixed traffic with `mirror run` and with Celery, at the same time.

Two pairs of databases get the same kinds of traffic. The question is whether anything grows with
time: the delay, the memory, the connections, the tables of ours.
"""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.measuring import Report
from benchmarks.sampling import Probe, Sampler
from benchmarks.servers import HOME, Servers, reconcile_now, start_servers, timed
from benchmarks.soak_results import Course, add_bloat, add_figures, picture_of, table_of
from benchmarks.traffic import Traffic
from mirror.capture.doorbell import Doorbell, DoorbellSettings

PICTURE = HOME / "benchmarks" / "soak.svg"
RUN, CELERY = "mirror run", "Celery, 2 processes"
FULL_MINUTES = 60.0


@dataclass(frozen=True)
class Plan:
    """How long, how much and how often. Each tenth of the time has two bursts and one check."""

    seconds: float
    warm_up: float
    """Seconds of traffic before that, which open connections and import modules."""
    burst: int
    """The events of a burst; each burst is one transaction."""
    sample_seconds: float
    probe_seconds: float
    grace_seconds: float
    """Those of the checks, which are reconciles."""
    rate: float = 20.0
    """Transactions a second, in each pair."""


@dataclass(frozen=True)
class Way:
    """A pair of databases, the process that mirrors it, and all that writes and measures."""

    name: str
    servers: Servers
    traffic: Traffic
    probe: Probe
    sampler: Sampler

    def check(self, report: Report, grace_seconds: float) -> None:
        """Reconcile without repairs.

        Raises:
            AssertionError: the two sides differ.
        """
        with closing(self.servers.drain()) as drain:
            found = reconcile_now(drain, grace_seconds=grace_seconds, dry_run=True)
        report.add(f"soak, {self.name}: a reconcile", "s", found.seconds)
        if drifted := [part for part in found.mappings if part.drifted or not part.in_line]:
            raise AssertionError(f"{self.name}: the two sides differ: {drifted}")

    def settle(self, report: Report) -> None:
        """Wait for the last events, compare both sides, and rewrite the tables of ours.

        Raises:
            AssertionError: the two sides differ, or an event failed.
        """
        self.servers.wait_for_drain()
        failed = self.servers.primary.execute(
            "select mapping, error from mirror.retries"
        ).fetchall()
        if failed:
            raise AssertionError(f"{self.name}: events failed: {failed}")
        self.check(report, grace_seconds=0)
        before = self.sampler.sample()
        for table in before.tables:
            side, name = table.split(": ")
            connection = self.servers.primary if side == "primary" else self.servers.target
            connection.execute(f"vacuum full {name}".encode())
        add_bloat(report, self.name, before, self.sampler.sample())


def main(
    report: Report,
    *,
    quick: bool,
    rows: int = 50_000,
    minutes: float = FULL_MINUTES,
    picture: Path | None = None,
    samples: Path | None = None,
) -> None:
    """Run both ways for so many minutes; draw the curves, also if the run is cut off.

    Args:
        report: receives the figures.
        quick: run for a quarter of a minute, with few rows.
        rows: the memberships at the beginning, in each pair.
        minutes: how long the traffic is measured.
        picture: where the curves go; None: a run of an hour replaces the picture that README.md
            shows, and a shorter one draws nothing.
        samples: where all samples go, as JSON; None: nowhere.
    """
    plan = (
        Plan(15, 2, 200, sample_seconds=0.5, probe_seconds=0.2, grace_seconds=0.2)
        if quick
        else Plan(minutes * 60, 20, 3_000, sample_seconds=5, probe_seconds=1, grace_seconds=5)
    )
    if picture is None and not quick and minutes >= FULL_MINUTES:
        picture = PICTURE
    with ExitStack() as stack:
        ways = [
            stack.enter_context(_mirrored(name, 10_000 if quick else rows))
            for name in (RUN, CELERY)
        ]
        began = time.monotonic() + plan.warm_up
        try:
            _write_and_measure(ways, plan, report)
        finally:
            lasted = min(plan.seconds, time.monotonic() - began)
            courses = [
                Course.since(began, way.name, way.probe.delays, way.sampler.samples) for way in ways
            ]
            if samples is not None:
                samples.write_text(json.dumps([course.as_json() for course in courses]) + "\n")
            if lasted > 0:
                add_figures(report, courses, lasted)
                print(table_of(courses, lasted))
                if picture is not None:
                    picture.write_text(picture_of(courses, lasted), encoding="utf-8")
        for way in ways:
            rate = way.traffic.transactions / (plan.warm_up + plan.seconds)
            report.add(f"soak, {way.name}: transactions", "/s", rate)
            way.settle(report)
            name = f"soak, {way.name}: tables of ours at the end"
            report.ratio(f"{name}, to rewritten", name, f"{name}, rewritten", at_most=2)


@contextmanager
def _mirrored(name: str, rows: int) -> Iterator[Way]:
    """Yield a loaded pair whose changes are mirrored."""
    with start_servers() as servers, ExitStack() as stack:
        # The checks of the benchmark have their turns; no turn of the night comes between.
        servers.variables["MIRROR_RECONCILE_CRON"] = "off"
        if name == RUN:
            doorbell = Doorbell(DoorbellSettings(mode="off"))
        else:
            doorbell = Doorbell(DoorbellSettings(redis_url=servers.stack.redis_url))
        seconds = timed(lambda: servers.fill(rows))
        probe = Probe(servers, doorbell)
        seconds += timed(servers.load)
        print(f"{name}: {rows:,} memberships made and loaded in {seconds:.0f} s", flush=True)
        if name == RUN:
            pid = stack.enter_context(servers.running()).pid
        else:
            pid = stack.enter_context(servers.working(2, beat=True)).pid
        traffic = Traffic(servers, doorbell, probe.ids)
        yield Way(name, servers, traffic, probe, Sampler(servers, pid))


def _write_and_measure(ways: list[Way], plan: Plan, report: Report) -> None:
    """Write, probe and sample in threads until the time is over, or one of them fails."""
    stop = threading.Event()
    tenth = plan.seconds / 10
    works = []
    with ThreadPoolExecutor(3 * len(ways)) as pool:
        try:
            for way in ways:
                writing = partial(
                    way.traffic.run,
                    rate=plan.rate,
                    burst=plan.burst,
                    seconds_between_bursts=tenth / 2,
                )
                sampling = partial(
                    way.sampler.run,
                    every=plan.sample_seconds,
                    check=partial(way.check, report, plan.grace_seconds),
                    seconds_between_checks=tenth,
                )
                probing = partial(way.probe.run, every=plan.probe_seconds)
                works += [pool.submit(work, stop) for work in (writing, sampling, probing)]
            wait(works, timeout=plan.warm_up + plan.seconds, return_when=FIRST_COMPLETED)
        finally:
            stop.set()
    for work in works:
        work.result()
