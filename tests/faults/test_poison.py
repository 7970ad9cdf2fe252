"""An event that makes its batch fail is isolated, retried alone, and finally buried."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy.orm import Session

from mirror.errors import Rejected, TooSlow, Unreachable
from mirror.sync.drain import Drain
from tests.faults.tools import Intercepted, record
from tests.support.claimed import claimed, suspected
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory
from tests.support.forking import ForkedProcess, ForkingCommand
from tests.support.rest import both_transports
from tests.support.waiting import until

pytestmark = both_transports(rest="long")


POISON = "00000000-0000-0000-0000-00000000dead"


@pytest.fixture
def good_members(session: Session) -> list[tuple[str, str]]:
    """Members that the target accepts."""
    members = [MembershipFactory.create() for _ in range(7)]
    session.commit()
    return [(str(member.trip_id), str(member.user_id)) for member in members]


@pytest.fixture
def poison(
    primary: TestDatabase, target: TestDatabase, good_members: list[tuple[str, str]]
) -> None:
    """A backlog with one user in the middle whom a constraint of the target refuses."""
    target.query(f"alter table users add constraint no_poison check (id <> '{POISON}')")
    primary.query(
        "insert into users (id, email, username) values (%s, 'poison@example.com', 'p')", POISON
    )
    for member in good_members[:4]:
        record(primary, "trip_memberships", *member)
    record(primary, "users", POISON, lane=1)
    for member in good_members[4:]:
        record(primary, "trip_memberships", *member)


def due_now(primary: TestDatabase) -> None:
    """Make each retry due, and let each lease run out."""
    primary.query("update mirror.retries set due_at = now() - interval '1 second'")


def retries(primary: TestDatabase) -> list[tuple[object, ...]]:
    """Return attempts, and whether it is buried, of each event set apart."""
    rows: list[tuple[object, ...]] = primary.query(
        "select attempts, buried_at is not null from mirror.retries order by id"
    )
    return rows


def members(target: TestDatabase) -> int:
    """Return the number of members in the target."""
    return int(target.value("select count(*) from trip_memberships"))


def test_an_event_that_the_target_rejects_does_not_take_others_along(
    primary: TestDatabase, target: TestDatabase, drain: Drain, poison: None
) -> None:
    """The drain halves the batch until it finds the event; all others are written."""
    assert drain.run().failed == 1
    assert members(target) == 7
    assert retries(primary) == [(1, False)]
    assert primary.value("select error from mirror.retries").startswith("Rejected: target:")


def test_the_stored_error_holds_no_values(
    primary: TestDatabase, drain: Drain, poison: None
) -> None:
    """PostgreSQL's DETAIL would show the whole row."""
    drain.run()
    assert "poison@" not in primary.value("select error from mirror.retries")


def test_a_batch_that_is_not_isolated_is_stuck(
    primary: TestDatabase, target: TestDatabase, drain: Drain, poison: None
) -> None:
    """The same steps without the rule."""
    claim = drain.queue.claim(100)
    assert claim is not None
    with pytest.raises(Rejected):
        drain.sync(claim.events)
    claim.release()
    assert members(target) == 0


def test_a_failed_event_waits_longer_each_time_and_is_buried(
    primary: TestDatabase, target: TestDatabase, make_drain: Callable[..., Drain], poison: None
) -> None:
    """No worker tries it before it is due, or after the last attempt."""
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
    """It was not buried and not lost."""
    drain.run()
    target.query("alter table users drop constraint no_poison")
    due_now(primary)
    assert drain.run().failed == 0
    assert target.value("select count(*) from users where id = %s", POISON) == 1
    assert retries(primary) == []


def test_a_poisonous_event_blocks_no_other_event_while_it_waits(
    primary: TestDatabase,
    target: TestDatabase,
    drain: Drain,
    poison: None,
    session: Session,
) -> None:
    """A later event of another trip goes through."""
    drain.run()
    late = MembershipFactory.create()
    session.commit()
    record(primary, "trip_memberships", late.trip_id, late.user_id)
    assert drain.run().failed == 0
    assert members(target) == 8


