"""The doorbell reaches Redis if it is up, and a commit never waits for it if it is not."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pytest
import redis
from celery import Celery
from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from mappings.trips import registry
from mirror import hooks
from mirror.capture.doorbell import (
    KEY,
    QUEUE,
    TASK,
    Doorbell,
    DoorbellSettings,
    _Ringer,
    acknowledge_ring,
)
from mirror.devstack import RedisServer
from tests.support.databases import TestDatabase
from tests.support.waiting import until

ROOT = Path(__file__).parent.parent.parent
# Longer than any test may take, so a commit that waits for Redis makes its test fail.
LONG = 300.0


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """The test's own connection to Redis."""
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
def make(redis_server: RedisServer) -> Iterator[Callable[..., hooks.Hooks]]:
    """Return a function that makes hooks which ring the test's Redis."""
    made: list[hooks.Hooks] = []

    def make(**settings: Any) -> hooks.Hooks:
        wanted = DoorbellSettings(**{"redis_url": redis_server.url, "seconds": LONG, **settings})
        made.append(hooks.Hooks(registry, Doorbell(wanted)))
        return made[-1]

    yield make
    redis_server.resume()
    for recorder in made:
        # If the server is gone, the rings in progress end at once.
        recorder.doorbell.flush(30)
        for ringer in recorder.doorbell._ringers.values():
            ringer._disconnect()


def commit(recorder: hooks.Hooks, engine: Engine) -> None:
    """Change a row, as a request does."""
    with Session(engine) as session:
        session.execute(text("select 1"))
        recorder.changed(session, "users", uuid4())
        session.commit()


def messages(client: redis.Redis) -> list[Any]:
    """Return the messages in the worker's queue, oldest first."""
    return [json.loads(body) for body in reversed(client.lrange(QUEUE, 0, -1))]


def events(primary: TestDatabase) -> int:
    """Return how many events are in the outbox."""
    return int(primary.value("select count(*) from mirror.outbox"))


