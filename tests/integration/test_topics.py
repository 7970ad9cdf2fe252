"""Private channels: malformed topics, and the news sent for each change, also after faults."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy.orm import Session

from examples.trip_chat import services
from examples.trip_chat.models import Role
from mappings.trips import registry
from mirror.devstack import PostgresCluster, prepare_services
from mirror.schema.migrate import upgrade
from mirror.sync.drain import Drain
from tests.support.databases import SCHEMA, TestDatabase
from tests.support.policy_matrix import joins
from tests.support.rest import run_snippet

OWNER, GUEST = uuid4(), uuid4()


@pytest.fixture
def trip(session: Session, drain: Drain, target: TestDatabase) -> UUID:
    """A trip whose owner has got news; no other news has been sent."""
    services.sign_up(session, OWNER, "owner@example.com", "owner")
    services.sign_up(session, GUEST, "guest@example.com", "guest")
    session.flush()
    trip = services.create_trip(session, OWNER, "Lisbon")
    session.commit()
    drain.run()
    return trip.id


def sent_news(target: TestDatabase) -> list[tuple[str, str, dict[str, object]]]:
    """Return the news since the last call: topic, event and payload."""
    rows = target.query(
        "select topic, event, payload - 'id' from realtime.messages"
        " where private and extension = 'broadcast' order by topic, event"
    )
    target.query("truncate realtime.messages")
    return rows


@pytest.mark.parametrize(
    "topic",
    [
        "",
        ":",
        "trip",
        "trip:",
        "trip:x",
        "trip:{trip}:x",
        "trip:{trip} ",
        " trip:{trip}",
        "trip: {trip}",
        "Trip:{trip}",
        "trip:{TRIP}",
        "trip:{bare}",
        "trip::{trip}",
        "realtime:trip:{trip}",
        "{trip}",
        "trip:%",
        "trip:{{{trip}}}",
        "user:",
        "user:{trip}",
        "trip:{owner}",
        "trip:" + "0" * 5000,
    ],
)
def test_a_malformed_topic_belongs_to_no_user(trip: UUID, target: TestDatabase, topic: str) -> None:
    """No cast is needed, so no error arises, which Realtime would log for each attempt."""
    text = str(trip)
    name = topic.format(trip=text, TRIP=text.upper(), bare=text.replace("-", ""), owner=OWNER)
    assert joins(target, OWNER, f"trip:{trip}") == {"broadcast", "presence"}
    assert joins(target, OWNER, name) == set()
    for extension in ("broadcast", "presence"):
        with (
            target.acting_as(OWNER) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(
                "insert into realtime.messages (topic, extension) values (%s, %s)",
                [name, extension],
            )


def test_a_user_gets_news_of_joining_of_a_new_role_and_of_leaving(
    trip: UUID, session: Session, drain: Drain, target: TestDatabase
) -> None:
    """The topic is open to this user only; an invitation sends no news yet."""

    def news(event: str, role: str) -> list[tuple[str, str, dict[str, object]]]:
        return [(f"user:{GUEST}", event, {"trip_id": str(trip), "role": role})]

    assert sent_news(target) == [
        (f"user:{OWNER}", "membership_granted", {"trip_id": str(trip), "role": "OWNER"})
    ]
    services.invite(session, trip, GUEST)
    session.commit()
    drain.run()
    assert sent_news(target) == []
    services.accept_invitation(session, trip, GUEST)
    session.commit()
    drain.run()
    assert sent_news(target) == news("membership_granted", "MEMBER")
    services.change_role(session, trip, GUEST, Role.ADMIN)
    session.commit()
    drain.run()
    assert sent_news(target) == news("membership_changed", "ADMIN")
    services.deactivate_member(session, trip, GUEST)
    session.commit()
    drain.run()
    assert sent_news(target) == news("membership_revoked", "ADMIN")
    services.remove_member(session, trip, GUEST)
    session.commit()
    drain.run()
    assert sent_news(target) == []
    assert joins(target, GUEST, f"user:{GUEST}") == {"broadcast"}
    assert joins(target, OWNER, f"user:{GUEST}") == set()


def test_every_member_gets_news_of_a_deleted_trip(
    trip: UUID, session: Session, drain: Drain, target: TestDatabase
) -> None:
    """Memberships deleted with their parent are revoked like any other."""
    sent_news(target)
    services.delete_trip(session, trip)
    session.commit()
    drain.run()
    assert [(topic, event) for topic, event, _ in sent_news(target)] == [
        (f"user:{OWNER}", "membership_revoked")
    ]


def test_the_client_of_the_page_leaves_when_it_gets_the_news(
    trip: UUID, session: Session, drain: Drain, target: TestDatabase
) -> None:
    """docs/realtime.md: it joins the user's own channel, as private, and obeys the message."""
    target.query("truncate realtime.messages")
    services.remove_member(session, trip, OWNER)
    session.commit()
    drain.run()
    ((topic, event, payload),) = sent_news(target)
    message = {"event": event, "payload": payload}
    found = run_snippet("realtime.md", "http://127.0.0.1:9", "a-key", message, userId=str(OWNER))
    assert found["joins"] == [{"topic": f"realtime:{topic}", "private": True}]
    assert found["left"] == [payload]