def test_a_batch_that_is_too_slow_is_halved_and_its_event_never_buried(
    primary: TestDatabase, make_drain: Callable[..., Drain]
) -> None:
    """The database may be less busy later."""
    drain = make_drain(max_attempts=1)
    record(primary, "trip_memberships", POISON, POISON)

    def slow() -> None:
        raise TooSlow("target: a statement ran into its timeout")

    for attempt in range(1, 4):
        # A claimed event is attempted twice: with its batch, and alone.
        drain.target = Intercepted(Intercepted(drain.target, before=slow), before=slow)
        drain.run()
        assert retries(primary)[0] == (attempt, False)
        due_now(primary)


def test_an_event_that_takes_too_long_is_tried_in_smaller_pieces(
    primary: TestDatabase, target: TestDatabase, drain: Drain, good_members: list[tuple[str, str]]
) -> None:
    """The members of a trip can be written in several calls."""
    record(primary, "trips", good_members[0][0])

    def slow() -> None:
        raise TooSlow("target: a statement ran into its timeout")

    drain.target = Intercepted(drain.target, before=slow)
    assert drain.run().failed == 0
    assert retries(primary) == []
    assert members(target) == 1


def test_a_transient_failure_of_a_retry_is_not_counted(
    primary: TestDatabase, drain: Drain, poison: None
) -> None:
    """An outage of the target is not the event's fault."""
    drain.run()
    due_now(primary)

    def fail() -> None:
        raise Unreachable("target: away")

    # Twice, because a run tries once more with new connections.
    drain.target = Intercepted(Intercepted(drain.target, before=fail), before=fail)
    with pytest.raises(Unreachable):
        drain.run()
    assert retries(primary) == [(1, False)]
    assert primary.value("select deaths from mirror.retries") == 0


StartWorker = Callable[[str, str], ForkedProcess]


@pytest.fixture
def start_worker(
    primary: TestDatabase, target: TestDatabase, forking_command: ForkingCommand, tmp_path: Path
) -> Iterator[StartWorker]:
    """Return a function that starts a worker, which dies, or stops, when it writes the poison."""
    started: list[ForkedProcess] = []

    def start(poison: str, action: str) -> ForkedProcess:
        arguments = [primary.url, target.url, poison, action]
        log = tmp_path / "worker.log"
        started.append(
            forking_command.start(arguments, {}, log, module="tests.faults.deadly_worker")
        )
        if action == "wait":
            until(lambda: log.exists() and "claimed" in log.read_text())
        return started[-1]

    yield start
    for worker in started:
        worker.kill()


def the_dead_workers_transaction_ended(primary: TestDatabase) -> bool:
    """Tell whether the server has ended the dead worker's transaction."""
    return not primary.value(
        "select count(*) from pg_stat_activity where application_name = 'permission-mirror'"
        " and datname = current_database()"
    )


def test_events_of_a_worker_that_was_killed_are_retried_alone(
    primary: TestDatabase,
    target: TestDatabase,
    drain: Drain,
    start_worker: StartWorker,
    good_members: list[tuple[str, str]],
) -> None:
    """It was killed with an open claim. One event may be the cause, so each is tried alone."""
    for member in good_members:
        record(primary, "trip_memberships", *member)
    worker = start_worker(good_members[0][0], "wait")
    assert claimed(primary) == 7
    worker.kill()
    until(lambda: the_dead_workers_transaction_ended(primary))
    drain.target = spy = Intercepted(drain.target)
    done = drain.run()
    assert (done.events, done.failed) == (7, 0)
    assert members(target) == 7
    assert retries(primary) == []
    calls = [str(call) for call in spy.calls]
    assert all(sum(member[0] in call for member in good_members) == 1 for call in calls)


