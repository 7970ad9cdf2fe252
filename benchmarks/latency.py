"""Latency: measures the time from the commit of a change until a client of the target sees it.

A writer adds a user to one trip after the other. The user's client polls the target, with row-level
security, for the trips that the user may see. Native replication of the same changes is measured,
too, and a bare chain of the steps that no mirror of this kind can leave out.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Literal
from uuid import UUID

import psycopg
from sqlalchemy import TextClause
from sqlalchemy.orm import Session

from benchmarks import bare_chain
from benchmarks.measuring import Report
from benchmarks.native import DATABASE, native
from benchmarks.servers import Connection, Servers, start_servers
from benchmarks.traffic import JOIN, LEAVE
from mappings.trips import registry
from mirror.capture.doorbell import Doorbell, DoorbellSettings, Mode
from mirror.devstack import supabase
from mirror.hooks import Hooks

_SEEN = "select trip_id from public.trip_memberships where user_id = %s and trip_id = any(%s)"

Change = Callable[[UUID], float]
"""Changes a user's membership of a trip; returns the time of the commit."""


def main(report: Report, *, quick: bool) -> None:
    """Measure native replication, the mirror, and the mirror with a backlog."""
    rounds, changes, backlog = (1, 50, 2_000) if quick else (2, 400, 100_000)
    with start_servers() as servers:
        servers.fill(20_000 if quick else 200_000)
        servers.load()
        user, trips = _add_user(servers, max(changes, 200))
        _measure_native(report, servers, user, trips[:changes], rounds)
        url = servers.stack.supabase_db_url
        with (
            servers.working(1),
            _hooked_changes(servers, user) as (join, leave),
            _connect_as(url, user) as client,
        ):
            # The first ring imports Celery.
            _measure_visibility(client, user, trips[:1], join)
            _measure_visibility(client, user, trips[:1], leave, gone=True)
            for _ in range(rounds):
                seconds = _measure_visibility(client, user, trips[:changes], join)
                report.add("mirror: commit → allowed", "ms", *_milliseconds(seconds))
                seconds = _measure_visibility(client, user, trips[:changes], leave, gone=True)
                report.add("mirror: commit → refused", "ms", *_milliseconds(seconds))
        with (
            servers.running(),
            # As docs/run.md says, the backend rings no bell.
            _hooked_changes(servers, user, mode="off") as (join, leave),
            _connect_as(url, user) as client,
        ):
            # The process connects with its first event.
            _measure_visibility(client, user, trips[:1], join)
            _measure_visibility(client, user, trips[:1], leave, gone=True)
            for _ in range(rounds):
                seconds = _measure_visibility(client, user, trips[:changes], join)
                report.add("mirror run: commit → allowed", "ms", *_milliseconds(seconds))
                seconds = _measure_visibility(client, user, trips[:changes], leave, gone=True)
                report.add("mirror run: commit → refused", "ms", *_milliseconds(seconds))
        chains: list[tuple[str, Callable[[Servers], AbstractContextManager[None]], Mode]] = [
            ("bare chain", bare_chain.listening, "off"),
            ("bare chain in Celery", bare_chain.rung, "thread"),
        ]
        for name, chain, mode in chains:
            with (
                chain(servers),
                _hooked_changes(servers, user, mode=mode) as (join, leave),
                _connect_as(url, user) as client,
            ):
                # The worker connects with its first task.
                _measure_visibility(client, user, trips[:1], join)
                _measure_visibility(client, user, trips[:1], leave, gone=True)
                for _ in range(rounds):
                    seconds = _measure_visibility(client, user, trips[:changes], join)
                    report.add(f"{name}: commit → allowed", "ms", *_milliseconds(seconds))
                    _measure_visibility(client, user, trips[:changes], leave, gone=True)
        with (
            servers.working(2),
            _hooked_changes(servers, user) as (join, leave),
            _connect_as(url, user) as client,
        ):
            for _ in range(rounds):
                _measure_revocations(report, servers, client, user, trips, (join, leave), backlog)
        # Last: to drop its database causes a checkpoint, after which writes take longer.
        _measure_native(report, servers, user, trips[:changes], rounds, policies=True)
    native_, ours = "native: commit → visible", "mirror: commit → allowed"
    single, bare = "mirror run: commit → allowed", "bare chain: commit → allowed"
    report.ratio("mirror run: commit → allowed, p50, to native", single, native_, at_most=5)
    report.ratio("the same, p99", single, native_, at_most=5, by=lambda figure: figure.p99)
    allowed = "native: commit → allowed"
    report.ratio("the same, p50, to native under policies", single, allowed, at_most=5)
    p99 = "the same, p99, to native under policies"
    report.ratio(p99, single, allowed, at_most=5, by=lambda figure: figure.p99)
    report.ratio("mirror run to the bare chain, p50", single, bare, at_most=1.5)
    report.ratio("the bare chain to native, p50", bare, native_, at_most=5)
    report.ratio(
        "Celery to the bare chain in Celery, p50",
        ours,
        "bare chain in Celery: commit → allowed",
        at_most=1.5,
    )
    report.ratio("mirror run to Celery: commit → allowed, p50", single, ours, at_most=1)
    report.ratio(
        "a revocation behind a backlog of grants, p99, to the same without",
        "a revocation, behind a backlog",
        "a revocation, idle",
        at_most=2,
        by=lambda figure: figure.p99,
    )


