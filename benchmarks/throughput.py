"""Throughput: measures how many changes a second reach the target.

Each change sets the role of a membership drawn at random, in a transaction of its own. All changes
are made before the drain starts, so the speed of the writer does not matter.
"""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from celery import Celery

from benchmarks import direct
from benchmarks.measuring import Report
from benchmarks.native import NativeSubscription, native
from benchmarks.servers import Servers, start_servers, timed, until
from mappings.trips import registry
from mirror.devstack.process import ServerProcess
from mirror.schema import removal_sql, triggers_sql

_CHANGE = """
do $$
declare
  member record;
begin
  for member in
    select trip_id, user_id from trip_memberships order by random() limit {count}
  loop
    update trip_memberships
    set role = case role when 'MEMBER' then 'ADMIN'::trip_role else 'MEMBER' end
    where trip_id = member.trip_id and user_id = member.user_id;
    commit;
  end loop;
end
$$
"""

_BARE = """
insert into public.direct (trip_id, user_id, role, status)
select * from unnest(%s::uuid[], %s::uuid[], %s::text[], %s::text[])
on conflict (trip_id, user_id) do update set role = excluded.role, status = excluded.status
"""


def main(report: Report, *, quick: bool) -> None:
    """Measure native replication, the mirror, direct tasks and a bare upsert in turn."""
    rounds, changes, few = (1, 2_000, 100) if quick else (3, 20_000, 2_000)
    with start_servers(api=True) as servers, native(servers) as subscription:
        servers.fill(10_000 if quick else 100_000)
        servers.load()
        subscription.catch_up()
        servers.target.execute(direct.TABLE)
        for _ in range(rounds):
            rate = _measure_native(servers, subscription, changes, durable=False)
            report.add("native replication", "/s", rate)
            rate = _measure_native(servers, subscription, changes, durable=True)
            report.add("native replication, durable", "/s", rate)
            for workers in (1, 2):
                rate = measure_drain(servers, changes, workers)
                report.add(f"mirror, workers: {workers}", "/s", rate)
            rate = measure_drain(servers, changes, 1, history=False)
            report.add("mirror, workers: 1, no history", "/s", rate)
            report.add("mirror run", "/s", measure_run(servers, changes))
            report.add(
                "mirror over REST, workers: 2", "/s", measure_drain(servers, changes, 2, rest=True)
            )
            report.add("a task per event, psycopg", "/s", _measure_tasks(servers, few, rest=False))
            report.add(
                "a task per event, supabase-py", "/s", _measure_tasks(servers, few // 5, rest=True)
            )
            report.add("bare batched upsert", "/s", _measure_bare(servers, changes))
    two, one = "mirror, workers: 2", "mirror, workers: 1"
    report.ratio("one worker to the same without history", one, f"{one}, no history", at_least=0.97)
    report.ratio("mirror run to one worker", "mirror run", one, at_least=0.9)
    durable = "native replication, durable"
    report.ratio("two workers to native replication, both durable", two, durable, at_least=5)
    report.ratio("one worker to native replication, both durable", one, durable, at_least=2.5)
    report.ratio("two workers to a task per event", two, "a task per event, psycopg", at_least=28)
    report.ratio(
        "two workers to a task per event, over REST",
        "mirror over REST, workers: 2",
        "a task per event, supabase-py",
        at_least=75,
    )


def make_changes(servers: Servers, count: int) -> None:
    """Change `count` memberships, each in a transaction of its own."""
    servers.primary.execute("set synchronous_commit = off")
    servers.primary.execute(_CHANGE.format(count=count).encode())
    servers.primary.execute("reset synchronous_commit")


def measure_drain(
    servers: Servers, changes: int, workers: int, *, rest: bool = False, history: bool = True
) -> float:
    """Return the number of changes that real workers mirror in a second."""
    with _triggers(servers), servers.working(workers, rest=rest, history=history):
        make_changes(servers, changes)
        began = time.perf_counter()
        servers.ring()
        servers.wait_for_drain()
        return changes / (time.perf_counter() - began)


def measure_run(servers: Servers, changes: int) -> float:
    """Return the number of changes that `mirror run` mirrors in a second.

    It begins with the first change; so it is stopped until all are made.
    """
    with _triggers(servers), servers.running() as process:
        process.send(signal.SIGSTOP)
        make_changes(servers, changes)
        began = time.perf_counter()
        process.send(signal.SIGCONT)
        servers.wait_for_drain()
        return changes / (time.perf_counter() - began)


@contextmanager
def _triggers(servers: Servers) -> Iterator[None]:
    with servers.primary.transaction():
        servers.primary.execute(triggers_sql(registry).encode())
    yield
    with servers.primary.transaction():
        servers.primary.execute(removal_sql(registry).encode())


def _measure_native(
    servers: Servers, subscription: NativeSubscription, changes: int, *, durable: bool
) -> float:
    subscription.pause()
    make_changes(servers, changes)

    def apply() -> None:
        subscription.resume(durable=durable)
        subscription.catch_up()

    return changes / timed(apply)


def _measure_tasks(servers: Servers, count: int, *, rest: bool) -> float:
    """Return how many rows a second two processes write by direct tasks, after the first row."""
    servers.target.execute("truncate public.direct")
    app = Celery(broker=servers.stack.redis_url)
    app.conf.task_default_queue = "direct"
    task = f"benchmarks.direct.upsert{'_over_rest' if rest else ''}"
    for row in _sample_rows(servers, count + 1):
        app.send_task(task, [str(value) for value in row])
    worker = ServerProcess(
        f"{sys.executable} -m celery -A benchmarks.direct worker --concurrency=2 --queues=direct"
        " --without-gossip --without-mingle".split(),
        log=servers.stack.redis.directory.parent / f"direct-{uuid4()}.log",
        options={"env": servers.environment},
        orphaned=signal.SIGTERM,
    )
    until(servers.target, "select exists (select from public.direct)")
    written = "select count(*) = %s from public.direct"
    seconds = timed(lambda: until(servers.target, written, count + 1))
    worker.end(signal.SIGTERM)
    return count / seconds


def _measure_bare(servers: Servers, count: int) -> float:
    rows = [tuple(map(str, row)) for row in _sample_rows(servers, count)]
    batches = [list(zip(*rows[at : at + 500], strict=True)) for at in range(0, count, 500)]

    def write() -> None:
        for batch in batches:
            servers.target.execute(_BARE, [list(column) for column in batch])

    write()
    return count / timed(write)


def _sample_rows(servers: Servers, count: int) -> list[tuple[object, ...]]:
    return servers.primary.execute(
        "select trip_id, user_id, role::text, status::text from trip_memberships"
        " order by random() limit %s",
        [count],
    ).fetchall()