def script(
    text: str, *arguments: str, timeout: float = 120, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a Python script in its own process."""
    return subprocess.run(
        [sys.executable, "-c", text, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


# Rings


def test_rings_coalesce_until_the_drain_answers(
    make: Callable[..., hooks.Hooks],
    engine: Engine,
    client: redis.Redis,
    primary: TestDatabase,
) -> None:
    """There is one message, for any number of commits and of processes that ring."""
    one, other = make(), make()
    for recorder in (one, other, one):
        for _ in range(5):
            commit(recorder, engine)
        assert recorder.doorbell.flush(30)
    assert len(messages(client)) == 1
    assert events(primary) == 15

    acknowledge_ring(client)
    commit(one, engine)
    assert one.doorbell.flush(30)
    assert len(messages(client)) == 2


def test_the_message_is_the_drains_task_without_data(
    make: Callable[..., hooks.Hooks], engine: Engine, client: redis.Redis
) -> None:
    """It is in the worker's queue, with the name of its task and no arguments."""
    recorder = make()
    commit(recorder, engine)
    assert recorder.doorbell.flush(30)
    (message,) = messages(client)
    assert message["headers"]["task"] == TASK == "mirror.drain"
    assert message["properties"]["delivery_info"]["routing_key"] == QUEUE == "mirror"
    assert message["headers"]["argsrepr"] == "()"
    assert message["headers"]["kwargsrepr"] == "{}"


def test_an_unanswered_ring_silences_others_for_a_limited_time(
    make: Callable[..., hooks.Hooks], engine: Engine, client: redis.Redis
) -> None:
    """Its message may have been lost with a worker."""
    recorder = make(quiet_seconds=7)
    commit(recorder, engine)
    assert recorder.doorbell.flush(30)
    assert 0 < int(client.pttl(KEY)) <= 7000


def test_nothing_rings_for_a_rollback_or_for_a_commit_without_events(
    make: Callable[..., hooks.Hooks], engine: Engine, client: redis.Redis
) -> None:
    """Each ring costs a worker a query."""
    recorder = make()
    with Session(engine) as session:
        session.execute(text("select 1"))
        recorder.changed(session, "users", uuid4())
        session.rollback()
        session.execute(text("select 1"))
        session.commit()
    assert recorder.doorbell._ringers == {}


# Redis is not available


@pytest.mark.parametrize("url", [None, "redis://127.0.0.1:1/0", "redis://nowhere.invalid:6379/0"])
@pytest.mark.parametrize("mode", ["thread", "inline"])
def test_without_redis_the_commit_succeeds(
    make: Callable[..., hooks.Hooks],
    engine: Engine,
    primary: TestDatabase,
    url: str | None,
    mode: str,
) -> None:
    """Redis is not configured, does not listen, or has an unknown host name."""
    recorder = make(redis_url=url, mode=mode, seconds=1)
    commit(recorder, engine)
    assert events(primary) == 1
    assert recorder.doorbell.flush(30)


def test_a_commit_does_not_wait_for_a_redis_that_hangs(
    make: Callable[..., hooks.Hooks],
    engine: Engine,
    primary: TestDatabase,
    redis_server: RedisServer,
    client: redis.Redis,
) -> None:
    """The commit returns while the ring still waits; the ring arrives when Redis resumes."""
    recorder = make()
    redis_server.pause()
    for _ in range(3):
        commit(recorder, engine)
    assert not recorder.doorbell.flush(0)
    assert events(primary) == 3
    redis_server.resume()
    assert recorder.doorbell.flush(30)
    assert len(messages(client)) == 1


def test_an_async_commit_does_not_wait_either(
    make: Callable[..., hooks.Hooks], primary: TestDatabase, redis_server: RedisServer
) -> None:
    """The event loop continues while the ring waits in its thread."""
    recorder = make()
    redis_server.pause()

    async def main() -> None:
        engine = create_async_engine(primary.url.replace("://", "+asyncpg://", 1))
        for place in (AsyncSession(engine), engine.connect()):
            async with place as session:
                await session.execute(text("select 1"))
                recorder.changed(session, "users", uuid4())
                await session.commit()
        assert not recorder.doorbell.flush(0)
        await engine.dispose()

    asyncio.run(main())
    assert events(primary) == 2


def test_rings_succeed_again_after_redis_hung(
    make: Callable[..., hooks.Hooks],
    engine: Engine,
    redis_server: RedisServer,
    client: redis.Redis,
) -> None:
    """Redis then carries the ring out that timed out: the key and the message, never one alone."""
    recorder = make(seconds=0.2)
    commit(recorder, engine)
    assert recorder.doorbell.flush(30)
    acknowledge_ring(client)
    redis_server.pause()
    commit(recorder, engine)
    assert recorder.doorbell.flush(30)
    redis_server.resume()
    until(lambda: client.exists(KEY))
    assert len(messages(client)) == 2
    acknowledge_ring(client)
    commit(recorder, engine)
    assert recorder.doorbell.flush(30)
    assert len(messages(client)) == 3


@pytest.mark.parametrize("rung_meanwhile", [False, True])
def test_rings_succeed_again_after_redis_was_killed(
    make: Callable[..., hooks.Hooks],
    engine: Engine,
    redis_server: RedisServer,
    rung_meanwhile: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """The first ring succeeds already, although the open connections are dead."""
    recorder = make()
    commit(recorder, engine)
    assert recorder.doorbell.flush(30)
    redis_server.kill()
    if rung_meanwhile:
        commit(recorder, engine)
        assert recorder.doorbell.flush(30)
    redis_server.restart()
    with redis.Redis.from_url(redis_server.url) as client:
        acknowledge_ring(client)
        before = len(messages(client))
        commit(recorder, engine)
        assert recorder.doorbell.flush(30)
        assert len(messages(client)) == before + 1


def test_a_connection_that_died_in_silence_costs_no_ring(
    make: Callable[..., hooks.Hooks],
    engine: Engine,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A firewall can forget an idle connection: no answer comes back on it."""
    recorder = make()
    commit(recorder, engine)
    assert recorder.doorbell.flush(30)
    acknowledge_ring(client)
    (ringer,) = recorder.doorbell._ringers.values()

    def silence(*_: object, **__: object) -> None:
        raise redis.TimeoutError

    monkeypatch.setattr(ringer._redis, "eval", silence)
    commit(recorder, engine)
    assert recorder.doorbell.flush(30)
    assert len(messages(client)) == 2


@pytest.mark.parametrize("mode", ["thread", "inline"])
def test_a_ring_that_was_not_published_leaves_no_key(
    make: Callable[..., hooks.Hooks], engine: Engine, client: redis.Redis, mode: str
) -> None:
    """With the key left, every process would stay silent, although no message is in the queue."""
    recorder = make(mode=mode)
    client.set(QUEUE, "not a list: nothing can be pushed to it")
    commit(recorder, engine)
    assert recorder.doorbell.flush(30)
    assert not client.exists(KEY)
    client.delete(QUEUE)
    commit(recorder, engine)
    assert recorder.doorbell.flush(30)
    assert len(messages(client)) == 1


def test_a_dropped_ring_is_mentioned_once_without_the_password(
    make: Callable[..., hooks.Hooks], engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """The backend's logger gets one message, not one for each of a thousand commits."""
    recorder = make(redis_url="redis://:hunter2@127.0.0.1:1/0", mode="inline")
    for _ in range(3):
        commit(recorder, engine)
    (record,) = [r for r in caplog.records if r.name == "mirror.capture.doorbell"]
    assert record.getMessage().startswith("doorbell dropped, beat will wake the drain (Connection")
    assert "hunter2" not in caplog.text


def test_a_thread_that_cannot_start_fails_no_commit(
    make: Callable[..., hooks.Hooks],
    engine: Engine,
    primary: TestDatabase,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process is at its limit of threads or ends; the next commit tries again."""
    recorder = make()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        commit(recorder, engine)
    assert events(primary) == 1
    assert not recorder.doorbell.flush(0)
    commit(recorder, engine)
    assert recorder.doorbell.flush(30)
    assert len(messages(client)) == 1


# Modes


def test_mode_inline_has_rung_when_the_commit_returns(
    make: Callable[..., hooks.Hooks], engine: Engine, client: redis.Redis
) -> None:
    """This mode is for servers that allow no threads: none is started."""
    recorder = make(mode="inline")
    commit(recorder, engine)
    assert len(messages(client)) == 1
    (ringer,) = recorder.doorbell._ringers.values()
    assert ringer._thread is None


def test_mode_inline_waits_for_a_redis_that_hangs_as_long_as_the_setting_says(
    make: Callable[..., hooks.Hooks],
    engine: Engine,
    primary: TestDatabase,
    redis_server: RedisServer,
) -> None:
    """Redis hangs for ever; the commit returns."""
    recorder = make(mode="inline", seconds=0.1)
    commit(recorder, engine)
    redis_server.pause()
    commit(recorder, engine)
    commit(recorder, engine)
    assert events(primary) == 3


def test_mode_off_sends_no_ring(
    make: Callable[..., hooks.Hooks], engine: Engine, primary: TestDatabase, client: redis.Redis
) -> None:
    """The event is recorded, and no ring is sent."""
    recorder = make(mode="off")
    commit(recorder, engine)
    assert events(primary) == 1
    assert recorder.doorbell._ringers == {}
    assert client.keys() == []


# A ring comes after its commit


@pytest.fixture
def slow_commit(primary: TestDatabase) -> Iterator[Callable[[], None]]:
    """Make commits that insert a user wait for a lock; yield the function that releases it."""
    primary.query(
        "create function wait_here() returns trigger language plpgsql as "
        "$$ begin perform pg_advisory_xact_lock(7); return null; end $$"
    )
    primary.query(
        "create constraint trigger wait_here after insert on users "
        "deferrable initially deferred for each row execute function wait_here()"
    )
    with primary.connect() as holder:
        holder.execute("select pg_advisory_lock(7)")

        def go_on() -> None:
            holder.execute("select pg_advisory_unlock(7)")

        yield go_on


INSERT = "insert into users (id, email, username) values (gen_random_uuid(), 'a', 'a')"


@pytest.mark.parametrize("kind", ["connection", "joined session", "session"])
def test_a_ring_comes_after_its_commit(
    make: Callable[..., hooks.Hooks],
    engine: Engine,
    primary: TestDatabase,
    client: redis.Redis,
    slow_commit: Callable[[], None],
    kind: str,
) -> None:
    """The commit may take long; rings of other commits do not wait for it."""
    recorder = make()

    def change() -> None:
        with engine.connect() as connection:
            place = (
                connection
                if kind == "connection"
                else Session(connection if kind == "joined session" else engine)
            )
            place.execute(text(INSERT))
            recorder.changed(place, "users", uuid4())
            place.commit()
            connection.commit()
            place.close()

    thread = threading.Thread(target=change)
    thread.start()
    waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
    until(lambda: primary.value(waiting) == 1)
    # Had the slow commit rung already, this ring would be silent, and the last one missing.
    commit(recorder, engine)
    until(lambda: len(messages(client)) == 1)
    acknowledge_ring(client)
    slow_commit()
    until(lambda: len(messages(client)) == 2)
    assert primary.value("select count(*) from users") == 1
    thread.join()
    assert recorder.doorbell.flush(30)


def test_a_joined_transaction_that_rolls_back_delays_no_other_ring(
    make: Callable[..., hooks.Hooks], engine: Engine
) -> None:
    """Test suites never commit their outer transaction."""
    recorder = make()
    with engine.connect() as connection, connection.begin() as outer:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            session.execute(text("select 1"))
            recorder.changed(session, "users", uuid4())
            session.commit()
        outer.rollback()
    assert recorder.doorbell.flush(30)


# Threads


def test_no_ring_is_lost_among_many_threads() -> None:
    """A publication follows each request, and `idle` never comes before it."""
    published = 0

    class Counting(_Ringer):
        def publish(self) -> None:
            nonlocal published
            published += 1

    ringer = Counting(DoorbellSettings(redis_url="redis://unused"))
    lost: list[int] = []
    start = threading.Barrier(4)

    def work(number: int) -> None:
        start.wait()
        for n in range(300):
            before = published
            ringer.request((lambda: True) if (n + number) % 3 else None)
            # Other threads may ring and keep it from idling, but not for ever.
            if not ringer.idle.wait(30) or published == before:
                lost.append(n)

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lost == []


def test_threads_that_ring_first_at_once_share_one_thread(
    make: Callable[..., hooks.Hooks], client: redis.Redis
) -> None:
    """A burst after a start costs one thread."""
    bell = make().doorbell
    before = {thread.ident for thread in threading.enumerate()}
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        bell.ring()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bell.flush(30)
    ours = [
        t for t in threading.enumerate() if t.name == "mirror-doorbell" and t.ident not in before
    ]
    assert len(ours) == 1
    assert len(messages(client)) == 1


def test_commits_that_never_end_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """They neither accumulate nor keep the thread busy for ever."""
    monkeypatch.setattr(_Ringer, "_MAX_COMMIT_SECONDS", 0.05)
    ringer = _Ringer(DoorbellSettings(redis_url="redis://127.0.0.1:1/0"))
    for _ in range(3000):
        ringer.request(lambda: False)
    assert len(ringer._commits) <= 1000
    assert ringer.idle.wait(30)
    assert ringer._commits == []


# Processes


COMMIT = """
import os, sys
from uuid import uuid4
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from mirror import hooks

engine = create_engine(os.environ["DATABASE"])

def commit():
    with Session(engine) as session:
        session.execute(text("select 1"))
        hooks.user_updated(session, uuid4())
        session.commit()
"""


def test_a_script_that_commits_and_exits_has_rung(
    primary: TestDatabase, redis_server: RedisServer, client: redis.Redis
) -> None:
    """The thread is a daemon, and the process still waits for it at exit."""
    script(COMMIT + "commit()", DATABASE=primary.sqlalchemy_url, REDIS_URL=redis_server.url)
    assert len(messages(client)) == 1


POOLS = """
import multiprocessing, concurrent.futures

def child(*_):
    engine.dispose(close=False)
    commit()
"""
ENDS = {
    "process": "p = multiprocessing.get_context('fork').Process(target=child); p.start(); p.join()",
    "pool": """
pool = multiprocessing.get_context('fork').Pool(1)
pool.map(child, [1])
pool.close()
pool.join()
""",
    "pool of short children": """
pool = multiprocessing.get_context('fork').Pool(1, maxtasksperchild=1)
pool.apply(child)
pool.apply(child)
pool.close()
pool.join()
""",
    "executor": """
fork = multiprocessing.get_context('fork')
with concurrent.futures.ProcessPoolExecutor(1, mp_context=fork) as pool:
    pool.submit(child).result()
""",
    "billiard": """
import billiard
p = billiard.Process(target=child)
p.start()
p.join()
""",
    "exit": "import atexit; atexit.register(child)",
    "connection at exit": """
import atexit
def child():
    with engine.begin() as connection:
        hooks.user_updated(connection, uuid4())
atexit.register(child)
""",
    "connection in a process": """
def child():
    with engine.begin() as connection:
        hooks.user_updated(connection, uuid4())
p = multiprocessing.get_context('fork').Process(target=child)
p.start()
p.join()
""",
    "after the parent": """
commit()
assert hooks.default().doorbell.flush(30)
import redis
redis.Redis.from_url(os.environ["REDIS_URL"]).flushall()
p = multiprocessing.get_context('fork').Process(target=child)
p.start()
p.join()
""",
}


@pytest.mark.parametrize("mode", ["thread", pytest.param("inline", marks=pytest.mark.long)])
@pytest.mark.parametrize("end", ENDS)
def test_a_process_that_commits_and_ends_has_rung(
    primary: TestDatabase, redis_server: RedisServer, client: redis.Redis, end: str, mode: str
) -> None:
    """Children end without the functions of atexit, and a thread cannot always start at exit."""
    script(
        COMMIT + POOLS + ENDS[end],
        DATABASE=primary.sqlalchemy_url,
        REDIS_URL=redis_server.url,
        MIRROR_DOORBELL=mode,
    )
    assert events(primary) >= 1
    assert len(messages(client)) == 1


@pytest.mark.long
def test_a_process_of_celery_that_ends_after_one_task_has_rung(
    primary: TestDatabase, redis_server: RedisServer, client: redis.Redis
) -> None:
    """The worker is the backend's own; its process ends at once, without any function of atexit."""
    backend = """
import time
from celery import Celery, signals
from mirror.capture import doorbell

app = Celery(broker=os.environ["BROKER"])
app.conf.update(task_ignore_result=True, worker_hijack_root_logger=False)
# Otherwise the ring might be over before the process ends.
pause, publish = time.sleep, doorbell._Ringer.publish
doorbell._Ringer.publish = lambda self: (pause(0.5), publish(self))
# Billiard pauses before it ends a process.
signals.worker_process_init.connect(lambda **_: setattr(time, "sleep", lambda _: None), weak=False)

@app.task(name="change")
def change():
    engine.dispose(close=False)
    commit()
"""
    with TemporaryDirectory() as name, (Path(name) / "log").open("w") as log:
        (Path(name) / "backend.py").write_text(COMMIT + backend)
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "celery", "-A", "backend", "worker", "--pool=prefork"),
                *("--concurrency=1", "--max-tasks-per-child=1", "--without-gossip"),
            ],
            cwd=name,
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}{os.pathsep}{name}",
                "DATABASE": primary.sqlalchemy_url,
                "REDIS_URL": redis_server.url,
                "BROKER": redis_server.url.replace("/0", "/1"),
            },
            stdout=log,
            stderr=log,
        )
        try:
            app = Celery(broker=redis_server.url.replace("/0", "/1"))
            for number in (1, 2):
                app.send_task("change")
                until(lambda: len(messages(client)) == number)  # noqa: B023 - ends here
                acknowledge_ring(client)
            app.close()
        finally:
            server.terminate()
            server.wait(30)