def _measure_native(
    report: Report,
    servers: Servers,
    user: UUID,
    trips: list[UUID],
    rounds: int,
    *,
    policies: bool = False,
) -> None:
    """Measure native replication for a superuser, or under the policies of the mirror's clients."""
    name = "native: commit → allowed" if policies else "native: commit → visible"
    with native(servers, policies=policies) as subscription, ExitStack() as stack:
        client = subscription.connection
        if policies:
            url = servers.stack.target.url(DATABASE, user=supabase.OWNER)
            client = stack.enter_context(_connect_as(url, user))
        join, leave = stack.enter_context(_plain_changes(servers, user))
        for _ in range(rounds):
            seconds = _measure_visibility(client, user, trips, join)
            report.add(name, "ms", *_milliseconds(seconds))
            _measure_visibility(client, user, trips, leave, gone=True)


def _measure_revocations(
    report: Report,
    servers: Servers,
    client: Connection,
    user: UUID,
    trips: list[UUID],
    changes: tuple[Change, Change],
    backlog: int,
) -> None:
    join, leave = changes
    some = trips[:200]
    _measure_visibility(client, user, some, join)
    report.add(
        "a revocation, idle",
        "ms",
        *_milliseconds(_measure_visibility(client, user, some, leave, gone=True)),
    )
    _measure_visibility(client, user, some, join)
    servers.primary.execute(
        "insert into mirror.outbox (lane, mapping, key)"
        " select 1, 'trip_memberships', array[trip_id::text, user_id::text]"
        " from trip_memberships order by random() limit %s",
        [backlog],
    )
    servers.ring()
    seconds = _measure_visibility(client, user, some, leave, gone=True)
    report.add("a revocation, behind a backlog", "ms", *_milliseconds(seconds))
    servers.wait_for_drain()


def _add_user(servers: Servers, trips: int) -> tuple[UUID, list[UUID]]:
    """Add a user without trips; return the user's id, and the ids of trips to join."""
    found = servers.primary.execute(
        "insert into users (id, email, username)"
        " values (gen_random_uuid(), 'new@example.com', 'new') returning id"
    ).fetchone()
    assert found is not None  # noqa: S101 - RETURNING returns
    rows = servers.primary.execute("select id from trips order by id limit %s", [trips]).fetchall()
    servers.load()
    return UUID(str(found[0])), [UUID(str(row[0])) for row in rows]


@contextmanager
def _plain_changes(servers: Servers, user: UUID) -> Iterator[tuple[Change, Change]]:
    engine = servers.engine()

    def changing(statement: TextClause) -> Change:
        def change(trip: UUID) -> float:
            with Session(engine) as session:
                session.execute(statement, {"trip": trip, "user": user})
                session.commit()
            return time.perf_counter()

        return change

    yield changing(JOIN), changing(LEAVE)
    engine.dispose()


@contextmanager
def _hooked_changes(
    servers: Servers, user: UUID, mode: Mode = "thread"
) -> Iterator[tuple[Change, Change]]:
    engine = servers.engine()
    settings = DoorbellSettings(redis_url=servers.stack.redis_url, mode=mode)
    hooks = Hooks(registry, Doorbell(settings))

    def changing(statement: TextClause, lane: Literal["revocation", "grant"]) -> Change:
        def change(trip: UUID) -> float:
            with Session(engine) as session:
                session.execute(statement, {"trip": trip, "user": user})
                hooks.changed(session, "trip_memberships", (trip, user), lane)
                session.commit()
            return time.perf_counter()

        return change

    yield changing(JOIN, "grant"), changing(LEAVE, "revocation")
    engine.dispose()


@contextmanager
def _connect_as(url: str, user: UUID) -> Iterator[Connection]:
    """Yield a connection to a target with the rights of a user."""
    with psycopg.connect(url, autocommit=True) as client:
        claims = json.dumps({"sub": str(user), "role": "authenticated"})
        client.execute("select set_config('request.jwt.claims', %s, false)", [claims])
        client.execute("set role authenticated")
        yield client


def _measure_visibility(
    client: Connection, user: UUID, trips: list[UUID], change: Change, *, gone: bool = False
) -> list[float]:
    """Change each trip, a hundred a second; return for each the seconds until the client sees it.

    `gone`: the client no longer sees a trip after its change.
    """
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
            visible = {row[0] for row in rows}
            seen.update(dict.fromkeys((t for t in waiting if (t in visible) is not gone), now))
        time.sleep(0.0005)
        if time.monotonic() > deadline:
            raise AssertionError(f"{len(trips) - len(seen)} changes never became visible")
    writer.join()
    return [seen[trip] - committed[trip] for trip in trips]


def _milliseconds(seconds: list[float]) -> list[float]:
    return [value * 1000 for value in seconds]
