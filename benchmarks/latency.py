"""How long after its commit a change is seen by a client, and a revocation felt.

A writer joins a user to one trip after the other; the user asks the target, with row-level
security, which of them he may see. Beside it, native replication of the same changes.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal
from uuid import UUID

import psycopg
from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from benchmarks.measuring import Report
from benchmarks.native import native
from benchmarks.stage import Connection, Stage, stage
from mappings.trips import registry
from mirror.capture.doorbell import Doorbell, DoorbellSettings
from mirror.hooks import Hooks

_JOIN = text("""
insert into trip_memberships (trip_id, user_id, role, status)
values (:trip, :user, 'MEMBER', 'ACTIVE')
""")
_LEAVE = text("delete from trip_memberships where trip_id = :trip and user_id = :user")
_SEEN = "select trip_id from public.trip_memberships where user_id = %s and trip_id = any(%s)"

Change = Callable[[UUID], float]
"""Change a user's membership of a trip; return when that was committed."""


def main(report: Report, *, quick: bool) -> None:
    """Measure one after the other, several times."""
    rounds, changes, backlog = (1, 50, 2_000) if quick else (2, 400, 100_000)
    with stage() as here:
        here.fill(20_000 if quick else 200_000)
        here.load()
        user, trips = _newcomer(here, max(changes, 200))
        with native(here) as subscription:
            for _ in range(rounds):
                with _plain(here, user) as (join, leave):
                    seconds = _follow(subscription.connection, user, trips[:changes], join)
                    report.add("native: commit → visible", "ms", *_milliseconds(seconds))
                    _follow(subscription.connection, user, trips[:changes], leave, gone=True)
        with here.working(1), _hooked(here, user) as (join, leave), _as(here, user) as client:
            # The first ring loads Celery.
            _follow(client, user, trips[:1], join)
            _follow(client, user, trips[:1], leave, gone=True)
            for _ in range(rounds):
                seconds = _follow(client, user, trips[:changes], join)
                report.add("mirror: commit → allowed", "ms", *_milliseconds(seconds))
                seconds = _follow(client, user, trips[:changes], leave, gone=True)
                report.add("mirror: commit → refused", "ms", *_milliseconds(seconds))
        with here.working(2), _hooked(here, user) as (join, leave), _as(here, user) as client:
            for _ in range(rounds):
                _revocations(report, here, client, user, trips, (join, leave), backlog)
    native_, ours = "native: commit → visible", "mirror: commit → allowed"
    report.ratio("commit → allowed, p50, to native", ours, native_, at_most=8)
    report.ratio("the same, p99", ours, native_, at_most=8, by=lambda figure: figure.p99)
    report.ratio(
        "a revocation behind a backlog of grants, p99, to the same without",
        "a revocation, behind a backlog",
        "a revocation, idle",
        at_most=3,
        by=lambda figure: figure.p99,
    )


def _revocations(
    report: Report,
    here: Stage,
    client: Connection,
    user: UUID,
    trips: list[UUID],
    changes: tuple[Change, Change],
    backlog: int,
) -> None:
    join, leave = changes
    some = trips[:200]
    _follow(client, user, some, join)
    report.add(
        "a revocation, idle", "ms", *_milliseconds(_follow(client, user, some, leave, gone=True))
    )
    _follow(client, user, some, join)
    here.primary.execute(
        "insert into mirror.outbox (lane, mapping, key)"
        " select 1, 'trip_memberships', array[trip_id::text, user_id::text]"
        " from trip_memberships order by random() limit %s",
        [backlog],
    )
    here.ring()
    seconds = _follow(client, user, some, leave, gone=True)
    report.add("a revocation, behind a backlog", "ms", *_milliseconds(seconds))
    here.wait_for_drain()


def _newcomer(here: Stage, trips: int) -> tuple[UUID, list[UUID]]:
    """Return somebody who is in no trip, and trips to join."""
    found = here.primary.execute(
        "insert into users (id, email, username)"
        " values (gen_random_uuid(), 'new@example.com', 'new') returning id"
    ).fetchone()
    assert found is not None  # noqa: S101 - RETURNING returns
    rows = here.primary.execute("select id from trips order by id limit %s", [trips]).fetchall()
    here.load()
    return UUID(str(found[0])), [UUID(str(row[0])) for row in rows]


@contextmanager
def _plain(here: Stage, user: UUID) -> Iterator[tuple[Change, Change]]:
    engine = here.engine()

    def changing(statement: TextClause) -> Change:
        def change(trip: UUID) -> float:
            with Session(engine) as session:
                session.execute(statement, {"trip": trip, "user": user})
                session.commit()
            return time.perf_counter()

        return change

    yield changing(_JOIN), changing(_LEAVE)
    engine.dispose()


@contextmanager
def _hooked(here: Stage, user: UUID) -> Iterator[tuple[Change, Change]]:
    engine = here.engine()
    hooks = Hooks(registry, Doorbell(DoorbellSettings(redis_url=here.stack.redis_url)))

    def changing(statement: TextClause, lane: Literal["revocation", "grant"]) -> Change:
        def change(trip: UUID) -> float:
            with Session(engine) as session:
                session.execute(statement, {"trip": trip, "user": user})
                hooks.changed(session, "trip_memberships", (trip, user), lane)
                session.commit()
            return time.perf_counter()

        return change

    yield changing(_JOIN, "grant"), changing(_LEAVE, "revocation")
    engine.dispose()


@contextmanager
def _as(here: Stage, user: UUID) -> Iterator[Connection]:
    """Yield a connection to the target that acts as a user."""
    with psycopg.connect(here.stack.supabase_db_url, autocommit=True) as client:
        claims = json.dumps({"sub": str(user), "role": "authenticated"})
        client.execute("select set_config('request.jwt.claims', %s, false)", [claims])
        client.execute("set role authenticated")
        yield client


def _follow(
    client: Connection, user: UUID, trips: list[UUID], change: Change, *, gone: bool = False
) -> list[float]:
    """Change a hundred a second; return after how many seconds each was seen."""
    committed: dict[UUID, float] = {}

    def write() -> None:
        began = time.perf_counter()
        for number, trip in enumerate(trips):
            time.sleep(max(0.0, began + number / 100 - time.perf_counter()))
            committed[trip] = change(trip)

    writer = threading.Thread(target=write)
    writer.start()
    seen: dict[UUID, float] = {}
    deadline = time.monotonic() + 60
    while len(seen) < len(trips):
        waiting = [trip for trip in list(committed) if trip not in seen]
        if waiting:
            rows = client.execute(_SEEN, [user, waiting]).fetchall()
            now = time.perf_counter()
            there = {row[0] for row in rows}
            seen.update(dict.fromkeys((t for t in waiting if (t in there) is not gone), now))
        time.sleep(0.0005)
        if time.monotonic() > deadline:
            raise AssertionError(f"{len(trips) - len(seen)} changes were never seen")
    writer.join()
    return [seen[trip] - committed[trip] for trip in trips]


def _milliseconds(seconds: list[float]) -> list[float]:
    return [value * 1000 for value in seconds]
