"""A worker does not pass all that was drained before, and misses nothing for it."""

from collections.abc import Callable
from uuid import uuid4

import pytest
from psycopg import sql

from mirror.capture.statements import statement
from mirror.sync.claims import Queue
from mirror.sync.drain import Drain
from mirror.sync.floor import Floor
from tests.faults.tools import record
from tests.support.databases import TestDatabase

DRAINED = 3_000


@pytest.fixture
def queue(drain: Drain) -> Queue:
    """A worker's view of the outbox."""
    return drain.queue


def found(queue: Queue, limit: int = 100) -> list[tuple[str, ...]]:
    """Return the keys that a claim takes, for good."""
    claim = queue.claim(limit)
    if claim is None:
        return []
    claim.acknowledge()
    return [event.key for event in claim.events]


def passed(queue: Queue, floor: int) -> int:
    """Return how many pages an empty claim reads."""
    claim = sql.SQL(statement("claim_events")).format(
        floor=sql.Literal(floor), limit=sql.Literal(500), few=sql.Literal(50)
    )
    explain = sql.SQL("explain (analyze, buffers, format json) ") + claim
    ((plan,),) = queue.notes.execute(explain)
    top: dict[str, int] = plan[0]["Plan"]
    return top["Shared Hit Blocks"] + top["Shared Read Blocks"]


def test_what_was_drained_costs_nothing_though_an_old_snapshot_keeps_it(
    primary: TestDatabase, queue: Queue
) -> None:
    """A report that runs for an hour keeps vacuum from all that was drained since."""
    with primary.connect() as report:
        report.execute("begin isolation level repeatable read; select 1")
        primary.query(
            "insert into mirror.outbox (lane, mapping, key)"
            f" select 1, 'users', array[n::text] from generate_series(1, {DRAINED}) as n"
        )
        assert len(found(queue, DRAINED)) == DRAINED
        assert found(queue) == []
        assert passed(queue, 0) > DRAINED / 200
        assert passed(queue, queue._floor.value) < 10


def test_what_commits_late_is_found(primary: TestDatabase, queue: Queue) -> None:
    """Its transaction was under way while others began, ended and were drained."""
    key = uuid4()
    with primary.connect() as late:
        late.execute("begin")
        late.execute(
            "insert into mirror.outbox (lane, mapping, key) values (1, 'users', %s)", [[str(key)]]
        )
        record(primary, "users", str(uuid4()))
        assert len(found(queue)) == 1
        queue._floor.advance()
        assert found(queue) == []
        late.execute("commit")
    assert found(queue) == [(str(key),)]


def test_what_another_worker_gives_back_is_found(
    primary: TestDatabase, queue: Queue, make_drain: Callable[..., Drain]
) -> None:
    """It held the event while this one found nothing."""
    key = str(uuid4())
    record(primary, "users", key)
    other = make_drain().queue.claim(1)
    assert other is not None
    primary.query("select pg_current_xact_id()")
    queue._floor.advance()
    assert found(queue) == []
    other.release()
    assert found(queue) == [(key,)]


def test_a_floor_rises_among_many_events_too(primary: TestDatabase, queue: Queue) -> None:
    """It is where the first of them is."""
    for _ in range(2):
        record(primary, "users", str(uuid4()), lane=1)
    floor = Floor(queue.notes)
    floor.advance()
    first = primary.value("select min(transaction_id) from mirror.outbox")
    assert floor.value == first
    primary.query("delete from mirror.outbox where transaction_id = %s", first)
    floor.advance()
    assert floor.value == primary.value("select min(transaction_id) from mirror.outbox") > first


def test_rows_of_another_server_are_found_in_time(primary: TestDatabase, queue: Queue) -> None:
    """A dump brings its own transaction ids along."""
    now = [0.0]
    floor = queue._floor = Floor(queue.claims, lambda: now[0])
    floor.advance()
    key = str(uuid4())
    primary.query(
        "insert into mirror.outbox (lane, mapping, key, transaction_id)"
        " values (1, 'users', array[%s], 3)",
        key,
    )
    assert floor.value > 3
    assert found(queue) == []
    now[0] = 301
    assert found(queue) == [(key,)]
