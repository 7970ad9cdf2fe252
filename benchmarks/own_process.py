"""Own process: runs work in a process of its own, to measure its time and its memory."""

import multiprocessing
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from benchmarks.servers import Servers, reconcile_now, timed
from mappings.trips import registry
from mirror.settings import load_settings
from mirror.settings.logs import configure_logging
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_drain

RESYNC = """
insert into mirror.outbox (lane, mapping, reference, key)
values (1, 'trip_memberships', '*', '{}')
"""


def measure_process(servers: Servers, work: Callable[[str, str], float]) -> tuple[float, float]:
    """Return the seconds of some work in a new process, and its megabytes beyond an idle one's."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        urls = (servers.stack.primary_url, servers.stack.supabase_db_url)
        idle: float = pool.apply(_idle, urls)
        seconds = pool.apply(work, urls)
        return seconds, pool.apply(_peak) - idle


def compare(primary: str, target: str) -> float:
    """Reconcile the two databases; return the seconds that it takes."""
    with closing(_drain(primary, target)) as drain:
        return timed(lambda: reconcile_now(drain))


def resync(primary: str, target: str) -> float:
    """Mirror all memberships again, as a worker does; return the seconds that it takes."""
    with closing(_drain(primary, target)) as drain:
        drain.queue.beside.execute(RESYNC)
        return timed(lambda: drain.run(seconds=3600))


def _idle(primary: str, target: str) -> float:
    """Connect to both databases; return the megabytes of a process without work."""
    configure_logging(style="json", level="error")
    with closing(_drain(primary, target)) as drain:
        drain.run()
        drain.target.describe()
    return _peak()


def _peak() -> float:
    """Return the largest number of megabytes that this process has used so far."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None  # noqa: S101 - Linux always has this line
    return int(found[1]) / 1024


def _drain(primary: str, target: str) -> Drain:
    settings = load_settings(primary_database_url=primary, supabase_db_url=target)
    return build_drain(settings, registry)
