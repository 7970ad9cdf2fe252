"""The figures: the state of the mirror, each figure known or Unknown, never guessed."""

import json
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import redis

from mappings.trips import registry
from mirror.capture.doorbell import QUEUE
from mirror.devstack import RedisServer
from mirror.diagnostics.figures import Broker, Figures, Unknown, read_figures
from mirror.diagnostics.primary_figures import Claims, PrimaryFigures
from mirror.diagnostics.status import exit_code, find_faults
from mirror.settings import Settings, load_settings
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_queue, build_source, build_target
from tests.support.databases import TestDatabase

NOWHERE = "postgresql://someone:hunter2@127.0.0.1:9/nothing"
WAITS = """
insert into mirror.outbox (recorded_at, lane, mapping, key)
values (now() - %s::interval, %s, %s, array['a'])
"""
SET_APART = """
insert into mirror.retries
  (id, lane, recorded_at, mapping, key, attempts, due_at, error, buried_at)
values (%s, %s, now() - %s::interval, %s, '{a}', %s, now(), 'Rejected: no', %s)
"""

Read = Callable[..., Figures]


@pytest.fixture
def read(primary: TestDatabase, target: TestDatabase) -> Read:
    """Return a function that reads the figures; keyword arguments change the settings."""

    def read(**changes: Any) -> Figures:
        settings = load_settings(
            **{"primary_database_url": primary.url, "supabase_db_url": target.url, **changes}
        )
        with closing(build_source(settings)) as source, closing(build_target(settings)) as known:
            return read_figures(settings, registry, source, known)

    return read


def of_primary(figures: Figures) -> PrimaryFigures:
    """Return the primary's figures, which must be known."""
    assert isinstance(figures.primary, PrimaryFigures), figures.primary
    return figures.primary


