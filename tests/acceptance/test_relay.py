"""The real `mirror relay`, between real servers that stop and start."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from sqlalchemy.orm import Session

from mirror.capture.doorbell import KEY, QUEUE
from mirror.devstack import PostgresCluster, RedisServer
from mirror.devstack.binaries import postgres_programs
from mirror.schema.migrate import upgrade
from tests.acceptance.conftest import Command, StartService, StartWorker
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory
from tests.support.services import Service
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("no_environment")

NOWHERE = "postgresql://someone:hunter2@127.0.0.1:9/nothing"
modes = pytest.mark.parametrize(
    "mode", [pytest.param("polling", marks=pytest.mark.long), "listening"]
)


StartRelay = Callable[..., Service]


@pytest.fixture
def start_relay(redis_server: RedisServer, start_service: StartService) -> StartRelay:
    """Return a function that starts a relay and waits until it watches the outbox."""

    def start(url: str, mode: str = "polling", **variables: str) -> Service:
        variables |= {"PRIMARY_DATABASE_URL": url, "REDIS_URL": redis_server.url}
        if mode == "listening":
            variables["PRIMARY_LISTEN_URL"] = url
        relay = start_service("relay", variables)
        relay.wait_until_logged("listening" if mode == "listening" else "watching")
        return relay

    return start


@pytest.fixture
def own_primary(tmp_path: Path) -> Iterator[tuple[PostgresCluster, TestDatabase]]:
    """A primary with an outbox, which the test may stop."""
    with PostgresCluster.start(tmp_path / "own", version=16, durable=False) as cluster:
        database = TestDatabase(cluster.url())
        with database.migrating() as connection:
            upgrade(connection)
        yield cluster, database


def change(primary: TestDatabase) -> None:
    """Record an event for each member in the primary, as a trigger would."""
    primary.query(
        "insert into mirror.outbox (lane, mapping, key)"
        " select 1, 'trip_memberships', array[trip_id::text, user_id::text] from trip_memberships"
    )


def rings(primary: TestDatabase, redis_server: RedisServer) -> None:
    """Record an event without a ring, wait for the relay's ring, and answer it as a drain does."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.delete(KEY, QUEUE)
        primary.query("insert into mirror.outbox (lane, mapping, key) values (0, 'users', '{a}')")
        until(lambda: client.llen(QUEUE))
        primary.query("delete from mirror.outbox where true")


@modes
def test_events_recorded_by_plain_sql_are_mirrored_without_beat(
    start_relay: StartRelay,
    start_worker: StartWorker,
    session: Session,
    primary: TestDatabase,
    target: TestDatabase,
    mode: str,
) -> None:
    """The writer uses neither Redis nor this library."""
    start_worker(beat="no")
    start_relay(primary.url, mode)
    for count in (1, 2):
        MembershipFactory()
        session.commit()
        change(primary)
        until(lambda: target.value("select count(*) from trip_memberships") == count)  # noqa: B023
    until(lambda: primary.value("select count(*) from mirror.outbox") == 0)


@modes
def test_two_relays_do_no_harm(
    start_relay: StartRelay,
    start_worker: StartWorker,
    session: Session,
    primary: TestDatabase,
    target: TestDatabase,
    redis_server: RedisServer,
    mode: str,
) -> None:
    """When one of them stops, the other continues."""
    start_worker(beat="no")
    first, _second = start_relay(primary.url, mode), start_relay(primary.url, "polling")
    MembershipFactory()
    session.commit()
    change(primary)
    until(lambda: target.value("select count(*) from trip_memberships") == 1)
    first.kill()
    MembershipFactory()
    session.commit()
    change(primary)
    until(lambda: target.value("select count(*) from trip_memberships") == 2)
    with redis.Redis.from_url(redis_server.url) as client:
        until(lambda: client.llen(QUEUE) == 0)


@modes
def test_a_relay_survives_its_primary(
    start_relay: StartRelay,
    own_primary: tuple[PostgresCluster, TestDatabase],
    redis_server: RedisServer,
    mode: str,
) -> None:
    """It logs once that the primary is away, and once that it is back."""
    cluster, primary = own_primary
    relay = start_relay(primary.url, mode)
    rings(primary, redis_server)
    cluster.stop()
    until(lambda: relay.logged("waiting for the primary"))
    cluster.restart()
    until(lambda: relay.logged("the primary is back"))
    rings(primary, redis_server)
    if mode == "listening":
        until(lambda: relay.logged("listening") == 2)
        rings(primary, redis_server)
    assert relay.logged("waiting for the primary") == 1
    assert relay.log.read_text().count("\n") < 10


