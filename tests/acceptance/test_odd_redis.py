"""No answer and no item of Redis ends a worker or beat."""

import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from mirror.capture.doorbell import KEY, QUEUE, Doorbell, DoorbellSettings
from mirror.devstack import RedisServer
from tests.acceptance.conftest import StartWorker
from tests.support.waiting import until


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """The test's own connection to Redis."""
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
def ring(redis_server: RedisServer) -> Callable[[], None]:
    """Return a function that rings; only a worker's answer ends the silence after it."""
    settings = DoorbellSettings(redis_url=redis_server.url, mode="inline", quiet_seconds=3600)
    return Doorbell(settings).ring


def load_slowly(client: Any, directory: Path, noticed: Callable[[], bool]) -> None:
    """Make Redis load its data, as after a start, until the worker has noticed."""
    with (
        RedisServer.start(directory / "origin") as origin,
        redis.Redis.from_url(origin.url) as other,
    ):
        for number in range(200):
            other.set(f"key {number}", secrets.token_bytes(2048))
        client.config_set("loading-process-events-interval-bytes", 1024)
        # Microseconds for each key.
        client.config_set("key-load-delay", 50_000)
        client.slaveof("127.0.0.1", origin.port)
        until(noticed)
        client.config_set("key-load-delay", 0)
        until(lambda: client.info("persistence")["loading"] == 0)
        client.slaveof()


def message(**parts: Any) -> str:
    """Return an item of the queue like Celery's, with some parts of it replaced."""
    delivery = {"exchange": "", "routing_key": QUEUE}
    whole = {
        "body": "W1tdLCB7fSwge31d",
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"task": "mirror.drain", "id": "1"},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": "odd",
            "delivery_info": delivery,
        },
    }
    return json.dumps(whole | parts)


ITEMS: dict[str, str | bytes] = {
    "no JSON": "hello",
    "bytes": b"\xff\xfe",
    "deep JSON": "[" * 100_000,
    "null": "null",
    "a number": "7",
    "a text": '"x"',
    "a list": "[]",
    "an object": "{}",
    "no properties": message(properties={}),
    "odd properties": message(properties=[1]),
    "odd headers": message(headers=7),
    "no headers": message(headers={}),
    "another task": message(headers={"task": "elsewhere", "id": "1"}),
    "an odd body": message(body="e30="),
    "a body that is no text": message(body=7),
    "an odd content": message(**{"content-type": "text/odd", "content-encoding": "odd"}),
}


def test_no_item_of_the_queue_ends_the_worker(
    start_worker: StartWorker, client: Any, ring: Callable[[], None]
) -> None:
    """Another program wrote them, or a Celery of another version; each is dropped."""
    worker = start_worker(beat="no")
    for name, item in ITEMS.items():
        client.lpush(QUEUE, item)
        ring()
        until(lambda: not client.exists(KEY))
        assert worker.alive, name
    until(lambda: not client.exists("unacked"))


@pytest.mark.parametrize(
    "fault",
    ["replica", pytest.param("loading", marks=pytest.mark.long), "no memory", "another type"],
)
def test_a_redis_that_refuses_commands_does_not_end_the_worker(
    start_worker: StartWorker,
    client: Any,
    ring: Callable[[], None],
    worker_log: Path,
    tmp_path: Path,
    fault: str,
) -> None:
    """A failover makes it a replica; the worker connects again and again until it is well."""
    worker = start_worker(beat="no")
    until(lambda: not client.exists("unacked"))
    if fault == "replica":
        client.slaveof("127.0.0.1", 1)
        until(lambda: "read only replica" in worker_log.read_text())
        client.slaveof()
    elif fault == "loading":
        load_slowly(client, tmp_path, lambda: "loading the dataset" in worker_log.read_text())
    elif fault == "no memory":
        # The worker takes the message, and cannot keep it until it is acknowledged.
        with client.pipeline(transaction=True) as both:
            both.lpush(QUEUE, message())
            both.config_set("maxmemory", "1")
            both.execute()
        until(lambda: "Connection to broker lost" in worker_log.read_text())
        client.config_set("maxmemory", "0")
    else:
        client.delete(QUEUE)
        client.hset(QUEUE, "odd", "odd")
        until(lambda: "Connection to broker lost" in worker_log.read_text())
        client.delete(QUEUE)
    ring()
    until(lambda: not client.exists(KEY))
    assert worker.alive


def test_beat_needs_one_line_for_a_message_that_it_cannot_send(
    start_worker: StartWorker,
    client: Any,
    redis_server: RedisServer,
    worker_log: Path,
) -> None:
    """It tries every few seconds while Redis is down or refuses; each traceback has 60 lines."""
    worker = start_worker(MIRROR_SWEEP_SECONDS="1")
    client.slaveof("127.0.0.1", 1)
    unsent = "beat's message not sent"
    until(lambda: unsent in worker_log.read_text())
    client.slaveof()
    redis_server.kill()
    before = worker_log.read_text().count(unsent)
    until(lambda: worker_log.read_text().count(unsent) > before)
    redis_server.restart()
    lines = worker_log.read_text().splitlines()
    records = [json.loads(line) for line in lines if line.startswith("{")]
    for record in records:
        if "beat" in record["event"] or record["logger"] in {"celery.beat", "mirror.sync.broker"}:
            assert "exception" not in record, record["event"]
            assert "stack" not in record
            assert "Message Error" not in record["event"]
    assert worker.alive