def test_waiting_events_are_counted_by_mapping_and_lane(primary: TestDatabase, read: Read) -> None:
    """Each mapping and lane has the age of its own oldest event."""
    for minutes, lane, mapping in [
        (9, 0, "trips"),
        (5, 0, "users"),
        (7, 1, "users"),
        (2, 0, "users"),
    ]:
        primary.query(WAITS, f"{minutes} min", lane, mapping)
    found = of_primary(read())
    assert [(one.mapping, one.lane, one.events) for one in found.waiting] == [
        ("trips", "revocation", 1),
        ("users", "revocation", 2),
        ("users", "grant", 1),
    ]
    ages = [one.oldest_seconds // 60 for one in found.waiting]
    assert ages == [9, 5, 7]
    assert (found.waiting_in("revocation"), found.waiting_in("grant")) == (3, 1)
    assert found.oldest_seconds == found.waiting[0].oldest_seconds


def test_a_claim_in_progress_is_counted_and_its_events_still_wait(
    primary: TestDatabase, read: Read, settings: Settings
) -> None:
    """They wait until they are in the target."""
    assert of_primary(read()).claims == Claims(0, 0, None)
    primary.query(WAITS, "1 s", 0, "users")
    primary.query(WAITS, "1 s", 0, "trips")
    with closing(build_queue(settings)) as queue:
        claim = queue.claim(10)
        assert claim is not None
        found = of_primary(read())
        assert (found.claims.claims, found.claims.events) == (1, 2)
        assert found.claims.oldest_seconds is not None
        assert found.waiting_in("revocation") == 2
        claim.release()


def test_events_that_are_set_apart_are_counted_by_mapping_and_lane(
    primary: TestDatabase, read: Read
) -> None:
    """A revocation that is retried is a revocation all the same; each failure has its error.

    One that waits without an attempt, such as after its worker's crash, is stuck, too.
    """
    primary.query(SET_APART, 1, 0, "5 min", "users", 3, None)
    primary.query(SET_APART, 2, 0, "1 s", "users", 1, None)
    primary.query(SET_APART, 3, 0, "9 min", "users", 5, "now")
    primary.query(SET_APART, 4, 1, "7 min", "trips", 0, None)
    figures = read()
    found = of_primary(figures)
    assert [
        (one.mapping, one.lane, one.retrying, one.stuck, one.buried) for one in found.set_apart
    ] == [("users", "revocation", 2, 1, 1), ("trips", "grant", 1, 1, 0)]
    assert [one.oldest_seconds // 60 for one in found.set_apart] == [9, 7]
    worst = found.failures[0]
    assert (worst.id, worst.buried, worst.error) == (3, True, "Rejected: no")
    assert list(find_faults(figures)) == ["buried", "stuck"]
    assert exit_code(figures) == 1


def test_events_that_no_worker_takes_are_a_fault_after_a_minute(
    primary: TestDatabase, read: Read
) -> None:
    """Within a minute a deploy may still bring the worker."""
    primary.query(SET_APART, 1, 0, "1 s", "invoices", 0, None)
    primary.query("update mirror.retries set unclaimed = true")
    assert find_faults(read()) == {}
    primary.query("update mirror.retries set recorded_at = now() - interval '2 min'")
    assert find_faults(read()) == {"unclaimed": "primary: no worker takes events of invoices"}


def test_an_event_that_waits_for_long_is_a_fault(primary: TestDatabase, read: Read) -> None:
    """All workers may have other declarations than the target; then they leave the events there."""
    primary.query(WAITS, "4 min", 0, "trips")
    assert find_faults(read()) == {}
    primary.query(WAITS, "6 min", 1, "users")
    waits = {"outbox-late": "primary: the oldest event has been waiting for 6 min"}
    assert find_faults(read()) == waits
    assert exit_code(read()) == 1
    # Beat wakes a worker less often, so events wait longer.
    assert find_faults(read(sweep_seconds=600)) == {}


def test_the_parts_at_work_and_both_sides_versions_are_known(
    drain: Drain, primary: TestDatabase, read: Read
) -> None:
    """A heartbeat, the migrations and the digests."""
    drain.run()
    figures = read()
    assert list(of_primary(figures).heartbeats) == ["drain"]
    assert not isinstance(figures.target, Unknown)
    assert not isinstance(figures.primary_migrations, Unknown)
    assert "0001_outbox" in figures.primary_migrations
    assert {"0001_engine", "model_trips"} <= set(figures.target.migrations)
    assert figures.digests == dict.fromkeys(figures.declared, "current")
    assert exit_code(figures) == 0


def test_messages_that_no_worker_has_taken_are_counted(
    redis_server: RedisServer, read: Read
) -> None:
    """If Redis does not answer, their number is unknown; without REDIS_URL there is no broker."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.lpush(QUEUE, "a", "b")
    assert read(redis_url=redis_server.url).broker == Broker(messages=2)
    redis_server.kill()
    figures = read(redis_url=redis_server.url)
    assert list(figures.unknown) == ["broker"]
    assert exit_code(figures) == 4
    assert read().broker is None


@pytest.fixture(params=["primary", "target", "broker"])
def broken(request: pytest.FixtureRequest, read: Read) -> tuple[str, Figures]:
    """A part that does not answer, and the figures."""
    changes = {
        "primary": {"primary_database_url": NOWHERE},
        "target": {"supabase_db_url": NOWHERE},
        "broker": {"redis_url": "redis://:hunter2@127.0.0.1:9/0"},
    }
    return request.param, read(**changes[request.param])


def test_a_part_that_does_not_answer_is_unknown_and_never_well(
    broken: tuple[str, Figures],
) -> None:
    """The others are known; the reason has no secret."""
    part, figures = broken
    missing = {"primary": {"primary", "primary_migrations"}}.get(part, {part})
    assert set(figures.unknown) == missing
    assert find_faults(figures) == {}
    assert exit_code(figures) == 4
    printed = json.loads(json.dumps(figures.as_json()))
    parts = {name: part for name, part in printed.items() if isinstance(part, dict)}
    assert {name for name, part in parts.items() if "unknown" in part} == missing
    assert "hunter2" not in str(printed)


@pytest.mark.parametrize("table", ["outbox", "retries", "runs", "heartbeats"])
def test_a_figure_whose_table_is_missing_is_unknown(
    primary: TestDatabase, read: Read, table: str
) -> None:
    """An old primary lacks tables; its version is known all the same."""
    primary.query(f"drop table mirror.{table}")
    figures = read()
    assert list(figures.unknown) == ["primary"]
    assert "0001_outbox" in figures.as_json()["primary_migrations"]
    assert exit_code(figures) == 4