def test_a_process_that_dies_while_it_rings_silences_no_other(redis_server: RedisServer) -> None:
    """There is no key without a message, wherever it was killed."""
    dying = """
import os, socket, redis
from mirror.capture.doorbell import KEY, QUEUE, Doorbell, DoorbellSettings
url = os.environ["REDIS_URL"]
sent = socket.socket.sendall
def ring_and_die(after):
    count = 0
    def die(self, *arguments):
        nonlocal count
        sent(self, *arguments)
        count += 1
        if count == after:
            # The answer shows that Redis has taken it.
            self.recv(1)
            os._exit(0)
    socket.socket.sendall = die
    Doorbell(DoorbellSettings(url, mode="inline")).ring()
    os._exit(0)
for after in range(1, 12):
    with redis.Redis.from_url(url) as client:
        client.flushall()
    child = os.fork()
    if not child:
        ring_and_die(after)
    os.waitpid(child, 0)
    with redis.Redis.from_url(url) as client:
        print(client.exists(KEY), client.llen(QUEUE))
"""
    found = script(dying, REDIS_URL=redis_server.url).stdout.splitlines()
    assert len(found) == 11
    assert set(found) <= {"0 0", "1 1"}
    assert found[-1] == "1 1"


def test_an_exit_does_not_wait_for_a_redis_that_hangs(
    primary: TestDatabase, redis_server: RedisServer
) -> None:
    """Redis hangs for ever; the ring would wait for minutes, but the exit waits half a second."""
    redis_server.pause()
    monkey = (
        "import mirror.capture.doorbell\nmirror.capture.doorbell._Ringer._EXIT_SECONDS = -299.5\n"
    )
    script(
        COMMIT + monkey + "commit()",
        DATABASE=primary.sqlalchemy_url,
        REDIS_URL=redis_server.url,
        MIRROR_DOORBELL_SECONDS="300",
    )
    assert events(primary) == 1


