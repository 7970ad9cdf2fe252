"""`mirror health`: its exit code says whether a platform should restart a part of the mirror."""

import socket
from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from mirror.capture import statements
from mirror.cli.app import app
from mirror.sync.drain import Drain
from tests.support.databases import TestDatabase

pytestmark = pytest.mark.usefixtures("no_environment")

NOTE = "insert into mirror.heartbeats values (%s, now() - %s * interval '1 second')"
HERE = socket.gethostname()
NOWHERE = "postgresql://someone:hunter2@127.0.0.1:9/nothing"

Health = Callable[..., Result]


@pytest.fixture
def health(primary: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> Health:
    """Return a function that runs the command for a part."""

    def health(part: str, *arguments: str, url: str = primary.url) -> Result:
        monkeypatch.setenv("PRIMARY_DATABASE_URL", url)
        return CliRunner().invoke(app, ["health", "--part", part, *arguments])

    return health


@pytest.fixture
def old_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has run for a day."""
    read = "extract(epoch from now() - pg_postmaster_start_time())"
    known = statements.statement("read_health")
    assert read in known
    monkeypatch.setitem(statements._statements(), "read_health", known.replace(read, "86400"))


def test_a_part_that_was_at_work_lately_is_healthy(
    health: Health, drain: Drain, primary: TestDatabase
) -> None:
    """A drain notes that a worker is at work, whether or not there are events."""
    drain.run()
    done = health("worker")
    assert (done.exit_code, "worker: at work 0 s ago" in done.output) == (0, True)
    assert health("relay").exit_code == 1


@pytest.mark.usefixtures("old_server")
def test_a_part_that_was_not_is_to_be_restarted(health: Health, primary: TestDatabase) -> None:
    """It was at work 100 seconds ago; 90 are allowed, or what is asked for."""
    primary.query(NOTE, f"drain@{HERE}", 100)
    assert health("worker").exit_code == 1
    assert health("worker", "--max-age", "120").exit_code == 0


@pytest.mark.usefixtures("old_server")
def test_only_a_worker_and_beat_may_be_at_work_on_another_machine(
    health: Health, primary: TestDatabase
) -> None:
    """Beat wakes one of all workers, which notes the heartbeats of both."""
    for name in ("drain", "sweep", "relay", "run"):
        primary.query(NOTE, f"{name}@elsewhere", 1)
    parts = ("worker", "beat", "relay", "run")
    assert [health(part).exit_code for part in parts] == [0, 0, 1, 1]


@pytest.mark.usefixtures("old_server")
def test_mirror_run_is_healthy_if_it_drains_and_watches(
    health: Health, primary: TestDatabase
) -> None:
    """One of its threads may hang."""
    primary.query(NOTE, f"run@{HERE}", 1)
    assert health("run").exit_code == 1
    primary.query(NOTE, f"relay@{HERE}", 100)
    assert health("run").exit_code == 1
    primary.query("update mirror.heartbeats set seen_at = now()")
    assert health("run").exit_code == 0


def test_an_outage_of_the_primary_restarts_nothing(health: Health, primary: TestDatabase) -> None:
    """Neither while it lasts, nor afterwards: a heartbeat is no older than the server's start."""
    done = health("worker", url=NOWHERE)
    assert (done.exit_code, "hunter2" in done.output) == (0, False)
    assert "worker: unknown: primary" in done.stderr
    primary.query(NOTE, f"drain@{HERE}", 10_000)
    assert health("worker", "--max-age", "3600").exit_code == 0


def test_wrong_usage_and_a_primary_that_is_not_migrated_have_codes_of_their_own(
    health: Health, primary: TestDatabase
) -> None:
    """They are seen when a deployment is set up."""
    assert health("cellar").exit_code == 2
    primary.query("drop table mirror.heartbeats")
    assert getattr(health("worker").exception, "exit_code", None) == 4
