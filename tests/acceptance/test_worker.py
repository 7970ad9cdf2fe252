"""The real Celery worker between real servers."""

import json
from pathlib import Path

import pytest
import redis
from sqlalchemy.orm import Session

from examples.trip_chat import services
from mirror import hooks
from mirror.devstack import RedisServer
from tests.acceptance.conftest import StartWorker
from tests.support.claimed import suspected
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory, UserFactory
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def hooks_ring(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the module's hooks, which the example calls, the URL of the test's Redis."""
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    hooks.default.cache_clear()


def members(target: TestDatabase) -> int:
    """Return how many memberships the target holds."""
    return int(target.value("select count(*) from trip_memberships"))


def backlog(session: Session, primary: TestDatabase, count: int, *, times: int = 1) -> None:
    """Make members, and `times` events for each without a ring."""
    MembershipFactory.create_batch(count)
    session.commit()
    primary.query(
        "insert into mirror.outbox (lane, mapping, key)"
        " select 1, 'trip_memberships', array[trip_id::text, user_id::text]"
        " from trip_memberships, generate_series(1, %s)",
        times,
    )


@pytest.mark.parametrize("app", ["mirror.worker", "tasks"])
def test_a_hook_wakes_the_worker_without_beat(
    start_worker: StartWorker,
    session: Session,
    primary: TestDatabase,
    target: TestDatabase,
    app: str,
) -> None:
    """The ring alone brings the change to the target, with the wheel's app and the repository's.

    A CELERY_BROKER_URL in the environment belongs to another app, so the worker ignores it.
    """
    start_worker(app=app, beat="no", CELERY_BROKER_URL="redis://127.0.0.1:9/0")
    user = UserFactory()
    session.flush()
    trip = services.create_trip(session, user.id, "Lisbon")
    session.commit()
    until(lambda: members(target) == 1)
    services.remove_member(session, trip.id, user.id)
    session.commit()
    until(lambda: members(target) == 0)
    assert primary.query("select split_part(name, '@', 1) from mirror.heartbeats") == [("drain",)]


def test_a_worker_that_starts_mirrors_what_waits_without_a_ring(
    start_worker: StartWorker, session: Session, primary: TestDatabase, target: TestDatabase
) -> None:
    """Rings of the time without a worker are lost, and beat may not run yet."""
    backlog(session, primary, 1)
    start_worker(beat="no")
    until(lambda: members(target) == 1)


def test_a_worker_on_a_primary_that_is_not_migrated_says_so_when_it_starts(
    start_worker: StartWorker, primary: TestDatabase, worker_log: Path
) -> None:
    """It is ready for Celery, but not for work; a variable that nothing reads is named, too."""
    primary.query("drop schema mirror cascade")
    start_worker(beat="no", MIRROR_BATCH_SIZ="7")
    until(lambda: "mirror migrate primary" in worker_log.read_text())
    assert "is MIRROR_BATCH_SIZE meant?" in worker_log.read_text()


def test_beat_finds_events_whose_ring_was_lost(
    start_worker: StartWorker,
    session: Session,
    primary: TestDatabase,
    target: TestDatabase,
    recorder: hooks.Hooks,
) -> None:
    """An event whose ring was lost is mirrored at the next sweep."""
    start_worker(MIRROR_SWEEP_SECONDS="1")
    member = MembershipFactory()
    session.flush()
    recorder.changed(session, "trip_memberships", (member.trip_id, member.user_id))
    session.commit()
    until(lambda: members(target) == 1)
    # Each part records that it is at work, for `mirror doctor`.
    noted = "select array_agg(split_part(name, '@', 1) order by name) from mirror.heartbeats"
    until(lambda: primary.value(noted) == ["drain", "sweep"])


def test_a_night_that_beat_slept_through_is_made_up_once(
    start_worker: StartWorker, primary: TestDatabase, worker_log: Path
) -> None:
    """Beat was down at the time of the reconcile and of the purge; several workers run now."""
    primary.query("update mirror.migrations set applied_at = now() - interval '3 days'")
    start_worker(MIRROR_SWEEP_SECONDS="1", concurrency="2")
    until(lambda: '"purged"' in worker_log.read_text())
    until(lambda: '"reconciled"' in worker_log.read_text())
    primary.query("delete from mirror.heartbeats where name like 'sweep@%'")
    purges = "select count(*) from mirror.heartbeats where name like 'purge@%'"
    until(lambda: primary.value(purges))
    assert primary.query("select started_by, outcome from mirror.runs") == [("beat", "in line")]
    assert worker_log.read_text().count('"purged"') == 1


def test_nothing_is_lost_when_redis_dies(
    start_worker: StartWorker, session: Session, target: TestDatabase, redis_server: RedisServer
) -> None:
    """The backend works while Redis is gone; the worker catches up when it is back."""
    start_worker(MIRROR_SWEEP_SECONDS="1")
    redis_server.kill()
    user = UserFactory()
    session.flush()
    services.create_trip(session, user.id, "Lisbon")
    session.commit()
    redis_server.restart()
    until(lambda: members(target) == 1)


def test_nothing_is_lost_when_the_worker_is_killed(
    start_worker: StartWorker, primary: TestDatabase, session: Session, target: TestDatabase
) -> None:
    """Killed in the middle of a backlog, it leaves the rest to the next worker."""
    worker = start_worker(MIRROR_SWEEP_SECONDS="1", MIRROR_BATCH_SIZE="2")
    backlog(session, primary, 40)
    until(lambda: members(target) > 0)
    worker.kill()
    start_worker(MIRROR_SWEEP_SECONDS="1", MIRROR_BATCH_SIZE="2")
    until(lambda: members(target) == 40)
    until(lambda: primary.value("select count(*) from mirror.outbox") == 0)
    until(lambda: primary.value("select count(*) from mirror.retries") == 0)


def test_a_stop_signal_lets_the_worker_finish(
    start_worker: StartWorker, primary: TestDatabase, session: Session, target: TestDatabase
) -> None:
    """A deployment's SIGTERM during a drain loses no event and counts as no failure of an event."""
    worker = start_worker(MIRROR_SWEEP_SECONDS="1", MIRROR_BATCH_SIZE="2")
    backlog(session, primary, 40)
    until(lambda: members(target) > 0)
    worker.stop()
    assert primary.value("select count(*) from mirror.retries") == 0
    assert suspected(primary) == 0
    waiting = primary.value("select count(*) from mirror.outbox where mapping = 'trip_memberships'")
    assert members(target) == 40 - waiting


def test_two_processes_share_a_backlog(
    start_worker: StartWorker, primary: TestDatabase, session: Session, target: TestDatabase
) -> None:
    """A full batch calls the other process to help; no event is applied twice or left."""
    backlog(session, primary, 60, times=20)
    start_worker(concurrency="2", beat="no", MIRROR_BATCH_SIZE="5")
    until(lambda: primary.value("select count(*) from mirror.outbox") == 0)
    assert members(target) == 60


def test_an_outage_of_the_target_delays_and_loses_nothing(
    start_worker: StartWorker, session: Session, primary: TestDatabase, target: TestDatabase
) -> None:
    """Events that fail because the target is away wait, and none is buried."""
    target.query("revoke execute on function public.mirror_apply(text) from postgres")
    target.query("alter function mirror.apply(jsonb) rename to apply_away")
    start_worker(MIRROR_SWEEP_SECONDS="1")
    user = UserFactory()
    session.flush()
    services.create_trip(session, user.id, "Lisbon")
    session.commit()
    until(lambda: primary.value("select count(*) from mirror.outbox") > 0)
    target.query("alter function mirror.apply_away(jsonb) rename to apply")
    target.query("grant execute on function public.mirror_apply(text) to postgres")
    until(lambda: members(target) == 1)
    assert primary.value("select count(*) from mirror.retries") == 0


def test_logs_are_json_without_personal_data(
    start_worker: StartWorker, session: Session, target: TestDatabase, worker_log: Path
) -> None:
    """Logs hold ids and counts, also after errors: no address, no name, no password."""
    worker = start_worker()
    user = UserFactory(email="ada@example.com", username="ada-lovelace")
    session.flush()
    hooks.user_created(session, user.id)
    services.create_trip(session, user.id, "Secret Harbour")
    session.commit()
    until(lambda: members(target) == 1)
    target.query("create unique index one_name on users ((1)) where username = 'ada-lovelace'")
    other = UserFactory(username="ada-lovelace")
    session.flush()
    hooks.user_created(session, other.id)
    session.commit()
    until(lambda: "event set apart" in worker_log.read_text())
    worker.stop()
    text = worker_log.read_text()
    for secret in ("ada@example.com", "ada-lovelace", "Secret Harbour", target.url):
        assert secret not in text
    events = [json.loads(line)["event"] for line in text.splitlines() if line.startswith("{")]
    assert "drained" in events


def test_a_worker_without_settings_says_which_is_missing(
    start_worker: StartWorker, worker_log: Path
) -> None:
    """A malformed setting stops the start, with its name."""
    worker = start_worker(wait=False, MIRROR_BATCH_SIZE="0")
    until(lambda: not worker.alive)
    assert "MIRROR_BATCH_SIZE" in worker_log.read_text()


def test_messages_lie_in_a_queue_of_our_own(
    session: Session, redis_server: RedisServer, target: TestDatabase, start_worker: StartWorker
) -> None:
    """The broker is shared with another Celery app, whose messages the worker does not take."""
    client = redis.Redis.from_url(redis_server.url)
    client.lpush("celery", "somebody else's message")
    start_worker(beat="no")
    user = UserFactory()
    session.flush()
    services.create_trip(session, user.id, "Lisbon")
    session.commit()
    until(lambda: members(target) == 1)
    assert client.llen("celery") == 1
    client.close()
