"""Workers: measures how many changes a second reach the target with many workers, and their locks.

Two cores carry everything, so more workers than cores are not faster. The question is whether they
stand in each other's way.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from benchmarks.measuring import Report
from benchmarks.servers import Servers, start_servers
from benchmarks.throughput import measure_drain

# The backends of workers that run a statement, and those of them that wait for a lock.
_WAITING = """
select count(*), count(*) filter (where wait_event_type = 'Lock'),
  count(*) filter (where wait_event_type = 'LWLock')
from pg_stat_activity
where backend_type = 'client backend' and state = 'active' and pid <> pg_backend_pid()
"""

_SECONDS_BETWEEN_SAMPLES = 0.02


def main(report: Report, *, quick: bool) -> None:
    """Measure drains by few and by many processes."""
    rounds, changes, many = (1, 1_000, (2, 3)) if quick else (3, 40_000, (2, 10, 50))
    with start_servers() as servers:
        servers.fill(10_000 if quick else 100_000)
        servers.load()
        for _ in range(rounds):
            for workers in many:
                with _sampling(report, servers, workers):
                    rate = measure_drain(servers, changes, workers)
                report.add(_name(workers), "/s", rate)
    for workers in many[1:]:
        what = f"{workers} workers to {many[0]}"
        report.ratio(what, _name(workers), _name(many[0]), at_least=0.8)


def _name(workers: int) -> str:
    """Return a figure's name, which no other part uses."""
    return f"many workers: {workers}"


@contextmanager
def _sampling(report: Report, servers: Servers, workers: int) -> Iterator[None]:
    """Add the share of the active backends that wait for a lock, on either side, in the block."""
    stop = threading.Event()
    counts = {"primary": [0, 0, 0], "target": [0, 0, 0]}

    def sample() -> None:
        urls = {"primary": servers.stack.primary_url, "target": servers.stack.supabase_db_url}
        connections = {side: psycopg.connect(url, autocommit=True) for side, url in urls.items()}
        while not stop.wait(_SECONDS_BETWEEN_SAMPLES):
            for side, connection in connections.items():
                found = connection.execute(_WAITING).fetchone() or (0, 0, 0)
                counts[side] = [a + b for a, b in zip(counts[side], found, strict=True)]
        for connection in connections.values():
            connection.close()

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield
    finally:
        stop.set()
        sampler.join()
    for side, (active, locked, latched) in counts.items():
        for kind, waiting in (("locks", locked), ("light locks", latched)):
            what = f"workers: {workers}, {side}: statements that wait for {kind}"
            report.add(what, "%", 100 * waiting / max(active, 1))
