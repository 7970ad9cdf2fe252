"""An event that spoils its batch is isolated, retried alone, and in the end buried."""

import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.orm import Session

from mirror.errors import Rejected, TooSlow, Unreachable
from mirror.sync.drain import Drain
from tests.factories import MembershipFactory
from tests.faults.tools import Intercepted, record
from tests.fix_databases import TestDatabase
from tests.fix_rest import both_transports
from tests.waiting import until

pytestmark = both_transports


POISON = "00000000-0000-0000-0000-00000000dead"

WORKER = """
import os, signal, sys
from mappings.trips import registry
from mirror.sync.wiring import build_drain
from mirror.settings import load_settings

primary, target, poison, deed = sys.argv[1:]
drain = build_drain(
    load_settings(primary_database_url=primary, supabase_db_url=target, max_attempts=3), registry
)
apply = drain.target.apply


def deadly(stamp, sections):
    if any(poison in str((s.rows, s.with_children, s.deleted)) for s in sections):
        if deed == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        print("claimed", flush=True)
        signal.pause()
    return apply(stamp, sections)


drain.target.apply = deadly
drain.run()
"""


@pytest.fixture
def good(session: Session) -> list[tuple[str, str]]:
    """Members that nothing is wrong with."""
    members = [MembershipFactory.create() for _ in range(7)]
    session.commit()
    return [(str(member.trip_id), str(member.user_id)) for member in members]


@pytest.fixture
def poison(primary: TestDatabase, target: TestDatabase, good: list[tuple[str, str]]) -> None:
    """A backlog in whose midst is a user whom the target refuses, for a reason of its own."""
    target.query(
        "alter table users add constraint no_poison"
        " check (email is distinct from 'poison@example.com')"
    )
    primary.query(
        "insert into users (id, email, username) values (%s, 'poison@example.com', 'p')", POISON
    )
    for member in good[:4]:
        record(primary, "trip_memberships", *member)
    record(primary, "users", POISON)
    for member in good[4:]:
        record(primary, "trip_memberships", *member)


def due_now(primary: TestDatabase) -> None:
    """Let the time pass until the next attempt, or until a lease runs out."""
    primary.query("update mirror.retries set due_at = now() - interval '1 second'")


def retries(primary: TestDatabase) -> list[tuple[object, ...]]:
    """Return attempts and whether it is buried, for each event set apart."""
    rows: list[tuple[object, ...]] = primary.query(
        "select attempts, buried_at is not null from mirror.retries order by id"
    )
    return rows


def members(target: TestDatabase) -> int:
    """Return how many members there are."""
    return int(target.value("select count(*) from trip_memberships"))


def test_an_event_that_the_target_rejects_does_not_take_others_along(
    primary: TestDatabase, target: TestDatabase, drain: Drain, poison: None
) -> None:
    """Halving finds it; all that were in its batch go through."""
    assert drain.run().failed == 1
    assert members(target) == 7
    assert retries(primary) == [(1, False)]
    assert primary.value("select error from mirror.retries").startswith("Rejected: target:")


def test_what_is_noted_of_the_failure_holds_no_values(
    primary: TestDatabase, drain: Drain, poison: None
) -> None:
    """PostgreSQL's detail would print the whole row."""
    drain.run()
    assert "poison@" not in primary.value("select error from mirror.retries")


def test_a_batch_that_is_not_isolated_is_stuck(
    primary: TestDatabase, target: TestDatabase, drain: Drain, poison: None
) -> None:
    """The same without the rule."""
    claim = drain.queue.claim(100)
    assert claim is not None
    with pytest.raises(Rejected):
        drain._mirror(claim.events)
    claim.release()
    assert members(target) == 0


def test_a_failed_event_waits_longer_each_time_and_is_buried(
    primary: TestDatabase, target: TestDatabase, make_drain: Callable[..., Drain], poison: None
) -> None:
    """Before it is due nobody tries it; after the last attempt nobody does, ever."""
    drain = make_drain(max_attempts=3, retry_seconds=100)
    waits = []
    drain.run()
    for _ in range(2):
        waits.append(
            primary.value(
                "select round(extract(epoch from due_at - now()) / 100) from mirror.retries"
            )
        )
        assert drain.run().events == 0, "not due yet"
        due_now(primary)
        drain.run()
    assert waits == [1, 2]
    assert retries(primary) == [(3, True)]
    due_now(primary)
    assert drain.run().events == 0


def test_a_failed_event_succeeds_once_its_reason_is_gone(
    primary: TestDatabase, target: TestDatabase, drain: Drain, poison: None
) -> None:
    """It was neither buried nor lost."""
    drain.run()
    target.query("alter table users drop constraint no_poison")
    due_now(primary)
    assert drain.run().failed == 0
    assert target.value("select count(*) from users where id = %s", POISON) == 1
    assert retries(primary) == []


def test_a_poisonous_event_blocks_nobody_while_it_waits(
    primary: TestDatabase,
    target: TestDatabase,
    drain: Drain,
    poison: None,
    session: Session,
) -> None:
    """Not even a later event of the same trip."""
    drain.run()
    late = MembershipFactory.create()
    session.commit()
    record(primary, "trip_memberships", late.trip_id, late.user_id)
    assert drain.run().failed == 0
    assert members(target) == 8


