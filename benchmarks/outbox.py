"""Outbox: measures a claim that finds no event, while an old snapshot keeps drained events."""

from contextlib import closing

import psycopg

from benchmarks.measuring import Report
from benchmarks.servers import milliseconds, start_servers, timed

_FILL = """
insert into mirror.outbox (lane, mapping, key)
select 1, 'users', array['00000000-0000-0000-0000-000000000000'] from generate_series(1, %s)
"""


def main(report: Report, *, quick: bool) -> None:
    """Measure an empty claim before and after a million events were drained."""
    events, times = (10_000, 20) if quick else (1_000_000, 200)
    with (
        start_servers() as servers,
        closing(servers.drain()) as drain,
        psycopg.connect(servers.stack.primary_url) as old_snapshot,
    ):
        old_snapshot.execute("set transaction isolation level repeatable read")
        old_snapshot.execute("select 1")

        def empty_claim() -> None:
            if drain.queue.claim(500) is not None:
                raise AssertionError("there were events")

        empty_claim()
        report.add("an empty claim", "ms", *milliseconds(empty_claim, times))
        for _ in range(events // 10_000):
            servers.primary.execute(_FILL, [10_000])
            claim = drain.queue.claim(10_000)
            if claim is not None:
                claim.acknowledge()
        # This one finds the position from which the next claims search.
        report.add("the first empty claim after a million events", "ms", timed(empty_claim) * 1000)
        kept = "an empty claim, a million drained events kept"
        report.add(kept, "ms", *milliseconds(empty_claim, times))
    report.ratio("an empty claim, drained events kept, to none", kept, "an empty claim", at_most=3)
