"""How fast changes reach the target: single-row transactions that have piled up.

The same changes each time: the role of memberships drawn at random, each in a transaction of its
own. They are made while nobody drains, so that what is measured is not the writer.
"""

import signal
import sys
import time
from uuid import uuid4

from celery import Celery

from benchmarks import direct
from benchmarks.measuring import Report
from benchmarks.native import Native, native
from benchmarks.stage import Stage, stage, timed, until
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
    """Measure each way in turn, several times."""
    rounds, changes, few = (1, 2_000, 100) if quick else (3, 20_000, 2_000)
    with stage(api=True) as here, native(here) as subscription:
        here.fill(10_000 if quick else 100_000)
        here.load()
        subscription.catch_up()
        here.target.execute(direct.TABLE)
        for _ in range(rounds):
            rate = _native(here, subscription, changes, durable=False)
            report.add("native replication", "/s", rate)
            rate = _native(here, subscription, changes, durable=True)
            report.add("native replication, durable", "/s", rate)
            for workers in (1, 2):
                rate = drained(here, changes, workers)
                report.add(f"mirror, workers: {workers}", "/s", rate)
            report.add("mirror over REST, workers: 2", "/s", drained(here, changes, 2, rest=True))
            report.add("a task per event, psycopg", "/s", _tasks(here, few, rest=False))
            report.add("a task per event, supabase-py", "/s", _tasks(here, few // 5, rest=True))
            report.add("bare batched upsert", "/s", _bare(here, changes))
    two, one = "mirror, workers: 2", "mirror, workers: 1"
    report.ratio("two workers to native replication", two, "native replication", at_least=5)
    report.ratio("one worker to native replication", one, "native replication", at_least=2.5)
    durable = "native replication, durable"
    report.ratio("two workers to native replication, both durable", two, durable, at_least=5)
    report.ratio("one worker to native replication, both durable", one, durable, at_least=2.5)
    report.ratio("two workers to a task per event", two, "a task per event, psycopg", at_least=20)
    report.ratio(
        "two workers to a task per event, over REST",
        "mirror over REST, workers: 2",
        "a task per event, supabase-py",
        at_least=60,
    )


def change(here: Stage, count: int) -> None:
    """Make changes, each in a transaction of its own."""
    here.primary.execute("set synchronous_commit = off")
    here.primary.execute(_CHANGE.format(count=count).encode())
    here.primary.execute("reset synchronous_commit")


def drained(here: Stage, changes: int, workers: int, *, rest: bool = False) -> float:
    """Return how many changes a second real workers mirror."""
    with here.primary.transaction():
        here.primary.execute(triggers_sql(registry).encode())
    with here.working(workers, rest=rest):
        change(here, changes)
        began = time.perf_counter()
        here.ring()
        here.wait_for_drain()
        seconds = time.perf_counter() - began
    with here.primary.transaction():
        here.primary.execute(removal_sql(registry).encode())
    return changes / seconds


def _native(here: Stage, subscription: Native, changes: int, *, durable: bool) -> float:
    subscription.pause()
    change(here, changes)

    def apply() -> None:
        subscription.resume(durable=durable)
        subscription.catch_up()

    return changes / timed(apply)


def _tasks(here: Stage, count: int, *, rest: bool) -> float:
    """Return how many a second two processes write, from when the first one is written."""
    here.target.execute("truncate public.direct")
    app = Celery(broker=here.stack.redis_url)
    app.conf.task_default_queue = "direct"
    task = f"benchmarks.direct.upsert{'_over_rest' if rest else ''}"
    for row in _some(here, count + 1):
        app.send_task(task, [str(value) for value in row])
    worker = ServerProcess(
        f"{sys.executable} -m celery -A benchmarks.direct worker --concurrency=2 --queues=direct"
        " --without-gossip --without-mingle".split(),
        log=here.stack.redis.directory.parent / f"direct-{uuid4()}.log",
        options={"env": here.environment},
        orphaned=signal.SIGTERM,
    )
    until(here.target, "select exists (select from public.direct)")
    written = "select count(*) = %s from public.direct"
    seconds = timed(lambda: until(here.target, written, count + 1))
    worker.end(signal.SIGTERM)
    return count / seconds


def _bare(here: Stage, count: int) -> float:
    rows = [tuple(map(str, row)) for row in _some(here, count)]
    batches = [list(zip(*rows[at : at + 500], strict=True)) for at in range(0, count, 500)]

    def write() -> None:
        for batch in batches:
            here.target.execute(_BARE, [list(column) for column in batch])

    write()
    return count / timed(write)


def _some(here: Stage, count: int) -> list[tuple[object, ...]]:
    return here.primary.execute(
        "select trip_id, user_id, role::text, status::text from trip_memberships"
        " order by random() limit %s",
        [count],
    ).fetchall()