def test_a_batch_that_is_too_slow_is_halved_and_its_event_never_buried(
    primary: TestDatabase, make_drain: Callable[..., Drain]
) -> None:
    """Tomorrow the database may be less busy."""
    drain = make_drain(max_attempts=1)
    record(primary, "users", POISON)

    def slow() -> None:
        raise TooSlow("target: a statement ran into its timeout")

    for attempt in range(1, 4):
        # Slow once more when tried in smaller pieces.
        drain.target = Intercepted(Intercepted(drain.target, before=slow), before=slow)
        drain.run()
        assert retries(primary)[0] == (attempt, False)
        due_now(primary)


def test_an_event_that_takes_too_long_is_tried_in_smaller_pieces(
    primary: TestDatabase, target: TestDatabase, drain: Drain, good: list[tuple[str, str]]
) -> None:
    """A trip's members need not all come in one call."""
    record(primary, "trips", good[0][0])

    def slow() -> None:
        raise TooSlow("target: a statement ran into its timeout")

    drain.target = Intercepted(drain.target, before=slow)
    assert drain.run().failed == 0
    assert retries(primary) == []
    assert members(target) == 1


def test_a_transient_failure_of_a_retry_is_not_counted(
    primary: TestDatabase, drain: Drain, poison: None
) -> None:
    """The target being down says nothing about the event."""
    drain.run()
    due_now(primary)

    def away() -> None:
        raise Unreachable("target: away")

    # Twice, because a run tries anew once, with connections of its own.
    drain.target = Intercepted(Intercepted(drain.target, before=away), before=away)
    with pytest.raises(Unreachable):
        drain.run()
    assert retries(primary) == [(1, False)]
    assert primary.value("select deaths from mirror.retries") == 0


def start_worker(
    primary: TestDatabase, target: TestDatabase, poison: str, deed: str
) -> subprocess.Popen[str]:
    """Start a worker process that comes to grief at the poison."""
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, primary.url, target.url, poison, deed],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def the_dead_workers_transaction_ended(primary: TestDatabase) -> bool:
    """Tell whether the server has noticed that a worker is gone."""
    return not primary.value(
        "select count(*) from pg_stat_activity where application_name = 'permission-mirror'"
        " and datname = current_database()"
    )


def test_events_of_a_worker_that_was_killed_are_retried_alone(
    primary: TestDatabase, target: TestDatabase, drain: Drain, good: list[tuple[str, str]]
) -> None:
    """Killed with its claim open; one of them may be to blame, so none is tried with others."""
    for member in good:
        record(primary, "trip_memberships", *member)
    with start_worker(primary, target, good[0][0], "wait") as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "claimed\n"
        assert primary.value("select cardinality(events) from mirror.claims") == 7
        worker.kill()
    until(lambda: the_dead_workers_transaction_ended(primary))
    drain.target = spy = Intercepted(drain.target)
    done = drain.run()
    assert (done.events, done.failed) == (7, 0)
    assert members(target) == 7
    assert retries(primary) == []
    assert primary.value("select count(*) from mirror.claims") == 0
    named = [str(call) for call in spy.calls]
    assert all(sum(member[0] in call for member in good) == 1 for call in named)


def test_an_event_that_kills_every_worker_is_buried(
    primary: TestDatabase, target: TestDatabase, good: list[tuple[str, str]]
) -> None:
    """Out of memory, a crash in a driver: each death counts, and the others go through."""
    primary.query("insert into users (id, email, username) values (%s, 'e', 'n')", POISON)
    for member in good:
        record(primary, "trip_memberships", *member)
    record(primary, "users", POISON)
    deaths = 0
    for _ in range(8):
        with start_worker(primary, target, POISON, "die") as worker:
            deaths += worker.wait() == -signal.SIGKILL
        until(lambda: the_dead_workers_transaction_ended(primary))
        due_now(primary)
    # Once among others, which is held against nobody, and three times alone.
    assert deaths == 4
    assert retries(primary) == [(1, True)]
    assert primary.value("select error from mirror.retries") == "its worker died"
    assert members(target) == 7
    assert primary.value("select count(*) from mirror.outbox") == 0


def test_a_released_claim_is_not_taken_for_a_dead_workers(
    primary: TestDatabase, drain: Drain, make_drain: Callable[..., Drain]
) -> None:
    """Whoever claims its events finds no note beside them."""
    record(primary, "users", uuid4())
    claim = drain.queue.claim(10)
    assert claim is not None
    with drain.source.snapshot(claim.note):
        assert primary.value("select cardinality(events) from mirror.claims") == 1
    claim.release()
    again = make_drain().queue.claim(10)
    assert again is not None
    assert len(again.events) == 1
    again.release()


def test_a_note_that_is_withdrawn_while_its_events_are_claimed_blames_nobody(
    primary: TestDatabase, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker gives them back; whoever waits for their locks has seen the note before."""
    record(primary, "users", uuid4())
    primary.query(
        "insert into mirror.claims (id, events)"
        " select gen_random_uuid(), array_agg(id) from mirror.outbox"
    )
    begin = drain.queue.claims.begin

    def overtaken(*arguments: Any, **options: Any) -> Any:
        found = begin(*arguments, **options)
        primary.query("delete from mirror.claims")
        return found

    monkeypatch.setattr(drain.queue.claims, "begin", overtaken)
    assert drain.once().events == 1
    assert primary.value("select count(*) from mirror.retries") == 0