def test_the_backends_own_celery_is_left_alone(
    primary: TestDatabase, redis_server: RedisServer, client: redis.Redis
) -> None:
    """Its app stays the current one, and its CELERY_BROKER_URL stays its own."""
    found = script(
        "import celery\nbackend = celery.Celery('backend')\n"
        + COMMIT
        + "commit()\nhooks.default().doorbell.flush(30)\n"
        "print(celery.current_app.main, celery.current_app.conf.broker_url)",
        DATABASE=primary.sqlalchemy_url,
        REDIS_URL=redis_server.url,
        CELERY_BROKER_URL="amqp://nobody@127.0.0.1:1//",
        # This runs in the thread that has a current app.
        MIRROR_DOORBELL="inline",
    )
    assert found.stdout.split() == ["backend", "amqp://nobody@127.0.0.1:1//"]
    assert len(messages(client)) == 1


def test_a_forked_child_rings_with_a_thread_of_its_own(
    primary: TestDatabase, redis_server: RedisServer, client: redis.Redis
) -> None:
    """The parent may hold the locks at the moment of the fork."""
    forked = """
import redis
from mirror.capture.doorbell import acknowledge_ring
client = redis.Redis.from_url(os.environ["REDIS_URL"])
commit()
bell = hooks.default().doorbell
assert bell.flush(30)
acknowledge_ring(client)
engine.dispose()
(ringer,) = bell._ringers.values()
with ringer._condition, ringer._publishing:
    child = os.fork()
if child == 0:
    commit()
    os._exit(0 if bell.flush(30) else 1)
_, status = os.waitpid(child, 0)
assert status == 0, status
acknowledge_ring(client)
commit()
assert bell.flush(30)
"""
    script(COMMIT + forked, DATABASE=primary.sqlalchemy_url, REDIS_URL=redis_server.url)
    assert len(messages(client)) == 3


