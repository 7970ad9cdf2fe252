"""Who waits for whom in the target, and what a worker makes of waiting."""

import psycopg
import pytest

from mirror.errors import Transient, WentBack
from mirror.sync.snapshot import Stamp
from tests.faults.tools import Hand, Running, rewrite, waiting
from tests.support.databases import TestDatabase
from tests.support.waiting import until


def test_waiting_for_the_lock_is_not_the_events_fault(
    teams_hand: Hand, teams_target: TestDatabase
) -> None:
    """A migration holds it for long: whoever waits tries again later, with the same batch."""
    with teams_target.connect(autocommit=False) as migrating:
        migrating.execute("select mirror.lock(true)")
        with pytest.raises(Transient, match="55P03"):
            teams_hand.apply(1, seats={1: ("1", "ada", "1", "1")})


def test_only_waiting_for_the_lock_is_cut_short(teams_target: TestDatabase) -> None:
    """Whatever else a transaction waits for, it waits as it was told to."""
    with teams_target.connect(autocommit=False) as connection:
        connection.execute("set local lock_timeout = '7s'")
        connection.execute("select mirror.lock(false)")
        row = connection.execute("show lock_timeout").fetchone()
    assert row == ("7s",)


@pytest.mark.parametrize(
    "call",
    [
        "select mirror.lock(false)",
        "select public.mirror_rebase('another', '1')",
        'select public.mirror_apply(\'{"identity": "x", "epoch": 0, "fence": 1, "sections": []}\')',
    ],
)
def test_an_isolation_that_would_not_see_the_last_holder_is_refused(
    teams_target: TestDatabase, call: str
) -> None:
    """Its snapshot is older than the lock."""
    with teams_target.connect(autocommit=False) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with pytest.raises(psycopg.Error, match="READ COMMITTED"):
            connection.execute(call.encode())


def test_a_new_epoch_waits_for_the_writes_of_the_old_one(
    teams_hand: Hand, teams_target: TestDatabase
) -> None:
    """They were admitted in it, and must be through before it is over."""
    teams_hand.apply(5, seats={1: ("1", "ada", "1", "1")})
    with teams_target.connect(autocommit=False) as writing:
        writing.execute("select mirror.lock(false)")
        first = Running(lambda: teams_hand.target.apply(Stamp("a primary", 1, 1), []))
        until(lambda: waiting(teams_target))
        assert epoch(teams_target) == 0
    first.wait()
    assert epoch(teams_target) == 1
    with pytest.raises(WentBack):
        teams_hand.apply(6, seats={1: None})


def test_in_an_epoch_that_is_known_writes_share_the_lock(
    teams_hand: Hand, teams_target: TestDatabase
) -> None:
    """Only its first one is alone."""
    teams_hand.apply(5, seats={1: ("1", "ada", "1", "1")})
    with teams_target.connect(autocommit=False) as writing:
        writing.execute("select mirror.lock(false)")
        teams_hand.apply(6, seats={1: None})


def test_without_the_lock_an_epoch_ends_under_a_write(
    teams_hand: Hand, teams_target: TestDatabase
) -> None:
    """The same without the rule."""
    teams_hand.apply(5, seats={1: ("1", "ada", "1", "1")})
    rewrite(teams_target, "admit", "s.epoch < (request ->> 'epoch')::integer", "false")
    with teams_target.connect(autocommit=False) as writing:
        writing.execute("select mirror.lock(false)")
        teams_hand.target.apply(Stamp("a primary", 1, 1), [])
        assert epoch(teams_target) == 1


def epoch(target: TestDatabase) -> int:
    """Return the target's epoch."""
    return int(target.value("select epoch from mirror.state"))
