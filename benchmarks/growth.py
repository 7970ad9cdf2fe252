"""Whether what an event, and a row, costs stays the same where there are more of them."""

from contextlib import closing
from functools import partial

from benchmarks.measuring import Report
from benchmarks.stage import Stage, stage, timed
from benchmarks.throughput import change
from mappings.trips import registry
from mirror.schema import removal_sql, triggers_sql

_UPDATE = """
update trip_memberships set role =
  case role when 'MEMBER' then 'ADMIN'::trip_role else 'MEMBER' end
where trip_id in (select id from trips order by id limit {})
"""


def main(report: Report, *, quick: bool) -> None:
    """Measure small, and large."""
    small, large = (2_000, 10_000) if quick else (10_000, 1_000_000)
    for rows in (small, large):
        with stage() as here:
            here.fill(rows)
            loaded = timed(here.load)
            report.add(f"first load, µs per row of {rows:,}", "µs", loaded / rows * 1e6)
            _events(report, here, rows, events=small // 2)
            with closing(here.drain()) as drain:
                here.primary.execute(_everything())
                seconds = timed(partial(drain.run, seconds=3600))
                report.add(f"resync, µs per row of {rows:,}", "µs", seconds / rows * 1e6)
            with here.primary.transaction():
                here.primary.execute(triggers_sql(registry).encode())
            update = _UPDATE.format(rows // 100).encode()
            for _ in range(3):
                took = timed(partial(here.primary.execute, update)) / rows * 1e6
                report.add(f"update with triggers, µs per row of {rows:,}", "µs", took)
                here.primary.execute("truncate mirror.outbox")
    for what in ("first load", "an event", "resync", "update with triggers"):
        report.ratio(
            f"growth: {what}, {large:,} to {small:,} rows",
            f"{what}, µs per row of {large:,}",
            f"{what}, µs per row of {small:,}",
            at_most=1.3,
        )


def _events(report: Report, here: Stage, rows: int, events: int) -> None:
    """Drain events of single rows drawn at random from a table of that size."""
    with here.primary.transaction():
        here.primary.execute(triggers_sql(registry).encode())
    with closing(here.drain()) as drain:
        for _ in range(4):
            change(here, events)
            seconds = timed(lambda: drain.run(seconds=3600))
            report.add(f"an event, µs per row of {rows:,}", "µs", seconds / events * 1e6)
    with here.primary.transaction():
        here.primary.execute(removal_sql(registry).encode())


def _everything() -> bytes:
    return (
        b"insert into mirror.outbox (lane, mapping, reference, key)"
        b" values (1, 'trip_memberships', '*', '{}')"
    )
