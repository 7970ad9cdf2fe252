"""Access ends while no worker says that the target is fresh, and comes back with the workers."""

from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from mirror.schema.migrate import upgrade
from tests.acceptance.conftest import StartWorker
from tests.faults.tools import record
from tests.support.brief_mappings import registry
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory
from tests.support.policy_matrix import joins
from tests.support.waiting import until

SETTINGS = {"MIRROR_MAPPINGS": "tests.support.brief_mappings", "MIRROR_FRESH_SECONDS": "1"}

Member = tuple[UUID, UUID]
"""A trip and a user."""


@pytest.fixture
def bounded(target: TestDatabase) -> TestDatabase:
    """The target, whose policies refuse when it is older than six seconds."""
    with target.migrating() as connection:
        upgrade(connection, "supabase", registry, guards=True)
    return target


@pytest.fixture
def member(session: Session, primary: TestDatabase, bounded: TestDatabase) -> Member:
    """A membership that waits to be mirrored, and a message in its trip."""
    made = MembershipFactory()
    session.commit()
    for name in ("users", "trips", "trip_memberships"):
        record(primary, name, reference="*", lane=1)
    bounded.query(
        "insert into chat_messages (trip_id, sender_id, content) values (%s, %s, 'a')",
        made.trip_id,
        made.user_id,
    )
    return made.trip_id, made.user_id


@pytest.mark.long
def test_without_workers_access_ends_and_comes_back_with_them(
    start_worker: StartWorker, member: Member, bounded: TestDatabase
) -> None:
    """Reading and writing messages, and joining the trip's private channel."""
    trip, user = member

    def access() -> tuple[int, int, bool]:
        with bounded.acting_as(user) as connection:
            seen = connection.execute("select from chat_messages").rowcount
            written = connection.execute(
                "update chat_messages set content = 'b' where trip_id = %s", [trip]
            ).rowcount
        return seen, written, bool(joins(bounded, user, f"trip:{trip}"))

    worker = start_worker(**SETTINGS)
    until(lambda: access() == (1, 1, True))
    # Nothing happens for longer than the bound, and access goes on.
    looks = "select as_of from mirror.freshness where mapping = 'trips'"
    first = bounded.value(looks)
    until(lambda: (bounded.value(looks) - first).total_seconds() > 7)
    assert access() == (1, 1, True)

    worker.kill()
    until(lambda: access() == (0, 0, False))

    start_worker(**SETTINGS)
    until(lambda: access() == (1, 1, True))


def test_a_revocation_that_workers_cannot_deliver_ends_all_access_in_time(
    start_worker: StartWorker, member: Member, primary: TestDatabase, bounded: TestDatabase
) -> None:
    """The target is behind, and says so by itself."""
    trip, user = member

    def reads() -> bool:
        with bounded.acting_as(user) as connection:
            return connection.execute("select from chat_messages").rowcount > 0

    start_worker(**SETTINGS)
    until(reads)
    with primary.connect(autocommit=False) as holding:
        # A claim holds the event, and never ends.
        primary.query("delete from trip_memberships where user_id = %s", user)
        holding.execute(
            "insert into mirror.outbox (lane, mapping, key)"
            " values (0, 'trip_memberships', array[%s::text, %s::text])",
            [trip, user],
        )
        holding.commit()
        holding.execute("select from mirror.outbox for update")
        until(lambda: not reads())
        holding.rollback()
    until(lambda: bounded.value("select count(*) from trip_memberships") == 0)
