"""A backend waits for its receipts on a real worker, so no user gets a 403."""

from uuid import UUID

import psycopg
import pytest
from sqlalchemy.orm import Session

from examples.trip_chat import services
from mirror import hooks
from mirror.devstack import RedisServer
from tests.acceptance.conftest import StartWorker
from tests.support.databases import TestDatabase
from tests.support.factories import TripFactory, UserFactory


@pytest.fixture(autouse=True)
def hooks_ring(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the module's hooks, which the example calls, the URL of the test's Redis."""
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    hooks.default.cache_clear()


def may_write(target: TestDatabase, trip_id: UUID, user_id: UUID) -> bool:
    """Tell whether chat accepts a message of the user; otherwise it would answer 403."""
    with target.acting_as(user_id) as client:
        try:
            client.execute(
                "insert into chat_messages (trip_id, content) values (%s, 'hi')", [trip_id]
            )
        except psycopg.errors.InsufficientPrivilege:
            return False
    return True


def test_chat_agrees_at_once_with_a_user_who_joins_and_leaves(
    start_worker: StartWorker, session: Session, target: TestDatabase
) -> None:
    """This holds twenty times; without beat, only the ring of the commit wakes the worker."""
    start_worker(beat="no")
    trip = TripFactory()
    hooks.trip_created(session, trip.id)
    session.commit()
    for _ in range(20):
        session.begin()
        user = UserFactory()
        services.invite(session, trip.id, user.id)
        services.accept_invitation(session, trip.id, user.id)
        receipt = hooks.receipt(session)
        session.commit()
        hooks.wait(receipt, timeout=30)
        assert may_write(target, trip.id, user.id)
    services.remove_member(session, trip.id, user.id)
    receipt = hooks.receipt(session)
    session.commit()
    hooks.wait(receipt, timeout=30)
    assert not may_write(target, trip.id, user.id)


def test_without_the_wait_chat_does_not_agree_yet(session: Session, target: TestDatabase) -> None:
    """The reason for the wait; no worker runs here, so the result is certain."""
    user = UserFactory()
    session.flush()
    trip = services.create_trip(session, user.id, "Lisbon")
    session.commit()
    assert not may_write(target, trip.id, user.id)
