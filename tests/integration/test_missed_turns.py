"""A turn of the night that nobody took is made up, once."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from mirror.settings import Settings
from mirror.sync.drain import Drain
from mirror.sync.heartbeats import Heartbeat
from mirror.sync.schedule import PURGE_TASK, RECONCILE_TASK, missed_tasks
from tests.support.databases import TestDatabase

NOON = datetime(2026, 5, 2, 12, tzinfo=UTC)
Missed = Callable[..., list[str]]


@pytest.fixture
def missed(drain: Drain, settings: Settings) -> Missed:
    """Return a function that returns the tasks that were missed as of a time."""

    def missed(now: datetime = NOON, **changes: str) -> list[str]:
        changed = settings.model_copy(update=changes)
        return missed_tasks(changed, drain.queue.claims, now)

    return missed


@pytest.fixture
def installed(primary: TestDatabase) -> None:
    """The mirror was installed two days before."""
    primary.query("update mirror.migrations set applied_at = %s", NOON - timedelta(days=2))


def run(primary: TestDatabase, started_by: str, at: datetime) -> None:
    """Record the start of a reconcile."""
    primary.query(
        "insert into mirror.runs (started_by, holder, started_at) values (%s, '', %s)",
        started_by,
        at,
    )


def purged(primary: TestDatabase, at: datetime) -> None:
    """Record a purge."""
    primary.query("insert into mirror.heartbeats values ('purge', %s)", at)


def test_nothing_is_missed_before_the_first_night(missed: Missed) -> None:
    """The mirror was installed a moment ago."""
    assert missed(datetime.now(UTC)) == []


def test_turns_that_nobody_took_are_missed(missed: Missed, installed: None) -> None:
    """Beat was down at both, every night."""
    assert missed() == [RECONCILE_TASK, PURGE_TASK]


def test_turns_that_were_taken_are_not_missed(
    missed: Missed, installed: None, primary: TestDatabase
) -> None:
    """Each has its own record; those of the night before do not count."""
    run(primary, "beat", NOON.replace(hour=3, minute=40))
    assert missed() == [PURGE_TASK]
    purged(primary, NOON.replace(hour=4, minute=10))
    assert missed() == []
    assert missed(NOON + timedelta(days=1)) == [RECONCILE_TASK, PURGE_TASK]


def test_a_reconcile_by_hand_takes_no_turn(
    missed: Missed, installed: None, primary: TestDatabase
) -> None:
    """It may have compared one mapping only."""
    run(primary, "hand", NOON)
    assert RECONCILE_TASK in missed()


def test_a_turn_is_not_missed_while_its_message_may_wait(
    missed: Missed, installed: None, primary: TestDatabase
) -> None:
    """The workers may be busy for an hour."""
    run(primary, "beat", NOON - timedelta(days=1))
    purged(primary, NOON - timedelta(days=1))
    assert missed(NOON.replace(hour=4, minute=39)) == []
    assert missed(NOON.replace(hour=4, minute=41)) == [RECONCILE_TASK]
    assert missed(NOON.replace(hour=5, minute=11)) == [RECONCILE_TASK, PURGE_TASK]


def test_a_reconcile_that_is_off_is_never_missed(missed: Missed, installed: None) -> None:
    """The purge goes on."""
    assert missed(reconcile_cron="off") == [PURGE_TASK]


def test_a_purge_leaves_its_record(missed: Missed, drain: Drain, primary: TestDatabase) -> None:
    """Its heartbeat."""
    Heartbeat("purge").beat(drain.queue.claims)
    assert missed(datetime.now(UTC)) == []
    assert primary.value("select count(*) from mirror.heartbeats where name like 'purge@%'") == 1
