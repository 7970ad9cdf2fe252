"""A worker that has just drained waits a moment for the next ring, without a Celery message."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
import redis

from mirror.capture.doorbell import (
    _WAITING,
    _WOKEN,
    QUEUE,
    Doorbell,
    DoorbellSettings,
    acknowledge_ring,
    wait_for_ring,
)
from mirror.devstack import RedisServer
from mirror.settings import load_settings
from mirror.worker import chores
from mirror.worker.chores import Worker
from tests.support.databases import TestDatabase
from tests.support.waiting import until

LONG = 60.0


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """The test's own connection to Redis."""
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
def bell(redis_server: RedisServer) -> Doorbell:
    """A backend's doorbell that rings in the calling thread."""
    return Doorbell(DoorbellSettings(redis_url=redis_server.url, mode="inline"))


@contextmanager
def waiting(client: redis.Redis, seconds: float = LONG) -> Iterator[list[bool]]:
    """Wait for a ring in another thread; the list has the result at the end."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(wait_for_ring(client, seconds)))
    thread.start()
    until(lambda: client.exists(_WAITING))
    yield answers
    thread.join(LONG)


def test_a_ring_wakes_the_worker_that_waits(client: redis.Redis, bell: Doorbell) -> None:
    """It publishes no message; once the worker works, the next ring does."""
    with waiting(client) as answers:
        bell.ring()
    assert answers == [True]
    assert client.llen(QUEUE) == 0
    acknowledge_ring(client)
    bell.ring()
    assert client.llen(QUEUE) == 1


def test_a_ring_at_the_last_moment_is_not_lost(
    client: redis.Redis, bell: Doorbell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes after the wait has ended without one, and before the worker says so."""
    wait = client.brpop

    def wait_too_short(keys: list[str], seconds: float) -> object:
        answer = wait(keys, seconds)
        bell.ring()
        return answer

    monkeypatch.setattr(client, "brpop", wait_too_short)
    assert wait_for_ring(client, 0.01)
    assert not client.exists(_WAITING, _WOKEN)


def test_only_one_worker_waits(client: redis.Redis, bell: Doorbell) -> None:
    """All others are free for messages."""
    with waiting(client):
        assert not wait_for_ring(client, LONG)
        bell.ring()


@pytest.mark.parametrize("left", ["a ring", "another message"])
def test_no_worker_waits_while_a_message_does(
    client: redis.Redis, bell: Doorbell, left: str
) -> None:
    """With one process, the message could not be taken meanwhile."""
    if left == "a ring":
        bell.ring()
        # Celery has taken it, and no process of the pool was free.
        client.delete(QUEUE)
    else:
        client.lpush(QUEUE, "beat's")
    assert not wait_for_ring(client, LONG)
    assert not client.exists(_WAITING)


def test_a_worker_that_died_while_it_waited_holds_no_rings_for_long(
    client: redis.Redis, bell: Doorbell
) -> None:
    """The key that says that it waits expires."""
    client.eval("return redis.call('set', KEYS[1], '1', 'px', 50)", 1, _WAITING)
    until(lambda: not client.exists(_WAITING))
    bell.ring()
    assert client.llen(QUEUE) == 1


@pytest.mark.parametrize("rung", [False, True])
def test_a_wait_that_redis_refuses_is_over(
    client: redis.Redis,
    bell: Doorbell,
    monkeypatch: pytest.MonkeyPatch,
    rung: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """A ring that came meanwhile counts; the next one publishes a message again."""

    def refuse(*_: object) -> None:
        if rung:
            bell.ring()
        raise redis.ResponseError

    monkeypatch.setattr(client, "brpop", refuse)
    assert wait_for_ring(client, LONG) is rung
    acknowledge_ring(client)
    bell.ring()
    assert client.llen(QUEUE) == 1
    assert not client.exists(_WAITING)


def test_a_drain_is_followed_by_others_for_the_rings_of_a_moment(
    redis_server: RedisServer,
    primary: TestDatabase,
    target: TestDatabase,
    client: redis.Redis,
    bell: Doorbell,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second change rings while the worker waits."""
    monkeypatch.setattr(chores, "_MOMENT", LONG)
    monkeypatch.setattr(chores, "_MOMENTS", LONG)
    stopping = threading.Event()
    settings = load_settings(
        primary_database_url=primary.url,
        supabase_db_url=target.url,
        redis_url=redis_server.url,
    )
    worker = Worker(lambda: settings, stopping=stopping.is_set)

    def add() -> str:
        key = str(uuid4())
        primary.query(
            "insert into users (id, email, username) values (%s, %s, 'a')", key, f"{key}@b.example"
        )
        primary.query(
            "insert into mirror.outbox (lane, mapping, key) values (1, 'users', array[%s])", key
        )
        return key

    def work() -> None:
        worker.run_drains()
        worker.drain.close()

    add()
    working = threading.Thread(target=work)
    working.start()
    until(lambda: client.exists(_WAITING))
    key = add()
    stopping.set()
    bell.ring()
    working.join(LONG)
    # There is no Celery here that could take a message.
    assert target.value("select count(*) from public.users where id = %s", key) == 1
