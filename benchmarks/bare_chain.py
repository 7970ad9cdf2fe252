"""Bare chain: the steps that no mirror of this kind can leave out, for one mapping, without checks.

It claims events in a transaction that stays open, commits a note of the claim, reads the rows in a
snapshot that began later, writes ledger and rows in one durable transaction, and ends the claim.
Statements are prepared, and those of a step go in one round trip, also where a pooler would not
allow it. There are no scopes, parents, retries, withheld rows, pairs of databases, or time limits.
So its delay is a bound: that of the mirror cannot be lower.
"""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event

import psycopg

from benchmarks.servers import Servers

_LEDGER = """
create table public.bare_ledger (
  trip_id uuid, user_id uuid, fence bigint, present boolean, primary key (trip_id, user_id)
)
"""

_CLAIM = """
delete from mirror.outbox where id in (
  select id from mirror.outbox order by lane, id limit 500 for update skip locked
)
returning id, key
"""

_NOTE = "insert into mirror.claims (id, events) values (gen_random_uuid(), %s) returning id"

_READ = """
select k.trip_id, k.user_id, m.role, m.status,
  pg_snapshot_xmin(pg_current_snapshot())::text::bigint, m.trip_id is not null
from unnest(%s::uuid[], %s::uuid[]) as k (trip_id, user_id)
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


@contextmanager
def bare_chain(servers: Servers) -> Iterator[None]:
    """Carry changes of memberships to the target in a process of its own."""
    servers.target.execute(_LEDGER)
    servers.primary.execute("update mirror.state set listened_until = now() + interval '1 hour'")
    context = multiprocessing.get_context("spawn")
    listening, stopping = context.Event(), context.Event()
    urls = (servers.stack.primary_url, servers.stack.supabase_db_url)
    process = context.Process(target=_work, args=(*urls, listening, stopping))
    process.start()
    try:
        listening.wait(60)
        yield
    finally:
        stopping.set()
        process.join(60)
        servers.primary.execute("update mirror.state set listened_until = now()")
        servers.target.execute("drop table public.bare_ledger")


def _work(primary: str, target: str, listening: Event, stopping: Event) -> None:
    with (
        _connect(primary) as claims,
        _connect(primary) as source,
        _connect(primary) as ears,
        _connect(target) as written,
    ):
        # As the mirror does: a crash of the primary delivers the events again.
        claims.execute("set synchronous_commit = off")
        source.execute("set synchronous_commit = off")
        ears.execute("listen mirror")
        listening.set()
        note = None
        while not stopping.is_set():
            with claims.pipeline() as pipeline:
                if note is not None:
                    claims.execute("delete from mirror.claims where id = %s", [note])
                    claims.execute("commit")
                    pipeline.sync()
                claims.execute("begin")
                claimed = claims.execute(_CLAIM)
            note = _carry(source, written, claimed.fetchall())
            if note is None:
                claims.execute("rollback")
                for _ in ears.notifies(timeout=0.2, stop_after=1):
                    pass


def _carry(
    source: psycopg.Connection[tuple[object, ...]],
    written: psycopg.Connection[tuple[object, ...]],
    events: list[tuple[object, ...]],
) -> object | None:
    """Carry the rows of events to the target; return the id of the note, None without events."""
    if not events:
        return None
    keys: list[list[str]] = [key for _, key in events]  # type: ignore[misc]  # the column is text[]
    with source.pipeline() as pipeline:
        noted = source.execute(_NOTE, [[number for number, _ in events]])
        pipeline.sync()
        source.execute("begin isolation level repeatable read read only")
        read = source.execute(_READ, [[key[0] for key in keys], [key[1] for key in keys]])
        source.execute("commit")
    rows = read.fetchall()
    present, gone = [row for row in rows if row[5]], [row for row in rows if not row[5]]
    with written.pipeline():
        written.execute("begin")
        written.execute(_ADMIT, _columns(rows, 0, 1, 4, 5))
        if present:
            written.execute(_WRITE, _columns(present, 0, 1, 2, 3))
        if gone:
            written.execute(_DELETE, _columns(gone, 0, 1))
        written.execute("commit")
    note = noted.fetchone()
    return note and note[0]


def _columns(rows: list[tuple[object, ...]], *numbers: int) -> list[list[object]]:
    return [[row[number] for row in rows] for number in numbers]


def _connect(url: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(url, autocommit=True, prepare_threshold=0)
