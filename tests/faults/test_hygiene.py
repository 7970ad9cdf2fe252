"""Faults around an event: shared connections, lost answers, limits, unknown errors."""

import threading
from collections.abc import Callable
from uuid import uuid4

import pytest
from sqlalchemy.orm import Session

from mirror.errors import Transient
from mirror.settings import Settings
from mirror.sync.connections import Database
from mirror.sync.drain import Drain
from mirror.worker import Worker
from tests.faults.tools import record, rewrite
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory, TripFactory, UserFactory


def refuse(target: TestDatabase, user: object, action: str) -> None:
    """Create a trigger that runs an action before this user's row is inserted."""
    target.query(
        "create function refuse() returns trigger language plpgsql as $$"
        f" begin if new.id = '{user}' then {action}; end if; return new; end $$"
    )
    target.query(
        "create trigger refuse before insert on users for each row execute function refuse()"
    )


def users(session: Session, primary: TestDatabase, count: int) -> list[str]:
    """Create users whose events wait in the outbox."""
    made = [str(user.id) for user in UserFactory.create_batch(count)]
    session.commit()
    for user in made:
        record(primary, "users", user)
    return made


def test_a_connection_in_a_transaction_is_not_shared(primary: TestDatabase) -> None:
    """PostgreSQL only warns about a second BEGIN; its COMMIT would end the first one's claim."""
    database = Database(primary.url, role="primary")
    database.begin()
    with pytest.raises(Transient, match="in use"):
        database.begin()
    database.close()


def test_threads_of_a_worker_have_drains_of_their_own(settings: Settings) -> None:
    """Celery can run a pool of threads."""
    worker = Worker(lambda: settings)
    found: list[Drain] = []
    threads = [threading.Thread(target=lambda: found.append(worker.drain)) for _ in range(2)]
    for thread in threads:
        thread.start()
        thread.join()
    assert found[0] is not found[1]
    assert worker.drain is worker.drain


def test_one_slow_row_does_not_hold_up_its_batch(
    session: Session, primary: TestDatabase, target: TestDatabase, drain: Drain
) -> None:
    """The search for it takes longer than a claim may be idle."""
    made = users(session, primary, 40)
    refuse(target, made[7], "perform pg_sleep(20)")
    drain.queue.idle_seconds = 1
    drain.queue.retries.retry_seconds = 100
    drain.target.database.statement_seconds = 0.3  # type: ignore[attr-defined]
    assert drain.run().failed == 1
    assert target.value("select count(*) from users") == 39
    assert primary.query("select key[1], attempts from mirror.retries") == [(made[7], 1)]


def test_a_batch_may_take_longer_than_a_claim_may_be_idle(
    session: Session, primary: TestDatabase, target: TestDatabase, make_drain: Callable[..., Drain]
) -> None:
    """Each page of its scopes is slow; the primary would end the claim, again and again."""
    trips = TripFactory.create_batch(8)
    for trip in trips:
        MembershipFactory.create_batch(3, trip=trip)
    session.commit()
    drain = make_drain(batch_size=5)
    drain.queue.idle_seconds = 1
    rewrite(target, "open_scopes", "begin\n", "begin\n  perform pg_sleep(0.4);\n")
    for trip in trips:
        record(primary, "trip_memberships", trip.id, reference="trip_id")
    assert drain.run().failed == 0
    assert target.value("select count(*) from trip_memberships") == 24
    assert primary.value("select count(*) from mirror.outbox") == 0


def test_a_scope_is_not_held_up_by_one_row(
    session: Session, primary: TestDatabase, target: TestDatabase, make_drain: Callable[..., Drain]
) -> None:
    """A first load continues without the row that the target refuses."""
    made = sorted(str(user.id) for user in UserFactory.create_batch(25))
    session.commit()
    refuse(target, made[0], "raise check_violation")
    record(primary, "users", reference="*")
    make_drain(batch_size=10).run()
    assert target.value("select count(*) from users") == 24
    assert primary.query("select key, reference from mirror.retries") == [([made[0]], None)]


def test_an_unknown_error_is_isolated_never_buried_and_not_repeated(
    session: Session, primary: TestDatabase, target: TestDatabase, make_drain: Callable[..., Drain]
) -> None:
    """One row may be the cause, and the error's text may contain that row's values."""
    made = users(session, primary, 5)
    refuse(target, made[2], "raise exception 'ada@example.com is banned' using errcode = 'PT403'")
    drain = make_drain(max_attempts=1)
    assert drain.run().failed == 1
    assert target.value("select count(*) from users") == 4
    error, buried = primary.query("select error, buried_at from mirror.retries")[0]
    assert "PT403" in error
    assert "ada@" not in error
    assert buried is None


def test_scopes_of_a_parent_that_is_refused_do_not_multiply(
    session: Session, primary: TestDatabase, target: TestDatabase, make_drain: Callable[..., Drain]
) -> None:
    """Each attempt queues a scope of the parent's many children; one scope is enough."""
    trip = TripFactory()
    MembershipFactory.create_batch(6, trip=trip)
    session.commit()
    target.query("alter table trips add constraint none check (name is null)")
    record(primary, "trips", trip.id)
    drain = make_drain(batch_size=1, max_attempts=3, retry_seconds=0.01)
    for _ in range(40):
        drain.once()
        drain._retry()
        primary.query("update mirror.retries set due_at = now() where buried_at is null")
    assert primary.value("select count(*) from mirror.outbox") == 0
    assert primary.value("select count(*) from mirror.retries") < 30


def test_an_outage_during_a_retry_does_not_count_as_a_crash(
    session: Session, primary: TestDatabase, target: TestDatabase, drain: Drain
) -> None:
    """The worker returns the attempt over a new connection."""
    made = users(session, primary, 1)
    refuse(target, made[0], "raise check_violation")
    drain.run()
    primary.query("update mirror.retries set due_at = now()")
    attempt = drain.queue.retries.lease()
    assert attempt is not None
    primary.query(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name = 'permission-mirror' and datname = current_database()"
    )
    drain.queue.retries.postpone(attempt)
    assert primary.query("select attempts, deaths from mirror.retries") == [(1, 0)]


def test_a_mapping_that_cannot_be_read_is_named(primary: TestDatabase, drain: Drain) -> None:
    """Although one statement reads the rows of all mappings."""
    record(primary, "users", uuid4())
    record(primary, "trip_memberships", uuid4(), uuid4())
    primary.query("alter table trip_memberships rename column role to rank")
    drain.run()
    ((mapping, error),) = primary.query("select mapping, error from mirror.retries")
    assert mapping == "trip_memberships"
    assert "while reading mapping 'trip_memberships'" in error
