"""A worker that has just drained holds the doorbell for a moment: rings reach it without Celery."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest
import redis

from mirror.capture.doorbell import (
    HOLDER,
    KEY,
    QUEUE,
    WOKEN,
    Doorbell,
    DoorbellSettings,
    acknowledge_ring,
)
from mirror.devstack import RedisServer
from mirror.settings import Settings, load_settings
from mirror.worker import chores, holder
from mirror.worker.bells import RedisBell
from mirror.worker.chores import Worker
from mirror.worker.holder import Holder
from tests.support.databases import TestDatabase
from tests.support.waiting import until

ROOT = Path(__file__).parent.parent.parent
LONG = 60.0
# A wait without a ring, in seconds.
SHORT = 0.01


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let no drain count as long, unless the test calls the returned function; no hold expires."""
    ordinary = holder._LONG
    monkeypatch.setattr(holder, "_LONG", LONG)
    monkeypatch.setattr(holder, "_EXPIRES_MS", int(LONG * 1000))
    return lambda: monkeypatch.setattr(holder, "_LONG", ordinary)


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """The test's own connection to Redis."""
    # Longer than any wait.
    with redis.Redis.from_url(redis_server.url, socket_timeout=2 * LONG) as client:
        yield client


@pytest.fixture
def bell(redis_server: RedisServer) -> Doorbell:
    """A backend's doorbell that rings in the calling thread."""
    return Doorbell(DoorbellSettings(redis_url=redis_server.url, mode="inline"))


@pytest.fixture
def make(client: redis.Redis) -> Iterator[Callable[[], Holder]]:
    """Return a function that makes the holder of another process."""
    made: list[Holder] = []

    def make() -> Holder:
        made.append(Holder(client, LONG))
        return made[-1]

    yield make
    for each in made:
        # Its watcher then rests.
        each._hold = None


@pytest.fixture
def one(make: Callable[[], Holder]) -> Holder:
    """A process that may hold."""
    return make()


@pytest.fixture
def settings(redis_server: RedisServer) -> Settings:
    """Those of a worker whose databases are not asked."""
    return load_settings(redis_url=redis_server.url)


@pytest.fixture
def worker_bell(settings: Settings) -> Iterator[RedisBell]:
    """The bell of a worker's process."""
    worker_bell = RedisBell(settings)
    yield worker_bell
    worker_bell._holder._hold = None


@contextmanager
def waiting(one: Holder, client: redis.Redis) -> Iterator[list[bool]]:
    """Wait for a ring in another thread; the list has the result at the end."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(one.wait(LONG)))
    thread.start()
    until(lambda: client.exists(HOLDER))
    yield answers
    thread.join(LONG)


def drains(one: Holder, bell: Doorbell) -> None:
    """Have the calling thread hold, and begin to drain for a ring."""
    assert not one.wait(SHORT)
    bell.ring()
    assert one.wait(LONG)
    one.acknowledge()


# Waiting


def test_a_ring_wakes_the_worker_that_waits(
    one: Holder, client: redis.Redis, bell: Doorbell
) -> None:
    """It publishes no message."""
    with waiting(one, client) as answers:
        bell.ring()
    assert answers == [True]
    assert client.llen(QUEUE) == 0


def test_a_ring_between_a_wait_and_its_end_is_not_lost(
    one: Holder, client: redis.Redis, bell: Doorbell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that is no ring, such as a purge's, ends the hold at that moment."""
    one.acknowledge()

    def wait(waiting: redis.client.Pipeline) -> list[object]:
        _, acknowledge = waiting.command_stack
        client.lpush(QUEUE, "beat's")
        bell.ring()
        answer = client.execute_command(*acknowledge[0])  # type: ignore[no-untyped-call]
        return [None, answer]

    monkeypatch.setattr(redis.client.Pipeline, "execute", wait)
    assert one.wait(SHORT)
    assert not client.exists(HOLDER, WOKEN)


def test_a_worker_holds_from_its_first_drain(
    one: Holder, client: redis.Redis, bell: Doorbell
) -> None:
    """A message of Celery has woken it; the next ring needs none."""
    bell.ring()
    client.delete(QUEUE)
    one.acknowledge()
    bell.ring()
    assert client.llen(QUEUE) == 0
    assert one.wait(LONG)


