"""A worker skips the index entries of drained events, and misses no event."""

from collections.abc import Callable, Sequence
from uuid import uuid4

import pytest
from psycopg import sql

from mirror.capture.statements import statement
from mirror.sync.claims import Queue
from mirror.sync.drain import Drain
from mirror.sync.floor import Floor
from tests.faults.tools import record
from tests.support.databases import TestDatabase

DRAINED = 10_000


@pytest.fixture
def queue(drain: Drain) -> Queue:
    """One worker's queue."""
    return drain.queue


def claim_keys(queue: Queue, limit: int = 100) -> list[tuple[str, ...]]:
    """Claim and settle events; return their keys."""
    claim = queue.claim(limit)
    if claim is None:
        return []
    keys = [event.key for event in claim.events]
    claim.acknowledge()
    return keys


def pages_read(queue: Queue, floor: int, known: Sequence[str] = ("users",)) -> int:
    """Return how many pages an empty claim reads."""
    claim = sql.SQL(statement("claim_events")).format(
        floor=sql.Literal(floor),
        limit=sql.Literal(500),
        few=sql.Literal(50),
        known=sql.Literal(list(known)),
        ahead=sql.NULL,
    )
    explain = sql.SQL("explain (analyze, buffers, format json) ") + claim
    ((plan,),) = queue.beside.execute(explain)
    top: dict[str, int] = plan[0]["Plan"]
    return top["Shared Hit Blocks"] + top["Shared Read Blocks"]


def test_drained_events_cost_nothing_while_an_old_snapshot_keeps_them(
    primary: TestDatabase, queue: Queue
) -> None:
    """A report that runs for an hour keeps vacuum from removing drained events."""
    with primary.connect() as report:
        report.execute("begin isolation level repeatable read; select 1")
        primary.query(
            "insert into mirror.outbox (lane, mapping, key)"
            f" select 1, 'users', array[n::text] from generate_series(1, {DRAINED}) as n"
        )
        assert len(claim_keys(queue, DRAINED)) == DRAINED
        assert claim_keys(queue) == []
        assert pages_read(queue, 0) > DRAINED / 150
        assert pages_read(queue, queue._floor.value) < DRAINED / 250


def test_an_event_that_commits_late_is_found(primary: TestDatabase, queue: Queue) -> None:
    """Other transactions began, ended and were drained while its transaction ran."""
    key = uuid4()
    with primary.connect() as late:
        late.execute("begin")
        late.execute(
            "insert into mirror.outbox (lane, mapping, key) values (1, 'users', %s)", [[str(key)]]
        )
        record(primary, "users", str(uuid4()))
        assert len(claim_keys(queue)) == 1
        queue._floor.advance()
        assert claim_keys(queue) == []
        late.execute("commit")
    assert claim_keys(queue) == [(str(key),)]


def test_an_event_that_another_worker_gives_back_is_found(
    primary: TestDatabase, queue: Queue, make_drain: Callable[..., Drain]
) -> None:
    """The other worker held the event while this one found none."""
    key = str(uuid4())
    record(primary, "users", key)
    other = make_drain().queue.claim(1)
    assert other is not None
    primary.query("select pg_current_xact_id()")
    queue._floor.advance()
    assert claim_keys(queue) == []
    other.release()
    assert claim_keys(queue) == [(key,)]


def test_a_floor_rises_among_many_events_too(primary: TestDatabase, queue: Queue) -> None:
    """The floor is at the first of them."""
    for _ in range(2):
        record(primary, "users", str(uuid4()), lane=1)
    floor = Floor(queue.beside)
    floor.advance()
    first = primary.value("select min(transaction_id) from mirror.outbox")
    assert floor.value == first
    primary.query("delete from mirror.outbox where transaction_id = %s", first)
    floor.advance()
    assert floor.value == primary.value("select min(transaction_id) from mirror.outbox") > first


def test_rows_of_another_server_are_found_in_time(primary: TestDatabase, queue: Queue) -> None:
    """A restored dump contains the transaction ids of its own server."""
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
    assert claim_keys(queue) == []
    now[0] = 301
    assert claim_keys(queue) == [(key,)]


def test_reading_events_parses_their_ids_once(primary: TestDatabase, queue: Queue) -> None:
    """Not once for each row: that takes seconds when one transaction recorded 10,000 events."""
    primary.query(
        "insert into mirror.outbox (lane, mapping, key)"
        " select 1, 'users', array[n::text] from generate_series(1, 1000) as n"
    )
    (transaction,) = primary.query("select distinct transaction_id from mirror.outbox")[0]
    parameters = {"oldest": transaction, "newest": transaction, "ids": "{1,2,3}"}
    for statistics in ("", "analyze mirror.outbox"):
        if statistics:
            primary.query(statistics)
        plan = queue.beside.execute("explain " + statement("read_claimed_events"), parameters)
        lines = [line for (line,) in plan]
        assert not any("Filter:" in line and "{1,2,3}" in line for line in lines)
        assert any("hashed SubPlan" in line for line in lines)
