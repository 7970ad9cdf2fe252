"""The main job in its shortest form: a domain event grants a permission, another revokes it."""

from uuid import uuid4

from sqlalchemy.orm import Session

from examples.trip_chat import services
from mirror.sync.drain import Drain
from tests.support.databases import TestDatabase


def messages_seen(target: TestDatabase, user_id: object) -> int:
    """Return how many chat messages row-level security lets a user read."""
    with target.acting_as(str(user_id)) as connection:
        row = connection.execute("select count(*) from chat_messages").fetchone()
        return int(row[0]) if row else -1


def test_a_member_reads_the_chat_from_joining_until_leaving(
    session: Session, drain: Drain, target: TestDatabase
) -> None:
    """Reading is refused, allowed after member_added, and refused again after member_removed."""
    owner, guest = uuid4(), uuid4()
    services.sign_up(session, owner, "owner@example.com", "owner")
    services.sign_up(session, guest, "guest@example.com", "guest")
    session.flush()
    trip = services.create_trip(session, owner, "Lisbon")
    session.commit()
    drain.run()
    target.query(
        "insert into chat_messages (trip_id, sender_id, content) values (%s, %s, 'hello')",
        trip.id,
        owner,
    )
    assert messages_seen(target, owner) == 1
    assert messages_seen(target, guest) == 0

    services.invite(session, trip.id, guest)
    session.commit()
    drain.run()
    assert messages_seen(target, guest) == 0

    services.accept_invitation(session, trip.id, guest)
    session.commit()
    drain.run()
    assert messages_seen(target, guest) == 1

    services.remove_member(session, trip.id, guest)
    session.commit()
    drain.run()
    assert messages_seen(target, guest) == 0