def test_a_ring_is_acknowledged_when_a_wait_takes_it(
    one: Holder, client: redis.Redis, bell: Doorbell
) -> None:
    """That saves a round trip: the drain that follows asks Redis nothing."""
    assert not one.wait(SHORT)
    bell.ring()
    assert one.wait(LONG)
    assert not client.exists(KEY)
    commands = int(client.info("stats")["total_commands_processed"])
    one.acknowledge()
    assert int(client.info("stats")["total_commands_processed"]) == commands + 1


def test_a_ring_that_comes_while_a_holder_drains_is_for_its_next_wait(
    one: Holder, client: redis.Redis, bell: Doorbell
) -> None:
    """None of them publishes a message, until the holder hands over."""
    drains(one, bell)
    for _ in range(2):
        bell.ring()
        assert client.llen(QUEUE) == 0
        assert one.wait(LONG)
        one.acknowledge()
    one.hand_over()
    bell.ring()
    assert client.llen(QUEUE) == 1
    assert not client.exists(HOLDER, WOKEN)


def test_a_hold_is_renewed_at_each_drain(one: Holder, client: redis.Redis, bell: Doorbell) -> None:
    """It would expire otherwise, because its waits do not begin it again."""
    assert not one.wait(SHORT)
    assert int(client.pttl(HOLDER)) > 0
    client.persist(HOLDER)
    one.acknowledge()
    assert int(client.pttl(HOLDER)) > 0


def test_a_ring_after_the_last_wait_becomes_a_message(
    one: Holder, client: redis.Redis, bell: Doorbell
) -> None:
    """It suppresses others, as any message that no worker has acknowledged."""
    assert not one.wait(SHORT)
    bell.ring()
    one.hand_over()
    assert client.llen(QUEUE) == 1
    assert not client.exists(HOLDER, WOKEN)
    bell.ring()
    assert client.llen(QUEUE) == 1
    acknowledge_ring(client)
    bell.ring()
    assert client.llen(QUEUE) == 2


def test_rings_for_a_holder_do_not_pile_up(
    one: Holder, client: redis.Redis, bell: Doorbell
) -> None:
    """Other workers acknowledge them meanwhile."""
    drains(one, bell)
    for _ in range(3):
        bell.ring()
        acknowledge_ring(client)
    assert client.llen(WOKEN) == 1


def test_a_worker_whose_last_drain_took_long_does_not_hold_during_the_next(
    one: Holder, client: redis.Redis, bell: Doorbell
) -> None:
    """That would probably take long, too, and other workers are idle."""
    drains(one, bell)
    # As if its drain had begun earlier.
    one._last.began -= LONG
    assert not one.wait(SHORT)
    bell.ring()
    assert one.wait(LONG)
    one.acknowledge()
    assert not client.exists(HOLDER)
    bell.ring()
    assert client.llen(QUEUE) == 1
    # A drain that was short is over.
    client.delete(QUEUE, KEY)
    drains(one, bell)
    assert client.exists(HOLDER)


# One holder


def test_only_one_worker_holds(
    one: Holder, make: Callable[[], Holder], client: redis.Redis, bell: Doorbell
) -> None:
    """Other threads and other processes are free for messages, and take no ring from it."""
    other = make()

    def others_cannot() -> None:
        for each in (one, other):
            assert not each.wait(LONG)
            each.acknowledge()
            each.hand_over()
        assert client.get(HOLDER) == token

    with waiting(one, client) as answers:
        token = client.get(HOLDER)
        others_cannot()
        bell.ring()
    assert answers == [True]
    # Its thread has not handed over, so its drain counts as one in progress.
    acknowledge_ring(client)
    bell.ring()
    others_cannot()
    # They have drained, too.
    assert not client.exists(KEY)
    assert client.llen(WOKEN) == 1
    assert client.llen(QUEUE) == 0


@pytest.mark.parametrize("left", ["a ring", "another message"])
def test_no_worker_waits_while_a_message_does(
    one: Holder, client: redis.Redis, bell: Doorbell, left: str
) -> None:
    """With one process, the message could not be taken meanwhile."""
    if left == "a ring":
        bell.ring()
        # Celery has taken it, and no process of the pool was free.
        client.delete(QUEUE)
    else:
        client.lpush(QUEUE, "beat's")
    assert not one.wait(LONG)
    assert not client.exists(HOLDER)