def test_an_event_that_kills_every_worker_is_buried(
    primary: TestDatabase,
    target: TestDatabase,
    start_worker: StartWorker,
    good_members: list[tuple[str, str]],
) -> None:
    """Out of memory, or a crash in a driver. Each death counts; the other events go through."""
    primary.query("insert into users (id, email, username) values (%s, 'e', 'n')", POISON)
    for member in good_members:
        record(primary, "trip_memberships", *member)
    record(primary, "users", POISON)
    deaths = 0
    for _ in range(8):
        deaths += start_worker(POISON, "die").wait(30) == -signal.SIGKILL
        until(lambda: the_dead_workers_transaction_ended(primary))
        due_now(primary)
    # One death in a batch, which counts for no event, and three deaths alone.
    assert deaths == 4
    assert retries(primary) == [(1, True)]
    assert primary.value("select error from mirror.retries") == "its worker died"
    assert members(target) == 7
    assert primary.value("select count(*) from mirror.outbox") == 0


def test_a_released_claim_is_not_taken_for_a_dead_workers(
    primary: TestDatabase, drain: Drain, make_drain: Callable[..., Drain]
) -> None:
    """The next worker that claims its events finds nothing in their rows."""
    record(primary, "users", uuid4())
    claim = drain.queue.claim(10)
    assert claim is not None
    assert claimed(primary) == 1
    claim.release()
    assert (claimed(primary), suspected(primary)) == (0, 0)
    again = make_drain().queue.claim(10)
    assert again is not None
    assert len(again.events) == 1
    again.release()


def test_events_that_another_session_locked_are_not_taken_for_a_dead_workers(
    primary: TestDatabase, drain: Drain
) -> None:
    """A lock leaves its transaction's id in a row, too, even after it has ended well."""
    for _ in range(3):
        record(primary, "users", uuid4())
    primary.query("select from mirror.outbox for update")
    primary.query("select from mirror.outbox for share")
    assert drain.run().failed == 0
    assert retries(primary) == []


def test_a_claim_that_the_primary_could_not_take_back_is_no_crash(
    primary: TestDatabase,
    drain: Drain,
    make_drain: Callable[..., Drain],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rows of its events are written anew before the same worker's next claim."""
    record(primary, "users", uuid4())
    claim = drain.queue.claim(10)
    assert claim is not None

    def away(*_: object) -> None:
        raise Unreachable("primary: no answer")

    with monkeypatch.context() as patched:
        patched.setattr(drain.queue.beside, "together", away)
        claim.release()
    assert suspected(primary) == 1
    again = drain.queue.claim(10)
    assert again is not None
    assert len(again.events) == 1
    again.release()


def test_an_error_while_events_are_given_back_stops_no_worker(
    primary: TestDatabase, target: TestDatabase, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host may limit the time of every statement. The events are then retried alone."""
    primary.query("insert into users (id, email, username) values (%s, 'e', 'n')", POISON)
    record(primary, "users", POISON)

    def slow(*_: object) -> None:
        raise TooSlow("primary: a statement ran into its timeout")

    with monkeypatch.context() as patched:
        patched.setattr(drain.queue.beside, "together", slow)
        claim = drain.queue.claim(10)
        assert claim is not None
        claim.release()
    assert drain.run().failed == 0
    assert target.value("select count(*) from users") == 1


def test_what_a_worker_has_claimed_of_another_meanwhile_stays_claimed(
    primary: TestDatabase, drain: Drain, make_drain: Callable[..., Drain]
) -> None:
    """The first worker writes the rows of its events anew, and waits for none."""
    record(primary, "users", uuid4())
    first = drain.queue.claim(10)
    assert first is not None
    drain.queue.claims.rollback()
    second = make_drain().queue.claim(10)
    assert second is not None
    first.release()
    assert claimed(primary) == 1
    second.acknowledge()
    assert primary.value("select count(*) from mirror.outbox") == 0