WSGI = (
    COMMIT
    + """
import time
from pathlib import Path

place = Path(os.environ["PLACE"])

# Before the fork: the master rings, too, and its thread and sockets stay behind.
commit()
assert hooks.default().doorbell.flush(30)
engine.dispose()

def app(environ, start_response):
    if environ["PATH_INFO"] == "/hold":
        (place / "held").touch()
        while not (place / "release").exists():
            time.sleep(0.005)
    commit()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""
)


def test_gunicorns_workers_ring_with_a_preloaded_app(
    primary: TestDatabase, redis_server: RedisServer, client: redis.Redis
) -> None:
    """Each worker rings by itself, although the master rang before it forked them."""
    with TemporaryDirectory() as name, (Path(name) / "log").open("w") as log:
        place = Path(name)
        (place / "backend.py").write_text(WSGI)
        path = str(place / "socket")

        def get(url: str) -> str:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(path)
                connection.sendall(f"GET {url} HTTP/1.0\r\n\r\n".encode())
                answer = b"".join(iter(lambda: connection.recv(4096), b""))
            assert b"200 OK" in answer
            return answer.rsplit(b"\r\n", 1)[-1].decode()

        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "gunicorn",
                "--workers=2",
                "--preload",
                f"--bind=unix:{path}",
                "--no-control-socket",
                f"--pythonpath={ROOT},{place}",
                "backend:app",
            ],
            cwd=place,
            env={
                **os.environ,
                "PLACE": name,
                "DATABASE": primary.sqlalchemy_url,
                "REDIS_URL": redis_server.url,
            },
            stderr=log,
        )
        try:
            until(lambda: (place / "socket").exists() or server.poll() is not None)
            assert server.poll() is None, (place / "log").read_text()
            assert len(messages(client)) == 1

            pids: list[str] = []
            holding = threading.Thread(target=lambda: pids.append(get("/hold")))
            holding.start()
            until((place / "held").exists)
            acknowledge_ring(client)
            pids.append(get("/"))
            until(lambda: len(messages(client)) == 2)

            acknowledge_ring(client)
            (place / "release").touch()
            holding.join()
            until(lambda: len(messages(client)) == 3)
            assert len(set(pids)) == 2
            assert str(server.pid) not in pids
        finally:
            server.terminate()
            server.wait(30)


def test_rediss_verifies_the_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL can still ask for the opposite."""
    for query, verified in (("", True), ("?ssl_cert_reqs=none", False)):
        ringer = _Ringer(DoorbellSettings(redis_url=f"rediss://127.0.0.1:1/0{query}", seconds=1))
        with pytest.raises(redis.ConnectionError):
            ringer._publish()
        assert ringer._redis is not None
        (connection,) = ringer._redis.connection_pool._available_connections
        assert bool(connection.cert_reqs) is verified
