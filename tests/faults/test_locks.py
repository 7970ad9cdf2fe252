"""Which calls wait for each other in the target, and how a worker handles the waiting."""

from collections.abc import Callable

import psycopg
import pytest

from mirror.errors import Transient, WentBack
from mirror.sync.drain import Drain
from tests.faults.tools import DirectWriter, Running, record, rewrite, waiting
from tests.faults.withheld import Member, accesses, retry
from tests.support.databases import TestDatabase
from tests.support.stamps import stamp
from tests.support.waiting import until


def test_waiting_for_the_lock_is_not_the_events_fault(
    teams_writer: DirectWriter, teams_target: TestDatabase
) -> None:
    """A migration holds the lock for long; the worker tries the same batch again later."""
    with teams_target.connect(autocommit=False) as migrating:
        migrating.execute("select mirror.lock(true)")
        with pytest.raises(Transient, match="lock of all writers"):
            teams_writer.apply(1, seats={1: ("1", "ada", "1", "1")})


def test_only_waiting_for_the_lock_is_cut_short(teams_target: TestDatabase) -> None:
    """The transaction's own lock_timeout stays in force for other locks."""
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
def test_an_isolation_level_that_hides_the_last_holders_writes_is_refused(
    teams_target: TestDatabase, call: str
) -> None:
    """Its snapshot is older than the lock."""
    with teams_target.connect(autocommit=False) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with pytest.raises(psycopg.Error, match="READ COMMITTED"):
            connection.execute(call.encode())


def test_a_new_epoch_waits_for_the_writes_of_the_old_one(
    teams_writer: DirectWriter, teams_target: TestDatabase
) -> None:
    """They were admitted in the old epoch and must end before it does."""
    teams_writer.apply(5, seats={1: ("1", "ada", "1", "1")})
    with teams_target.connect(autocommit=False) as writing:
        writing.execute("select mirror.lock(false)")
        first = Running(lambda: teams_writer.target.apply(stamp(1, epoch=1), []))
        until(lambda: waiting(teams_target))
        assert epoch(teams_target) == 0
    first.wait()
    assert epoch(teams_target) == 1
    with pytest.raises(WentBack):
        teams_writer.apply(6, seats={1: None})


def test_in_an_epoch_that_is_known_writes_share_the_lock(
    teams_writer: DirectWriter, teams_target: TestDatabase
) -> None:
    """Only the first write of an epoch takes the lock alone."""
    teams_writer.apply(5, seats={1: ("1", "ada", "1", "1")})
    with teams_target.connect(autocommit=False) as writing:
        writing.execute("select mirror.lock(false)")
        teams_writer.apply(6, seats={1: None})


def test_without_the_lock_an_epoch_ends_under_a_write(
    teams_writer: DirectWriter, teams_target: TestDatabase
) -> None:
    """The same steps without the rule."""
    teams_writer.apply(5, seats={1: ("1", "ada", "1", "1")})
    rewrite(teams_target, "admit", "s.epoch < (request ->> 'epoch')::integer", "false")
    with teams_target.connect(autocommit=False) as writing:
        writing.execute("select mirror.lock(false)")
        teams_writer.target.apply(stamp(1, epoch=1), [])
        assert epoch(teams_target) == 1


def epoch(target: TestDatabase) -> int:
    """Return the target's epoch."""
    return int(target.value("select epoch from mirror.state"))


def test_a_row_that_somebody_has_locked_delays_no_other(
    primary: TestDatabase,
    target: TestDatabase,
    make_drain: Callable[..., Drain],
    members: list[Member],
) -> None:
    """On Supabase, roles have a lock_timeout. The row's event waits and is never given up."""
    name = target.url.rpartition("/")[2]
    target.query(f"alter database {name} set lock_timeout = '100ms'")
    drain = make_drain(max_attempts=1)
    primary.query("delete from trip_memberships")
    for member in members:
        record(primary, "trip_memberships", *member)
    with target.connect(autocommit=False) as connection:
        connection.execute(
            "select from trip_memberships where user_id = %s for update", [members[0][1]]
        )
        drain.run()
        assert accesses(target, members) == [True, False, False]
        assert primary.query("select buried_at from mirror.retries") == [(None,)]
    retry(primary, drain)
    assert accesses(target, members) == [False, False, False]