SEND = "realtime.send(jsonb, text, text, boolean)"


@pytest.fixture
def other_transaction(target: TestDatabase) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A transaction of another session."""
    with target.connect(autocommit=False) as connection:
        yield connection
        connection.rollback()


@pytest.mark.parametrize(
    "fault",
    [
        "drop table realtime.messages",
        f"drop function {SEND}",
        "drop schema realtime cascade",
        "revoke all on schema realtime from postgres, supabase_realtime_admin",
        f"revoke all on function {SEND} from public, postgres",
        "alter table realtime.messages add constraint never check (false) not valid",
        "alter table realtime.messages drop column event",
        (
            "create or replace function realtime.send(payload jsonb, event text, topic text,"
            " private boolean default true) returns void language plpgsql"
            " as $$ begin raise exception 'no'; end $$"
        ),
    ],
)
def test_a_revocation_goes_through_with_any_fault_of_realtime(
    trip: UUID,
    session: Session,
    drain: Drain,
    target: TestDatabase,
    target_cluster: PostgresCluster,
    fault: str,
) -> None:
    """It goes through at once, not after a retry."""
    superuser = TestDatabase(target_cluster.url(target.url.rsplit("/", 1)[-1]))
    superuser.query(fault)
    services.remove_member(session, trip, OWNER)
    session.commit()
    drain.run()
    assert target.value("select count(*) from trip_memberships") == 0


def test_a_revocation_does_not_wait_for_a_lock_on_realtimes_table(
    trip: UUID,
    session: Session,
    drain: Drain,
    target: TestDatabase,
    other_transaction: psycopg.Connection[tuple[object, ...]],
) -> None:
    """A migration that creates policies there would hold it, for example."""
    other_transaction.execute("lock table realtime.messages in access exclusive mode")
    services.remove_member(session, trip, OWNER)
    session.commit()
    drain.run()
    assert target.value("select count(*) from trip_memberships") == 0


def test_sending_news_needs_no_more_than_realtime_grants(
    target: TestDatabase, target_cluster: PostgresCluster
) -> None:
    """On newer projects, postgres is no member of the role that owns the table."""
    user, trip = uuid4(), uuid4()
    superuser = TestDatabase(target_cluster.url(target.url.rsplit("/", 1)[-1]))
    with superuser.connect(autocommit=False) as connection:
        connection.execute("revoke supabase_realtime_admin from postgres")
        connection.execute("set local role postgres")
        connection.execute("insert into users values (%s)", [user])
        connection.execute("insert into trips values (%s)", [trip])
        connection.execute(
            "insert into trip_memberships values (%s, %s, 'MEMBER', 'ACTIVE')", [trip, user]
        )
        found = connection.execute("select topic from realtime.messages").fetchall()
        connection.rollback()
    assert found == [(f"user:{user}",)]


def test_channels_are_guarded_once_realtime_has_made_its_table(
    project: TestDatabase, target_cluster: PostgresCluster
) -> None:
    """Before that, there is no table to guard; a second request guards it."""
    project.query(SCHEMA.read_text())
    policies = "select count(*) from pg_policies where schemaname = 'realtime'"
    with project.migrating() as connection:
        upgrade(connection, "supabase", registry, guards=True)
    assert project.value(policies) == 0
    prepare_services(target_cluster, project.url.rsplit("/", 1)[-1])
    with project.migrating() as connection:
        assert upgrade(connection, "supabase", registry, guards=True) == ["guards_trips"]
    assert project.value(policies) == 2


def test_no_user_gets_news_once_the_declaration_removes_topics(target: TestDatabase) -> None:
    """The triggers are removed with the topics."""
    triggers = "select count(*) from pg_trigger where tgname like 'mirror\\_trips\\_told%'"
    assert target.value(triggers) == 3
    target.query("select mirror.drop_guards('trips')")
    assert target.value(triggers) == 0
