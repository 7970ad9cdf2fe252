"""Work in a process of its own, of which the memory can be told."""

import multiprocessing
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from benchmarks.stage import Stage, reconciled, timed
from mappings.trips import registry
from mirror.settings import load_settings
from mirror.settings.logs import configure_logging
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_drain

_RESYNC = """
insert into mirror.outbox (lane, mapping, reference, key)
values (1, 'trip_memberships', '*', '{}')
"""


def apart(here: Stage, work: Callable[[str, str], float]) -> tuple[float, float]:
    """Return how many seconds some work takes, and megabytes beyond those of an idle process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        urls = (here.stack.primary_url, here.stack.supabase_db_url)
        idle: float = pool.apply(_idle, urls)
        seconds = pool.apply(work, urls)
        return seconds, pool.apply(_peak) - idle


def compare(primary: str, target: str) -> float:
    """Reconcile; return how many seconds that took."""
    with closing(_drain(primary, target)) as drain:
        return timed(lambda: reconciled(drain))


def resync(primary: str, target: str) -> float:
    """Mirror all memberships anew, as a worker does; return how many seconds that took."""
    with closing(_drain(primary, target)) as drain:
        drain.queue.notes.execute(_RESYNC)
        return timed(lambda: drain.run(seconds=3600))


def _idle(primary: str, target: str) -> float:
    """Connect to both sides; return what a process takes that has nothing to do."""
    configure_logging(style="json", level="error")
    with closing(_drain(primary, target)) as drain:
        drain.run()
        drain.target.describe()
    return _peak()


def _peak() -> float:
    """Return the most megabytes that this process ever had. Its parent's do not count."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None  # noqa: S101 - Linux always tells
    return int(found[1]) / 1024


def _drain(primary: str, target: str) -> Drain:
    settings = load_settings(primary_database_url=primary, supabase_db_url=target)
    return build_drain(settings, registry)
