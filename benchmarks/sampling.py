"""Sampling: follows one mirrored pair of databases over time.

A sampler notes the memory of the processes that mirror, their connections, and the sizes of the
tables of ours. A probe measures the delay. Times are seconds of `time.monotonic`.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
from sqlalchemy.orm import Session

from benchmarks.servers import Connection, Servers
from benchmarks.traffic import JOIN, LEAVE
from mappings.trips import registry
from mirror.capture.doorbell import Doorbell
from mirror.capture.recorder import LaneName
from mirror.hooks import Hooks

OUTBOX = "primary: mirror.outbox"
_PATIENCE = 60.0

_CONNECTIONS = """
select count(*) from pg_stat_activity where application_name = 'permission-mirror'
"""
# The mirror's own tables and, in the target, the tables of the mirrored rows.
_TABLES = """
select format('%%s: %%s.%%s', %(side)s::text, n.nspname, c.relname),
  pg_total_relation_size(c.oid), coalesce(s.n_dead_tup, 0)
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
left join pg_stat_user_tables as s on s.relid = c.oid
where c.relkind = 'r'
  and (n.nspname = 'mirror' or n.nspname = 'public' and c.relname = any(%(mirrored)s))
"""
_SEEN = "select exists (select from public.trip_memberships where trip_id = %s and user_id = %s)"
_PROBED = "insert into users (id, email, username) values (%s, %s, 'probe')"
_PROBED_TRIP = "insert into trips (id, name, created_by) values (%s, 'Probe', %s)"


@dataclass(frozen=True)
class Table:
    """The size of a table with its indexes, and how many dead rows it has as statistics say."""

    bytes: int
    dead: int


@dataclass(frozen=True)
class Sample:
    """The state of a pair at one moment."""

    at: float
    memory: float
    """Megabytes of the processes that mirror; a page that several processes share counts once."""
    connections: int
    """The mirror's connections to both sides."""
    tables: dict[str, Table]
    """By side and name; in the primary the mirror's own, in the target the mirrored ones, too."""

    def megabytes(self, *, outbox: bool) -> float:
        """Return the size of the outbox, or of all other tables."""
        sizes = (one.bytes for name, one in self.tables.items() if (name == OUTBOX) is outbox)
        return sum(sizes) / 1e6

    @property
    def dead(self) -> int:
        """The dead rows of all tables."""
        return sum(table.dead for table in self.tables.values())

    def as_json(self) -> dict[str, Any]:
        """Return all values as plain JSON values."""
        return asdict(self)


class Sampler:
    """Takes samples of a pair until it is stopped.

    Args:
        servers: the pair.
        pid: the process that mirrors; its descendants count, too.
    """

    def __init__(self, servers: Servers, pid: int) -> None:
        self.samples: list[Sample] = []
        self._servers = servers
        self._pid = pid

    def run(
        self,
        stop: threading.Event,
        *,
        every: float,
        check: Callable[[], object],
        seconds_between_checks: float,
    ) -> None:
        """Take a sample every so many seconds until stopped, and call `check` now and then.

        No sample is taken during a check, so none contains the connections of a check.
        """
        began = time.monotonic()
        next_check = began + seconds_between_checks / 4
        while not stop.wait(every - (time.monotonic() - began) % every):
            self.samples.append(self.sample())
            if time.monotonic() >= next_check:
                next_check += seconds_between_checks
                check()

    def sample(self) -> Sample:
        """Return the state of this moment."""
        connections = 0
        tables: dict[str, Table] = {}
        sides = {"primary": self._servers.stack.primary_url}
        sides["target"] = self._servers.stack.supabase_db_url
        with ExitStack() as stack:
            for side, url in sides.items():
                connection = stack.enter_context(psycopg.connect(url, autocommit=True))
                connections += int(str((connection.execute(_CONNECTIONS).fetchone() or (0,))[0]))
                tables |= _sizes(connection, side)
        memory = sum(map(_proportional_kilobytes, _descendants(self._pid))) / 1024
        return Sample(time.monotonic(), memory, connections, tables)


class Probe:
    """A user who joins and leaves one trip, to measure when the target has the change.

    Create it before the pair is loaded: it adds the user and the trip.
    """

    def __init__(self, servers: Servers, doorbell: Doorbell) -> None:
        self.delays: list[tuple[float, float]] = []
        """The time of each commit, and the milliseconds from there until the change was visible."""
        self.trip, self.user = uuid4(), uuid4()
        self._servers = servers
        self._hooks = Hooks(registry, doorbell)
        servers.primary.execute(_PROBED, [self.user, f"{self.user}@example.com"])
        servers.primary.execute(_PROBED_TRIP, [self.trip, self.user])

    @property
    def ids(self) -> set[UUID]:
        """The ids of the user and the trip."""
        return {self.trip, self.user}

    def run(self, stop: threading.Event, *, every: float) -> None:
        """Join or leave every so many seconds until stopped.

        Raises:
            AssertionError: a change was not visible within a minute.
        """
        engine = self._servers.engine()
        member = False
        with psycopg.connect(self._servers.stack.supabase_db_url, autocommit=True) as target:
            while not stop.wait(every):
                member = not member
                with Session(engine) as session:
                    values = {"trip": self.trip, "user": self.user}
                    session.execute(JOIN if member else LEAVE, values)
                    lane: LaneName = "grant" if member else "revocation"
                    self._hooks.changed(session, "trip_memberships", tuple(values.values()), lane)
                    session.commit()
                committed, clock = time.monotonic(), time.perf_counter()
                self._wait_until_visible(target, member=member)
                self.delays.append((committed, (time.perf_counter() - clock) * 1000))
        engine.dispose()

    def _wait_until_visible(self, target: Connection, *, member: bool) -> None:
        deadline = time.monotonic() + _PATIENCE
        while target.execute(_SEEN, [self.trip, self.user]).fetchone() != (member,):
            if time.monotonic() > deadline:
                raise AssertionError(f"a change was not visible within {_PATIENCE:g} s")
            time.sleep(0.002)


def _sizes(connection: Connection, side: str) -> dict[str, Table]:
    """Return the tables of ours on one side."""
    mirrored = [mapping.name for mapping in registry] if side == "target" else []
    rows = connection.execute(_TABLES.encode(), {"side": side, "mirrored": mirrored})
    return {str(name): Table(int(str(size)), int(str(dead))) for name, size, dead in rows}


def _descendants(pid: int) -> Iterator[int]:
    """Yield a process and its children, their children too."""
    yield pid
    # A process may end meanwhile.
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _descendants(int(child))


def _proportional_kilobytes(pid: int) -> int:
    """Return a process's memory (PSS): of a page that n processes share, one nth."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0
