"""Growth: compares the time for an event and for a row in small and in large tables."""

from contextlib import closing
from functools import partial

from benchmarks.measuring import Report
from benchmarks.own_process import RESYNC
from benchmarks.servers import Servers, start_servers, timed
from benchmarks.throughput import make_changes
from mappings.trips import registry
from mirror.schema import removal_sql, triggers_sql

_UPDATE = """
update trip_memberships set role =
  case role when 'MEMBER' then 'ADMIN'::trip_role else 'MEMBER' end
where trip_id in (select id from trips order by id limit {})
"""


def main(report: Report, *, quick: bool) -> None:
    """Measure times per row and per event in small and in large tables; add their ratios."""
    small, large = (2_000, 10_000) if quick else (10_000, 1_000_000)
    for rows in (small, large):
        with start_servers() as servers:
            servers.fill(rows)
            loaded = timed(servers.load)
            report.add(f"first load, µs per row of {rows:,}", "µs", loaded / rows * 1e6)
            _measure_events(report, servers, rows, events=small // 2)
            with closing(servers.drain()) as drain:
                servers.primary.execute(RESYNC)
                seconds = timed(partial(drain.run, seconds=3600))
                report.add(f"resync, µs per row of {rows:,}", "µs", seconds / rows * 1e6)
            with servers.primary.transaction():
                servers.primary.execute(triggers_sql(registry).encode())
            update = _UPDATE.format(rows // 100).encode()
            for _ in range(3):
                took = timed(partial(servers.primary.execute, update)) / rows * 1e6
                report.add(f"update with triggers, µs per row of {rows:,}", "µs", took)
                servers.primary.execute("truncate mirror.outbox")
    for what in ("first load", "an event", "resync", "update with triggers"):
        report.ratio(
            f"growth: {what}, {large:,} to {small:,} rows",
            f"{what}, µs per row of {large:,}",
            f"{what}, µs per row of {small:,}",
            at_most=1.3,
        )


def _measure_events(report: Report, servers: Servers, rows: int, events: int) -> None:
    """Measure drains of events for rows drawn at random from a table of `rows` rows."""
    with servers.primary.transaction():
        servers.primary.execute(triggers_sql(registry).encode())
    with closing(servers.drain()) as drain:
        for _ in range(4):
            make_changes(servers, events)
            seconds = timed(lambda: drain.run(seconds=3600))
            report.add(f"an event, µs per row of {rows:,}", "µs", seconds / events * 1e6)
    with servers.primary.transaction():
        servers.primary.execute(removal_sql(registry).encode())