def test_a_holder_waits_no_more_when_a_message_does(
    one: Holder, client: redis.Redis, bell: Doorbell
) -> None:
    """Beat's messages come without a ring."""
    drains(one, bell)
    client.lpush(QUEUE, "beat's")
    one.acknowledge()
    assert not client.exists(HOLDER)
    assert not one.wait(LONG)


def test_without_another_thread_no_worker_holds(
    one: Holder, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its drains would not be watched."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert not one.wait(LONG)
    assert not client.exists(HOLDER)


# A holder that hangs or dies


@pytest.mark.parametrize("begin", ["acknowledge", "wait"])
def test_a_hold_whose_answer_is_lost_is_handed_over(
    one: Holder, client: redis.Redis, bell: Doorbell, monkeypatch: pytest.MonkeyPatch, begin: str
) -> None:
    """Redis has begun it, so a ring that comes publishes no message."""
    ask = one._eval

    def lost(*arguments: str | int) -> object:
        ask(*arguments)  # type: ignore[arg-type]
        raise redis.TimeoutError

    with monkeypatch.context() as patched:
        patched.setattr(one, "_eval", lost)
        with pytest.raises(redis.TimeoutError):
            one.acknowledge() if begin == "acknowledge" else one.wait(SHORT)
    bell.ring()
    assert client.llen(QUEUE) == 0
    one.hand_over()
    assert client.llen(QUEUE) == 1


def test_a_holder_whose_drain_hangs_hands_over(
    one: Holder,
    client: redis.Redis,
    bell: Doorbell,
    patient: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The ring that has come becomes a message, and so do the next ones. Then its watcher rests."""
    drains(one, bell)
    bell.ring()
    assert client.llen(QUEUE) == 0
    patient()
    until(lambda: client.llen(QUEUE) == 1)
    assert not client.exists(HOLDER, WOKEN)
    until(lambda: not one._holding.is_set())
    acknowledge_ring(client)
    bell.ring()
    assert client.llen(QUEUE) == 2
    # The drain ends at last.
    assert not one.wait(LONG)
    monkeypatch.setattr(holder, "_LONG", LONG)
    client.delete(QUEUE, KEY)
    for holds in (False, True):
        drains(one, bell)
        assert client.exists(HOLDER) == holds


def test_a_holder_whose_drain_goes_on_does_not_hand_over(
    one: Holder, client: redis.Redis, bell: Doorbell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its batches is short, and it looks for events again by itself."""
    monkeypatch.setattr(holder, "_LONG", 1.0)
    drains(one, bell)
    bell.ring()
    begun = one._last.began
    while time.monotonic() < begun + 1.5:
        one.go_on()
    assert client.exists(HOLDER)
    assert client.llen(QUEUE) == 0


def test_a_holder_that_waits_long_does_not_hand_over(
    one: Holder, client: redis.Redis, bell: Doorbell, patient: Callable[[], None]
) -> None:
    """Its drain before that is over."""

    class Looks(threading.Event):
        """Counts how often the watcher looks."""

        count = 0

        def wait(self, timeout: float | None = None) -> bool:
            self.count += 1
            return super().wait(timeout)

    one._holding = looks = Looks()
    answers: list[bool] = []

    def work() -> None:
        drains(one, bell)
        answers.append(one.wait(SHORT))
        answers.append(one.wait(LONG))

    working = threading.Thread(target=work)
    working.start()
    until(lambda: answers and one._hold is not None and one._hold.busy_since is None)
    patient()
    seen = looks.count
    until(lambda: looks.count > seen + 5)
    assert client.exists(HOLDER)
    bell.ring()
    working.join(LONG)
    assert answers == [False, True]


def test_a_watcher_ends_no_hold_of_another(
    one: Holder,
    client: redis.Redis,
    bell: Doorbell,
    patient: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hold of a process that was stopped has expired, and another holds when it goes on."""
    given = threading.Event()
    give = one._give

    def give_and_say_so(hold: holder._Hold) -> None:
        give(hold)
        given.set()

    monkeypatch.setattr(one, "_give", give_and_say_so)
    drains(one, bell)
    client.set(HOLDER, "another's")
    bell.ring()
    patient()
    assert given.wait(LONG)
    assert client.get(HOLDER) == b"another's"
    assert client.llen(WOKEN) == 1
    assert client.llen(QUEUE) == 0


def die(client: redis.Redis) -> None:
    """Have the hold of a process that has died expire."""
    client.pexpire(HOLDER, 1)
    until(lambda: not client.exists(HOLDER))


def test_a_ring_for_a_holder_that_died_wakes_the_next_one_that_waits(
    one: Holder, client: redis.Redis, bell: Doorbell
) -> None:
    """It drains for it and does not hold, because messages may have come meanwhile."""
    client.set(HOLDER, "dead")
    bell.ring()
    client.lpush(QUEUE, "beat's")
    assert not one.wait(LONG)
    die(client)
    assert one.wait(LONG)
    assert not client.exists(HOLDER, WOKEN)


def test_a_ring_for_a_holder_that_died_suppresses_no_others(
    client: redis.Redis, bell: Doorbell
) -> None:
    """The next ring publishes a message, which is for both."""
    client.set(HOLDER, "dead")
    bell.ring()
    assert client.llen(QUEUE) == 0
    die(client)
    for _ in range(2):
        bell.ring()
        assert client.llen(QUEUE) == 1
        assert not client.exists(WOKEN)


def test_a_holder_that_was_stopped_for_long_holds_no_more(
    one: Holder, client: redis.Redis, bell: Doorbell
) -> None:
    """Its next drain notices, and its next wait begins to hold again."""
    drains(one, bell)
    die(client)
    bell.ring()
    assert client.llen(QUEUE) == 1
    one.acknowledge()
    assert not one.wait(LONG)
    client.delete(QUEUE)
    drains(one, bell)
    assert client.exists(HOLDER)


def test_a_child_of_a_holder_does_not_hold(redis_server: RedisServer) -> None:
    """It has locks of its own: its parent's may be locked at the moment of the fork."""
    forked = """
import os, sys
from mirror.settings import load_settings
from mirror.worker import holder
from mirror.worker.bells import RedisBell
holder._LONG, holder._EXPIRES_MS = 60, 60000
bell = RedisBell(load_settings(redis_url=sys.argv[1]))
assert not bell.wait(0.01)
token = bell._redis.get("mirror:waiting")
assert token
with bell._holder._lock:
    child = os.fork()
    if child == 0:
        bell.acknowledge()
        bell.hand_over()
        os._exit(0 if not bell.wait(60) else 1)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert bell._redis.get("mirror:waiting") == token
"""
    subprocess.run(
        [sys.executable, "-c", forked, redis_server.url],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=LONG,
    )


# Redis


@pytest.mark.parametrize("rung", [False, True])
def test_a_wait_that_redis_refuses_is_over(
    one: Holder,
    client: redis.Redis,
    bell: Doorbell,
    monkeypatch: pytest.MonkeyPatch,
    rung: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """A ring that came meanwhile becomes a message, and so does the next one."""

    def refuse(*_: object) -> None:
        if rung:
            bell.ring()
        raise redis.ResponseError

    monkeypatch.setattr(redis.client.Pipeline, "execute", refuse)
    assert not one.wait(LONG)
    one.hand_over()
    assert client.llen(QUEUE) == rung
    acknowledge_ring(client)
    bell.ring()
    assert client.llen(QUEUE) == rung + 1
    assert not client.exists(HOLDER)


@pytest.mark.parametrize("holds", [False, True])
def test_a_worker_bears_that_redis_is_down(
    worker_bell: RedisBell,
    client: redis.Redis,
    redis_server: RedisServer,
    holds: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """No call raises."""
    if holds:
        assert not worker_bell.wait(SHORT)
        assert client.exists(HOLDER)
    redis_server.kill()
    worker_bell.acknowledge()
    assert not worker_bell.wait(LONG)
    worker_bell.hand_over()
    worker_bell.ring()


def test_a_watcher_bears_that_redis_is_down(
    worker_bell: RedisBell,
    bell: Doorbell,
    client: redis.Redis,
    redis_server: RedisServer,
    patient: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It cannot hand over then, but it does so the next time."""
    assert not worker_bell.wait(SHORT)
    redis_server.kill()
    patient()
    until(lambda: worker_bell._holder._hold is None)
    redis_server.restart()
    monkeypatch.setattr(holder, "_LONG", LONG)
    client.flushall()
    assert not worker_bell.wait(SHORT)
    bell.ring()
    assert client.llen(WOKEN) == 1
    patient()
    until(lambda: client.llen(QUEUE) == 1)


# The worker


def test_a_ring_for_a_backlog_wakes_another_worker(
    worker_bell: RedisBell, bell: Doorbell, client: redis.Redis
) -> None:
    """Its own worker holds, and would get it."""
    drains(worker_bell._holder, bell)
    worker_bell.ring()
    assert client.llen(QUEUE) == 1
    assert not client.exists(HOLDER, WOKEN)


@pytest.mark.parametrize("end", ["it stops", "an error", "the moment is over"])
def test_a_ring_during_the_last_drain_becomes_a_message(
    settings: Settings,
    worker_bell: RedisBell,
    bell: Doorbell,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    end: str,
) -> None:
    """However the work of the moment ends, no ring is lost."""
    monkeypatch.setattr(chores, "MOMENT", LONG)
    monkeypatch.setattr(chores, "_MOMENTS", LONG)
    stopping = threading.Event()
    worker = Worker(lambda: settings, bell=worker_bell, stopping=stopping.is_set)
    drained: list[bool] = []
    clock = [0.0]
    monkeypatch.setattr(chores, "time", SimpleNamespace(monotonic=lambda: clock[-1]))

    def run_drain(*, from_beat: bool = False) -> bool:
        worker_bell.acknowledge()
        drained.append(from_beat)
        if len(drained) == 2:
            assert client.exists(HOLDER)
            bell.ring()
            assert client.llen(QUEUE) == 0
            if end == "it stops":
                stopping.set()
            elif end == "an error":
                raise ZeroDivisionError
            else:
                clock.append(2 * LONG)
        return True

    def run_drains() -> None:
        try:
            worker.run_drains()
        except ZeroDivisionError:
            drained.append(True)

    monkeypatch.setattr(worker, "run_drain", run_drain)
    working = threading.Thread(target=run_drains)
    working.start()
    until(lambda: client.exists(HOLDER))
    bell.ring()
    working.join(LONG)
    assert drained == [False, False] + [True] * (end == "an error")
    assert client.llen(QUEUE) == 1
    assert not client.exists(HOLDER, WOKEN)


def waits(worker: Worker) -> bool:
    """Tell whether a worker waits for a ring."""
    assert isinstance(worker.bell, RedisBell)
    hold = worker.bell._holder._hold
    return hold is not None and hold.busy_since is None


@pytest.fixture
def work(
    redis_server: RedisServer,
    primary: TestDatabase,
    target: TestDatabase,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[Callable[[], str], threading.Event]]:
    """Start a worker that holds for long; return a function that adds a row, and its end."""
    monkeypatch.setattr(chores, "MOMENT", LONG)
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

    def run() -> None:
        worker.run_drains()
        worker.drain.close()

    add()
    working = threading.Thread(target=run)
    working.start()
    until(lambda: waits(worker))
    yield add, stopping
    working.join(LONG)


def test_a_drain_is_followed_by_others_for_the_rings_of_a_moment(
    work: tuple[Callable[[], str], threading.Event], target: TestDatabase, bell: Doorbell
) -> None:
    """The second change rings while the worker waits."""
    add, stopping = work
    key = add()
    stopping.set()
    bell.ring()
    # There is no Celery here that could take a message.
    until(lambda: target.value("select count(*) from public.users where id = %s", key) == 1)


def test_a_worker_whose_target_hangs_hands_over(
    work: tuple[Callable[[], str], threading.Event],
    target: TestDatabase,
    client: redis.Redis,
    bell: Doorbell,
    patient: Callable[[], None],
) -> None:
    """A change that rings meanwhile has a message, which an idle worker can take."""
    add, stopping = work
    patient()
    with target.connect(autocommit=False) as blocking:
        blocking.execute("lock table public.users")
        key = add()
        bell.ring()
        until(lambda: not client.exists(KEY))
        bell.ring()
        until(lambda: client.llen(QUEUE) == 1)
        assert not client.exists(HOLDER, WOKEN)
        stopping.set()
    until(lambda: target.value("select count(*) from public.users where id = %s", key) == 1)
