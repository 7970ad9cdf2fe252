"""Where the time of an event goes: what each side and the worker take, one after the other."""

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from benchmarks.measuring import Report
from benchmarks.stage import stage, timed
from benchmarks.throughput import change
from mappings.trips import registry
from mirror.ddl import triggers_sql


class Watch:
    """Adds up how long some functions take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on(self, owner: Any, name: str) -> None:
        """Put this around a method of one object."""
        setattr(owner, name, self._around(getattr(owner, name)))

    def _around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - began

        return watched


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
            ours = total - target.seconds - primary.seconds
            parts = {"target": target.seconds, "primary": primary.seconds, "worker": ours}
            for part, seconds in parts.items():
                report.add(f"share of an event: {part}", "µs", seconds / events * 1e6)
        with closing(here.drain()) as drain:
            drain.run()
            for _ in range(20 * rounds):
                change(here, 1)
                report.add("a drain of one event", "ms", timed(drain.run) * 1000)
        for rest in (0.0, 0.005):
            what = f"a round trip, after {rest * 1000:.0f} ms of rest"
            for _ in range(200):
                time.sleep(rest)
                seconds = timed(lambda: here.target.execute("select 1"))
                report.add(what, "ms", seconds * 1000)
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