@modes
def test_a_relay_survives_redis(
    start_relay: StartRelay,
    primary: TestDatabase,
    redis_server: RedisServer,
    mode: str,
) -> None:
    """It rings for the events recorded meanwhile when Redis is back."""
    relay = start_relay(primary.url, mode)
    redis_server.kill()
    primary.query("insert into mirror.outbox (lane, mapping, key) values (0, 'users', '{a}')")
    until(lambda: "doorbell dropped" in relay.log.read_text())
    redis_server.restart()
    with redis.Redis.from_url(redis_server.url) as client:
        until(lambda: client.llen(QUEUE))
    rings(primary, redis_server)
    assert relay.log.read_text().count("doorbell dropped") == 1


@pytest.mark.parametrize("first", ["primary", "redis"])
def test_a_relay_survives_both_in_either_order(
    start_relay: StartRelay,
    own_primary: tuple[PostgresCluster, TestDatabase],
    redis_server: RedisServer,
    first: str,
) -> None:
    """It continues once both are back."""
    cluster, primary = own_primary
    relay = start_relay(primary.url, "listening")
    cluster.stop()
    redis_server.stop()
    until(lambda: relay.logged("waiting for the primary"))
    for server in (cluster, redis_server) if first == "primary" else (redis_server, cluster):
        server.restart()
    until(lambda: relay.logged("the primary is back"))
    rings(primary, redis_server)
    assert relay.runs


def test_a_relay_may_start_before_its_servers(
    own_primary: tuple[PostgresCluster, TestDatabase],
    redis_server: RedisServer,
    start_service: StartService,
) -> None:
    """A process manager starts all servers at the same time."""
    cluster, primary = own_primary
    cluster.stop()
    redis_server.stop()
    urls = {"PRIMARY_DATABASE_URL": primary.url, "REDIS_URL": redis_server.url}
    relay = start_service("relay", urls)
    relay.wait_until_logged("waiting for the primary")
    redis_server.restart()
    cluster.restart()
    rings(primary, redis_server)
    assert relay.end(signal.SIGTERM) == 0


@modes
@pytest.mark.parametrize(("stop_signal", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_relay_ends_on_a_signal(
    start_relay: StartRelay,
    primary: TestDatabase,
    mode: str,
    stop_signal: signal.Signals,
    code: int,
) -> None:
    """It prints no traceback and exits with the codes that process managers and shells expect."""
    relay = start_relay(primary.url, mode)
    assert relay.end(stop_signal) == code
    until(
        lambda: (
            primary.value(
                "select count(*) from pg_stat_activity where datname = current_database()"
                " and application_name = 'permission-mirror'"
            )
            == 0
        )
    )


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PRIMARY_DATABASE_URL": None}, "PRIMARY_DATABASE_URL is not set"),
        ({"REDIS_URL": None}, "REDIS_URL is not set"),
        ({"PRIMARY_LISTEN_URL": "mysql://me:hunter2@host/db"}, "PRIMARY_LISTEN_URL: expected"),
        ({"MIRROR_RELAY_SECONDS": "0"}, "MIRROR_RELAY_SECONDS"),
        ({"MIRROR_DOORBELL_SECONDS": "soon"}, "MIRROR_DOORBELL_SECONDS"),
    ],
)
def test_wrong_settings_are_exit_code_2(
    mirror: Command, variables: dict[str, str | None], message: str
) -> None:
    """The error names the setting; the relay connects to no server."""
    urls = {"PRIMARY_DATABASE_URL": NOWHERE, "REDIS_URL": "redis://127.0.0.1:9/0"}
    done = mirror("relay", **urls | variables)
    assert (done.code, message in done.err) == (2, True), done.text
    assert "hunter2" not in done.text


def test_an_unmigrated_primary_is_exit_code_4(
    mirror: Command, primary: TestDatabase, redis_server: RedisServer
) -> None:
    """The error has the remedy."""
    primary.query("drop schema mirror cascade")
    done = mirror("relay", REDIS_URL=redis_server.url)
    assert (done.code, "mirror migrate primary" in done.err) == (4, True), done.text


def test_a_fix_typed_into_psql_reaches_the_target(
    start_relay: StartRelay,
    start_worker: StartWorker,
    mirror: Command,
    session: Session,
    primary: TestDatabase,
    target: TestDatabase,
) -> None:
    """Triggers record it, the relay rings, a worker mirrors; the writer uses none of our code."""
    assert mirror("migrate", "primary", "--triggers").code == 0
    start_worker(beat="no")
    start_relay(primary.url)
    member = MembershipFactory()
    session.commit()
    seen = "select count(*) from trip_memberships where status = %s"
    until(lambda: target.value(seen, "ACTIVE") == 1)
    subprocess.run(
        [postgres_programs(16) / "psql", primary.url, "--quiet", "--file=-"],
        input=f"update trip_memberships set status = 'INACTIVE' where user_id = '{member.user_id}'",
        text=True,
        check=True,
    )
    until(lambda: target.value(seen, "INACTIVE") == 1)
    with target.acting_as(member.user_id) as connection:
        assert connection.execute("select count(*) from trips").fetchone() == (0,)
