"""Shares: measures how much of the time of an event target, primary and worker each take."""

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import redis

from benchmarks.measuring import Report
from benchmarks.servers import Servers, milliseconds, start_servers, timed
from benchmarks.throughput import make_changes
from mappings.trips import registry
from mirror.capture.doorbell import Doorbell, DoorbellSettings, acknowledge_ring
from mirror.schema import triggers_sql


class CallTimer:
    """Measures the time of each call of some functions."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        """Seconds."""

    def wrap(self, owner: Any, name: str) -> None:
        """Measure all calls of a method of one object."""
        setattr(owner, name, self._around(getattr(owner, name)))

    def _around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed_call(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.taken.append(time.perf_counter() - began)

        return timed_call


def _measure_single_events(report: Report, servers: Servers, times: int) -> None:
    """Measure rings and drains for single events, at most a hundred a second."""
    doorbell = Doorbell(DoorbellSettings(redis_url=servers.stack.redis_url, mode="inline"))
    broker = redis.Redis.from_url(servers.stack.redis_url)
    # The figures before have left dead rows, which a worker learns to skip.
    servers.primary.execute("vacuum mirror.outbox")
    with closing(servers.drain()) as drain:
        parts = {"claim": CallTimer(), "read": CallTimer(), "write": CallTimer()}
        parts["claim"].wrap(drain.queue, "claim")
        parts["read"].wrap(drain.source.database, "begin")
        parts["write"].wrap(drain.target, "apply")
        drain.run()
        doorbell.ring()
        taken: dict[str, list[float]] = defaultdict(list)
        for _ in range(times):
            for timer in parts.values():
                timer.taken.clear()
            make_changes(servers, 1)
            time.sleep(0.01)
            acknowledge_ring(broker)
            taken["a ring"] += milliseconds(doorbell.ring, 1)
            taken["a drain"] += milliseconds(drain.run, 1)
            for part, timer in parts.items():
                # Only the first call: later ones find nothing.
                taken[part].append(timer.taken[0] * 1000)
    for what, values in taken.items():
        report.add(f"alone: {what}", "ms", *values)


def main(report: Report, *, quick: bool) -> None:
    """Measure drains of many events by one worker in this process, and of single events."""
    rounds, events = (1, 1_000) if quick else (5, 20_000)
    with start_servers() as servers:
        servers.fill(10_000 if quick else 100_000)
        servers.load()
        with servers.primary.transaction():
            servers.primary.execute(triggers_sql(registry).encode())
        for _ in range(rounds):
            make_changes(servers, events)
            with closing(servers.drain()) as drain:
                target, primary = CallTimer(), CallTimer()
                target.wrap(drain.target, "_call")
                for database in (drain.queue.claims, drain.queue.beside, drain.source.database):
                    for name in ("execute", "together"):
                        primary.wrap(database, name)
                total = timed(lambda d=drain: d.run(seconds=600))  # type: ignore[misc]
            parts = {"target": sum(target.taken), "primary": sum(primary.taken)}
            parts["worker"] = total - sum(parts.values())
            for part, seconds in parts.items():
                report.add(f"share of an event: {part}", "µs", seconds / events * 1e6)
        _measure_single_events(report, servers, 20 * rounds)
        for rest in (0.0, 0.005):
            what = f"a round trip, after {rest * 1000:.0f} ms of rest"
            taken = []
            for _ in range(200):
                time.sleep(rest)
                taken += milliseconds(partial(servers.target.execute, "select 1"), 1)
            report.add(what, "ms", *taken)
        # The space that each event takes while an old snapshot keeps it.
        servers.primary.execute("truncate mirror.outbox")
        make_changes(servers, events)
        size = servers.primary.execute("select pg_total_relation_size('mirror.outbox')").fetchone()
        report.add("an event in the outbox", "bytes", float(str(size and size[0])) / events)
        rows = servers.target.execute(
            "select (pg_total_relation_size('public.trip_memberships')"
            " + pg_total_relation_size('mirror.ledger_trip_memberships')) / count(*)"
            " from public.trip_memberships"
        ).fetchone()
        report.add(
            "a membership in the target, ledger included", "bytes", float(str(rows and rows[0]))
        )
