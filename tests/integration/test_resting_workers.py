"""A worker that sees no further events finishes what it has begun beside them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import Mock

import pytest
from structlog.testing import capture_logs

from mirror.errors import Transient
from mirror.settings import Settings, load_settings
from mirror.sync import stepping
from mirror.worker import chores, single
from mirror.worker.bells import LocalBell
from mirror.worker.chores import Worker
from mirror.worker.single import SingleProcess
from tests.faults.tools import record
from tests.support.databases import TestDatabase
from tests.support.waiting import until

LONG = 60.0
USER = "00000000-0000-0000-0000-000000000011"

pytestmark = pytest.mark.usefixtures("calls_one_by_one")


@pytest.fixture
def calls_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each drain that finds events make one call of a step, however soon it is."""
    monkeypatch.setattr(stepping, "_SECONDS", 0.0)
    monkeypatch.setattr(stepping, "_LATE_SECONDS", LONG)
    monkeypatch.setattr(chores, "MOMENT", 0.01)
    monkeypatch.setattr(single, "MOMENT", 0.01)


@pytest.fixture
def settings(primary: TestDatabase, target: TestDatabase) -> Settings:
    """Those of a worker that nothing else wakes."""
    return load_settings(
        primary_database_url=primary.url, supabase_db_url=target.url, sweep_seconds=LONG
    )


@pytest.fixture
def worker(settings: Settings) -> Iterator[Worker]:
    """A worker that has drained once, and so has taken its first step."""
    worker = Worker(lambda: settings, bell=LocalBell())
    worker.run_drains()
    yield worker
    worker.drain.close()


def steps(primary: TestDatabase) -> int:
    """Return the number of steps that the target is known to have taken."""
    return int(primary.value("select step + acked::integer from mirror.pairing"))


def change(primary: TestDatabase) -> None:
    """Record an event, as if the last step had been an hour ago."""
    primary.query("update mirror.pairing set stepped_at = stepped_at - interval '1 hour'")
    record(primary, "users", USER)


def test_a_celery_worker_finishes_its_step(primary: TestDatabase, worker: Worker) -> None:
    """No message may come for a long time."""
    before = steps(primary)
    change(primary)
    worker.run_drains()
    assert steps(primary) == before + 1


def test_an_error_while_it_rests_is_logged(
    primary: TestDatabase, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next drain tries again."""
    change(primary)
    with monkeypatch.context() as broken, capture_logs() as logs:
        broken.setattr(worker.drain.source, "look", Mock(side_effect=Transient("primary: away")))
        worker.run_drains()
    assert "primary: away" in [log.get("reason") for log in logs]
    before = steps(primary)
    change(primary)
    worker.run_drains()
    assert steps(primary) == before + 1


def test_a_worker_does_not_wait_a_second_time_for_a_database_that_is_away(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its drain has just tried, and the next one tries again."""
    rested: list[bool] = []
    monkeypatch.setattr(worker.drain, "rest", lambda: rested.append(True))
    with monkeypatch.context() as broken:
        broken.setattr(worker.drain, "run", Mock(side_effect=Transient("primary: away")))
        worker.run_drains()
    assert rested == []
    worker.run_drains()
    assert rested == [True]


@contextmanager
def draining(process: SingleProcess) -> Iterator[None]:
    """Run the thread that drains."""
    thread = threading.Thread(target=process._drain)
    thread.start()
    yield
    process._stop.set()
    process._bell.ring()
    thread.join(LONG)


def test_mirror_run_finishes_its_step(primary: TestDatabase, settings: Settings) -> None:
    """It waits for the next ring for as long as beat would."""
    process = SingleProcess(settings)
    with draining(process):
        until(lambda: steps(primary) > 0)
        before = steps(primary)
        change(primary)
        process._bell.ring()
        until(lambda: steps(primary) == before + 1)
