"""The commands while one server acknowledges what it gets, and never answers."""

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from mirror.capture.doorbell import Doorbell, DoorbellSettings
from mirror.devstack import RedisServer
from tests.acceptance.conftest import Command, StartWorker
from tests.faults.tools import record
from tests.support.databases import TestDatabase
from tests.support.forking import HOME
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("no_environment")

USER = "00000000-0000-4000-8000-000000000001"
COMMANDS = {
    "status": ["status"],
    "doctor": ["doctor"],
    "drain": ["drain"],
    "reconcile": ["reconcile", "--dry-run"],
    "explain": ["explain", USER, "--trip", USER],
    "migrate": ["migrate"],
}
# They ask as status does, so `make test` leaves them out.
READERS = {"doctor", "reconcile", "explain"}
# A part of what each command asks over an open connection.
QUESTIONS = {"primary": b"mirror.", "target": b"mirror_"}
MIGRATES = b"mirror.migrations"
VARIABLES = {
    "primary": "PRIMARY_DATABASE_URL",
    "target": "SUPABASE_DB_URL",
    "Redis": "REDIS_URL",
}


@pytest.fixture
def links(
    primary: TestDatabase, target: TestDatabase, redis_server: RedisServer
) -> Iterator[dict[str, TcpProxy]]:
    """The networks between a command and each server."""
    urls = {"primary": primary.url, "target": target.url, "Redis": redis_server.url}
    with ExitStack() as owned:
        yield {side: owned.enter_context(TcpProxy(url)) for side, url in urls.items()}


@pytest.mark.parametrize("side", ["primary", "target"])
@pytest.mark.parametrize(
    ("command", "moment"),
    [
        ("status", "at connect"),
        *(
            pytest.param(
                command, "at a statement", marks=[pytest.mark.long] if command in READERS else []
            )
            for command in COMMANDS
        ),
    ],
)
def test_a_command_with_a_dark_side_ends_and_names_it(
    mirror: Command, links: dict[str, TcpProxy], command: str, side: str, moment: str
) -> None:
    """A command that does not end fails its test after a minute."""
    link = links[side]
    if moment == "at connect":
        link.stall()
    else:
        link.stall_at(MIGRATES if command == "migrate" else QUESTIONS[side])
    done = mirror(
        *COMMANDS[command],
        MIRROR_STATEMENT_SECONDS="0.5",
        MIRROR_CONNECT_SECONDS="2",
        PYTHONPATH=str(HOME),
        **{VARIABLES[name]: proxy.url for name, proxy in links.items()},
    )
    assert done.code == 4, done.text
    assert f"{side}: the database cannot be reached" in " ".join(done.text.split()), done.text


@pytest.mark.parametrize("side", ["primary", "supabase"])
def test_an_uninstall_from_a_dark_side_ends_and_says_so(
    mirror: Command, links: dict[str, TcpProxy], side: str
) -> None:
    """Its statements have no deadline, because they may wait for a lock."""
    link = links["target" if side == "supabase" else side]
    link.stall_at(b"mirror")
    done = mirror(
        *("uninstall", side, "--yes"),
        MIRROR_CONNECT_SECONDS="2",
        PYTHONPATH=str(HOME),
        **{VARIABLES[name]: proxy.url for name, proxy in links.items()},
    )
    assert done.code == 4, done.text
    assert "the database cannot be reached" in " ".join(done.text.split()), done.text


def test_status_with_a_dark_redis_ends_and_says_so(
    mirror: Command, links: dict[str, TcpProxy]
) -> None:
    """The state of the databases is printed all the same."""
    links["Redis"].stall()
    done = mirror(
        "status",
        "--json",
        MIRROR_CONNECT_SECONDS="2",
        PYTHONPATH=str(HOME),
        **{VARIABLES[name]: proxy.url for name, proxy in links.items()},
    )
    found = json.loads(done.out)
    assert (done.code, list(found["broker"])) == (4, ["unknown"]), done.text
    assert "Redis does not answer" in done.text
    assert "identity" in found["primary"]


def test_a_worker_leaves_a_dark_connection_to_redis(
    start_worker: StartWorker,
    links: dict[str, TcpProxy],
    primary: TestDatabase,
    redis_server: RedisServer,
) -> None:
    """Kombu notices it after less than a minute; then rings arrive over a new connection."""
    start_worker(REDIS_URL=links["Redis"].url, beat="no")
    links["Redis"].darken()
    record(primary, "users", USER)
    bell = Doorbell(DoorbellSettings(redis_url=redis_server.url, mode="inline", quiet_seconds=5))

    def drained() -> bool:
        bell.ring()
        return bool(primary.value("select count(*) from mirror.outbox") == 0)

    until(drained, seconds=150)
