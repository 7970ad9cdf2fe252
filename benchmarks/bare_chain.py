"""Bare chain: the steps that no mirror of this kind can leave out, for one mapping, without checks.

It claims events in a transaction that stays open, and reads their rows there in a statement that
begins later; it writes ledger and rows in one transaction, waits until that is on disk, and ends
the claim. Statements are prepared, and those of a step go in one round trip, also where a pooler
would not allow it. There are no scopes, parents, retries, withheld rows, pairs of databases, or
time limits. The mirror's delay beyond it is the cost of its checks, and of working behind poolers.

Either a process listens for changes, as `mirror run` does, or the doorbell wakes a Celery task,
with a message for each ring.
"""

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from multiprocessing.synchronize import Event
from uuid import uuid4

import psycopg
import redis
from celery import Celery

from benchmarks.servers import Connection, Servers
from mirror.capture.doorbell import QUEUE, TASK, acknowledge_ring
from mirror.devstack.worker import WorkerProcess

app = Celery("bare_chain", broker=os.environ.get("REDIS_URL"))
app.conf.task_ignore_result = True
app.conf.task_default_queue = QUEUE

_LEDGER = """
create table public.bare_ledger (
  trip_id uuid, user_id uuid, fence bigint, present boolean, primary key (trip_id, user_id)
);
create sequence public.bare_flushes
"""

_CLAIM = """
with claimed as (
  delete from mirror.outbox where id in (
    select id from mirror.outbox order by lane, id limit 500 for update skip locked
  )
  returning key
)
select count(*), set_config('bare.trips', coalesce(array_agg(key[1])::text, '{}'), true),
  set_config('bare.users', coalesce(array_agg(key[2])::text, '{}'), true)
from claimed
"""

_READ = """
select k.trip_id, k.user_id, m.role, m.status,
  pg_snapshot_xmin(pg_current_snapshot())::text::bigint, m.trip_id is not null
from unnest(current_setting('bare.trips')::uuid[], current_setting('bare.users')::uuid[])
  as k (trip_id, user_id)
left join trip_memberships as m
  on m.trip_id = k.trip_id and m.user_id = k.user_id and m.deleted_at is null
"""

_ADMIT = """
insert into public.bare_ledger
select distinct * from unnest(%s::uuid[], %s::uuid[], %s::bigint[], %s::boolean[])
on conflict (trip_id, user_id) do update set fence = excluded.fence, present = excluded.present
"""

_WRITE = """
insert into public.trip_memberships (trip_id, user_id, role, status)
select distinct * from unnest(%s::uuid[], %s::uuid[], %s::text[], %s::text[])
on conflict (trip_id, user_id) do update set role = excluded.role, status = excluded.status
"""

_DELETE = """
delete from public.trip_memberships as m
using unnest(%s::uuid[], %s::uuid[]) as k (trip_id, user_id)
where m.trip_id = k.trip_id and m.user_id = k.user_id
"""


class BareChain:
    """The connections of one process, opened at the first use."""

    def __init__(self, primary: str, target: str) -> None:
        self._primary = primary
        self._target = target

    @cached_property
    def _claims(self) -> Connection:
        return _connect_to_primary(self._primary)

    @cached_property
    def _written(self) -> Connection:
        return psycopg.connect(self._target, autocommit=True, prepare_threshold=0)

    def drain(self) -> None:
        """Carry the rows of all events to the target."""
        claims = False
        while True:
            with self._claims.pipeline() as pipeline:
                if claims:
                    self._claims.execute("commit")
                    pipeline.sync()
                self._claims.execute("begin")
                claimed = self._claims.execute(_CLAIM)
                read = self._claims.execute(_READ)
            ((events, *_),) = claimed.fetchall()
            claims = bool(events)
            if not claims:
                self._claims.execute("rollback")
                return
            self._write(read.fetchall())

    def _write(self, rows: list[tuple[object, ...]]) -> None:
        present, gone = [row for row in rows if row[5]], [row for row in rows if not row[5]]
        with self._written.pipeline() as pipeline:
            self._written.execute("begin")
            self._written.execute(_ADMIT, _columns(rows, 0, 1, 4, 5))
            if present:
                self._written.execute(_WRITE, _columns(present, 0, 1, 2, 3))
            if gone:
                self._written.execute(_DELETE, _columns(gone, 0, 1))
            # As in the mirror: in force before it is on disk.
            self._written.execute("set local synchronous_commit = off")
            self._written.execute("commit")
            pipeline.sync()
            self._written.execute("select setval('public.bare_flushes', 1)")


def _columns(rows: list[tuple[object, ...]], *numbers: int) -> list[list[object]]:
    return [[row[number] for row in rows] for number in numbers]


def _connect_to_primary(url: str) -> Connection:
    connection = psycopg.connect(url, autocommit=True, prepare_threshold=0)
    # As in the mirror: a crash of the primary delivers the events again.
    connection.execute("set synchronous_commit = off")
    return connection


@contextmanager
def listening(servers: Servers) -> Iterator[None]:
    """Carry changes of memberships to the target, in a process that listens for them."""
    context = multiprocessing.get_context("spawn")
    ready, stopping = context.Event(), context.Event()
    urls = (servers.stack.primary_url, servers.stack.supabase_db_url)
    process = context.Process(target=_listen, args=(*urls, ready, stopping))
    with _ledger(servers):
        servers.primary.execute("update mirror.state set listened_until = now() + interval '1 h'")
        process.start()
        try:
            ready.wait(60)
            yield
        finally:
            stopping.set()
            process.join(60)
            servers.primary.execute("update mirror.state set listened_until = now()")


def _listen(primary: str, target: str, ready: Event, stopping: Event) -> None:
    chain = BareChain(primary, target)
    with _connect_to_primary(primary) as ears:
        ears.execute("listen mirror")
        ready.set()
        while not stopping.is_set():
            chain.drain()
            for _ in ears.notifies(timeout=0.2, stop_after=1):
                pass


@contextmanager
def rung(servers: Servers) -> Iterator[None]:
    """Carry changes of memberships to the target, in a Celery worker that the doorbell wakes."""
    log = servers.stack.redis.directory.parent / f"bare-{uuid4()}.log"
    with (
        _ledger(servers),
        WorkerProcess(servers.environment, log=log, app=__name__, beat=False) as worker,
    ):
        worker.wait_until_ready()
        yield


@app.task(name=TASK, shared=False)  # type: ignore[untyped-decorator]
def drain() -> None:
    """Carry the rows of all events to the target."""
    acknowledge_ring(_redis())
    _chain().drain()


@cache
def _redis() -> redis.Redis:
    return redis.Redis.from_url(os.environ["REDIS_URL"])


@cache
def _chain() -> BareChain:
    return BareChain(os.environ["PRIMARY_DATABASE_URL"], os.environ["SUPABASE_DB_URL"])


@contextmanager
def _ledger(servers: Servers) -> Iterator[None]:
    servers.target.execute(_LEDGER)
    try:
        yield
    finally:
        servers.target.execute("drop table public.bare_ledger; drop sequence public.bare_flushes")
