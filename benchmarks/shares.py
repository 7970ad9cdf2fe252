"""Where the time of an event goes: what each side and the worker take, one after the other."""

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import redis

from benchmarks.measuring import Report
from benchmarks.stage import Stage, milliseconds, stage, timed
from benchmarks.throughput import change
from mappings.trips import registry
from mirror.capture.doorbell import Doorbell, DoorbellSettings, answered
from mirror.schema import triggers_sql


class Watch:
    """Notes how long each call of some functions takes."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        """Seconds."""

    def on(self, owner: Any, name: str) -> None:
        """Put this around a method of one object."""
        setattr(owner, name, self._around(getattr(owner, name)))

    def _around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.taken.append(time.perf_counter() - began)

        return watched


def _alone(report: Report, here: Stage, times: int) -> None:
    """Ring for, and drain, events that come alone, a hundred a second."""
    doorbell = Doorbell(DoorbellSettings(redis_url=here.stack.redis_url, mode="inline"))
    broker = redis.Redis.from_url(here.stack.redis_url)
    # Of what the figures before have left; workers find their way past it.
    here.primary.execute("vacuum mirror.outbox")
    with closing(here.drain()) as drain:
        parts = {"claim": Watch(), "read": Watch(), "write": Watch()}
        parts["claim"].on(drain.queue, "claim")
        parts["read"].on(drain.source.database, "begin")
        parts["write"].on(drain.target, "apply")
        drain.run()
        doorbell.ring()
        taken: dict[str, list[float]] = defaultdict(list)
        for _ in range(times):
            for watch in parts.values():
                watch.taken.clear()
            change(here, 1)
            time.sleep(0.01)
            answered(broker)
            taken["a ring"] += milliseconds(doorbell.ring, 1)
            taken["a drain"] += milliseconds(drain.run, 1)
            for part, watch in parts.items():
                # Only the first call: later ones find nothing.
                taken[part].append(watch.taken[0] * 1000)
    for what, values in taken.items():
        report.add(f"alone: {what}", "ms", *values)


def main(report: Report, *, quick: bool) -> None:
    """Drain many events with one worker in this process, and events that come alone."""
    rounds, events = (1, 1_000) if quick else (5, 20_000)
    with stage() as here:
        here.fill(10_000 if quick else 100_000)
        here.load()
        with here.primary.transaction():
            here.primary.execute(triggers_sql(registry).encode())
        for _ in range(rounds):
            change(here, events)
            with closing(here.drain()) as drain:
                target, primary = Watch(), Watch()
                target.on(drain.target, "_call")
                for database in (drain.queue.claims, drain.queue.notes, drain.source.database):
                    for name in ("execute", "together"):
                        primary.on(database, name)
                total = timed(lambda d=drain: d.run(seconds=600))  # type: ignore[misc]
            parts = {"target": sum(target.taken), "primary": sum(primary.taken)}
            parts["worker"] = total - sum(parts.values())
            for part, seconds in parts.items():
                report.add(f"share of an event: {part}", "µs", seconds / events * 1e6)
        _alone(report, here, 20 * rounds)
        for rest in (0.0, 0.005):
            what = f"a round trip, after {rest * 1000:.0f} ms of rest"
            taken = []
            for _ in range(200):
                time.sleep(rest)
                taken += milliseconds(partial(here.target.execute, "select 1"), 1)
            report.add(what, "ms", *taken)
        # What a report that holds an old snapshot would keep.
        here.primary.execute("truncate mirror.outbox")
        change(here, events)
        size = here.primary.execute("select pg_total_relation_size('mirror.outbox')").fetchone()
        report.add("an event in the outbox", "bytes", float(str(size and size[0])) / events)
        rows = here.target.execute(
            "select (pg_total_relation_size('public.trip_memberships')"
            " + pg_total_relation_size('mirror.ledger_trip_memberships')) / count(*)"
            " from public.trip_memberships"
        ).fetchone()
        report.add(
            "a membership in the target, ledger included", "bytes", float(str(rows and rows[0]))
        )
