"""A server that is halted, or a proxy that swallows bytes: TCP acknowledges, and no answer comes.

Without a deadline of ours, each of these calls would wait until the peer is back. `Running.wait`
fails a test whose call has not ended after half a minute.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import redis
from psycopg import OperationalError
from pydantic import SecretStr
from sqlalchemy.orm import Session

from mappings.trips import registry
from mirror.capture.doorbell import KEY, Doorbell, DoorbellSettings
from mirror.devstack import RedisServer
from mirror.errors import Transient, Unreachable
from mirror.schema.watched_connection import WatchedConnection
from mirror.settings import Settings
from mirror.sync.connections import Database
from mirror.sync.drain import Drain
from mirror.sync.relay import SLOW, Listener, Relay
from mirror.sync.targets.http import HttpClient
from mirror.sync.wiring import build_drain
from mirror.worker import Worker
from tests.faults.tools import Running, record
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory
from tests.support.rest import both_transports
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until


def member(session: Session, primary: TestDatabase) -> None:
    """Make a member whose event waits in the outbox."""
    made = MembershipFactory.create()
    session.commit()
    session.close()
    record(primary, "trip_memberships", made.trip_id, made.user_id, lane=1)


@pytest.fixture
def to_primary(primary: TestDatabase) -> Iterator[TcpProxy]:
    """The network between the mirror and the primary."""
    with TcpProxy(primary.url) as proxy:
        yield proxy


@pytest.fixture
def to_target(settings: Settings) -> Iterator[TcpProxy]:
    """The network between the mirror and the target, over either transport."""
    over_rest = settings.transport == "rest"
    with TcpProxy(settings.need("supabase_url" if over_rest else "supabase_db_url")) as proxy:
        yield proxy


@pytest.fixture
def drain(settings: Settings, to_primary: TcpProxy, to_target: TcpProxy) -> Iterator[Drain]:
    """A worker behind both networks."""
    changes: dict[str, object] = {
        "primary_database_url": SecretStr(to_primary.url),
        "statement_seconds": 0.5,
        "connect_seconds": 2,
    }
    if settings.transport == "rest":
        changes["supabase_url"] = to_target.url
    else:
        changes["supabase_db_url"] = SecretStr(to_target.url)
    drain = build_drain(settings.model_copy(update=changes), registry)
    yield drain
    drain.close()


@both_transports(rest="long")
@pytest.mark.parametrize("side", ["primary", "target"])
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("at connect", marks=pytest.mark.long),
        pytest.param("between two runs", marks=pytest.mark.long),
        "in the run",
    ],
)
def test_a_run_with_a_dark_side_ends_and_names_it(
    drain: Drain,
    session: Session,
    primary: TestDatabase,
    target: TestDatabase,
    to_primary: TcpProxy,
    to_target: TcpProxy,
    side: str,
    moment: str,
) -> None:
    """Its events wait; once the side is back, the same worker mirrors them."""
    proxy = to_primary if side == "primary" else to_target
    if moment != "at connect":
        member(session, primary)
        drain.run()
    member(session, primary)
    if moment == "in the run":
        proxy.stall_at(b"repeatable read" if side == "primary" else b"mirror_apply")
    else:
        proxy.stall()
    with pytest.raises(Transient, match=f"^{side}: "):
        Running(drain.run).wait()
    assert primary.value("select count(*) from mirror.retries") == 0
    proxy.darken()
    proxy.resume()
    assert Running(drain.run).wait().failed == 0
    assert target.value("select count(*) from trip_memberships") == 1 + (moment != "at connect")
    assert primary.value("select count(*) from mirror.outbox") == 0


@both_transports(rest="long")
def test_while_one_worker_sees_a_dark_target_others_mirror_its_events(
    drain: Drain,
    settings: Settings,
    session: Session,
    primary: TestDatabase,
    target: TestDatabase,
    to_target: TcpProxy,
) -> None:
    """The worker gives its claim back, and none of the events counts as failed."""
    drain.target.describe()
    member(session, primary)
    to_target.stall()
    with pytest.raises(Transient, match=r"^target: "):
        Running(drain.run).wait()
    other = build_drain(settings, registry)
    assert other.run().failed == 0
    other.close()
    assert target.value("select count(*) from trip_memberships") == 1
    # The API's server waits for the rest of the request, and takes no other order before.
    to_target.cut()


def test_a_claim_is_given_up_although_the_primary_does_not_answer(
    drain: Drain, session: Session, primary: TestDatabase, to_primary: TcpProxy
) -> None:
    """Neither the rollback nor the deletion of its note waits for ever."""
    member(session, primary)
    claim = drain.queue.claim(10)
    assert claim is not None
    to_primary.stall()
    Running(claim.release).wait()
    # The primary's server notices the end of the connection.
    to_primary.cut()
    to_primary.resume()
    assert Running(drain.run).wait().failed == 0
    assert primary.value("select count(*) from mirror.outbox") == 0


def test_a_long_statement_in_a_long_transaction_is_no_silence(primary: TestDatabase) -> None:
    """The client waits as long as the server allows."""
    database = Database(primary.url, role="primary", statement_seconds=0.2)
    database.execute("select 1")
    database.connect_seconds = 0
    with database.transaction(timeout_factor=50):
        assert database.execute("select 1 from pg_sleep(0.5)") == [(1,)]
    assert database.call("select 1 from pg_sleep(0.5)", [], timeout_factor=50) == [(1,)]
    with pytest.raises(Unreachable, match=r"no answer within 0\.2 s"):
        database.execute("select pg_sleep(5)")
    database.close()


def test_a_watched_connection_waits_for_as_long_as_its_server_works(
    primary: TestDatabase, to_primary: TcpProxy
) -> None:
    """`mirror migrate` uses it; only this connection goes dark, and new ones work."""
    with WatchedConnection.connect(to_primary.url, autocommit=True) as connection:
        connection.url, connection.seconds = primary.url, 1
        slept = connection.execute("select 1 from pg_sleep(2.5)").fetchone()
        assert slept == (1,)
        to_primary.darken()
        with pytest.raises(OperationalError, match="no answer"):
            Running(lambda: connection.execute("select 1")).wait()
        assert connection.closed


# The relay


class CountingDoorbell(Doorbell):
    """Counts the rings."""

    def __init__(self) -> None:
        super().__init__(DoorbellSettings(mode="off"))
        self.rings = 0

    def ring(self, after: object = None) -> None:  # noqa: ARG002 - like the other
        """Count the ring."""
        self.rings += 1


def database(url: str, role: str = "primary") -> Database:
    """Return a database whose deadlines are short."""
    return Database(url, role=role, connect_seconds=2, statement_seconds=0.5)


@pytest.mark.parametrize("moment", ["at connect", "between two polls"])
def test_a_relay_goes_on_once_a_dark_primary_is_back(
    primary: TestDatabase, to_primary: TcpProxy, moment: str
) -> None:
    """Each poll ends; the first one that succeeds rings for what came meanwhile."""
    doorbell = CountingDoorbell()
    relay = Relay(database(to_primary.url), doorbell, seconds=0.2, sleep=lambda _: None)
    if moment != "at connect":
        relay.turn()
    to_primary.stall()
    Running(relay.turn).wait()
    assert relay._away
    record(primary, "users", 1)
    to_primary.darken()
    to_primary.resume()
    Running(relay.turn).wait()
    assert doorbell.rings == 1
    relay.close()


def test_a_relay_notices_that_its_listener_is_dark(
    primary: TestDatabase, to_primary: TcpProxy
) -> None:
    """Silence on that connection is no proof that there is no news; a new one replaces it."""
    now = [0.0]
    listener = Listener(database(to_primary.url, "primary, to listen"), lambda: now[0])
    relay = Relay(
        database(primary.url),
        CountingDoorbell(),
        seconds=0.2,
        listener=listener,
        clock=lambda: now[0],
        sleep=lambda _: None,
    )

    def works() -> bool:
        Running(relay.turn).wait()
        return listener.works

    until(works)
    relay.turn()
    to_primary.darken()
    now[0] += SLOW + 1
    assert not works()
    now[0] += SLOW + 1
    until(works)
    relay.close()


# Redis


@pytest.fixture
def to_redis(redis_server: RedisServer) -> Iterator[TcpProxy]:
    """The network between the mirror and Redis."""
    with TcpProxy(redis_server.url) as proxy:
        yield proxy


@pytest.mark.parametrize("moment", ["at connect", "later"])
def test_a_relay_polls_on_while_redis_is_dark(
    primary: TestDatabase, to_redis: TcpProxy, redis_server: RedisServer, moment: str
) -> None:
    """The ring is given up; once Redis is back, rings arrive."""
    bell = Doorbell(DoorbellSettings(redis_url=to_redis.url, mode="inline", seconds=0.5))
    relay = Relay(database(primary.url), bell, seconds=0.2, sleep=lambda _: None)
    with redis.Redis.from_url(redis_server.url) as client:
        if moment == "later":
            record(primary, "users", 1)
            relay.turn()
            assert client.exists(KEY)
        client.flushall()
        to_redis.stall()
        record(primary, "users", 2)
        Running(relay.turn).wait()
        to_redis.darken()
        to_redis.resume()
        record(primary, "users", 3)
        Running(relay.turn).wait()
        assert client.exists(KEY)
    relay.close()


def test_a_worker_mirrors_while_redis_is_dark(
    settings: Settings,
    session: Session,
    primary: TestDatabase,
    target: TestDatabase,
    to_redis: TcpProxy,
) -> None:
    """It cannot acknowledge the ring, and does not wait for that."""
    member(session, primary)
    worker = Worker(lambda: settings.model_copy(update={"redis_url": SecretStr(to_redis.url)}))
    to_redis.stall()

    def run() -> None:
        worker.run_drain()
        # Each thread has a drain of its own.
        worker.drain.close()

    Running(run).wait()
    assert target.value("select count(*) from trip_memberships") == 1


# The API


@contextmanager
def answers(reply: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """Yield the URL of a server that takes one request after the other and calls `reply`."""
    closing = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    def answer(client: socket.socket) -> None:
        with client:
            try:
                reply(client, closing)
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    closing.set()
    listener.close()


def drip_headers(client: socket.socket, closing: threading.Event) -> None:
    """Send one more header again and again."""
    client.recv(65536)
    client.sendall(b"HTTP/1.1 200 OK\r\n")
    while not closing.wait(0.01):
        client.sendall(b"X: y\r\n")


def say_nothing(client: socket.socket, closing: threading.Event) -> None:
    """Read what comes, and never answer."""
    while client.recv(65536):
        pass
    closing.wait()


@pytest.mark.parametrize(
    ("reply", "scheme"),
    [(drip_headers, "http"), (say_nothing, "http"), (say_nothing, "https")],
    ids=["headers that never end", "no answer", "no handshake"],
)
def test_a_call_has_one_deadline_whatever_the_server_does(
    reply: Callable[[socket.socket, threading.Event], None], scheme: str
) -> None:
    """Each wait by itself would be short enough."""
    http = HttpClient(connect_seconds=1, statement_seconds=0.5)
    with (
        answers(reply) as address,
        http.open() as client,
        pytest.raises(Transient, match=r"^target: its API"),
    ):
        Running(lambda: http.call(lambda: client.post(f"{scheme}://{address}/"))).wait()


def test_a_name_that_nobody_resolves_ends_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server can be dark, too."""
    over = threading.Event()

    def getaddrinfo(*_: object, **__: object) -> list[object]:
        over.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    http = HttpClient(connect_seconds=1, statement_seconds=0.5)
    with http.open() as client, pytest.raises(Unreachable, match=r"^target: its API"):
        Running(lambda: http.call(lambda: client.post("http://project.example/"))).wait()
    over.set()


def test_attempts_share_the_deadline_of_their_call() -> None:
    """A server that breaks each connection after a while is not attempted four times."""
    attempts: list[socket.socket] = []

    def break_late(client: socket.socket, closing: threading.Event) -> None:
        attempts.append(client)
        client.recv(65536)
        closing.wait(1.2)

    http = HttpClient(connect_seconds=1, statement_seconds=0.3)
    with (
        answers(break_late) as address,
        http.open() as client,
        pytest.raises(Transient, match=r"^target: its API"),
    ):
        Running(lambda: http.call(lambda: client.post(f"http://{address}/"))).wait()
    assert len(attempts) < 4
