"""Heartbeats: each part of the mirror records that it is at work, at little cost."""

import socket
from collections.abc import Callable

from sqlalchemy.orm import Session

from mirror.settings import Settings
from mirror.sync.drain import Drain
from mirror.sync.heartbeats import Heartbeat, forget_heartbeats
from mirror.sync.wiring import primary_database
from tests.support.databases import TestDatabase
from tests.support.factories import UserFactory

NOTED = "select array_agg(name order by name) from mirror.heartbeats"
VERSION = "select xmin::text from mirror.heartbeats where name like 'drain@%'"
FRESH = "select seen_at > now() - interval '1 minute' from mirror.heartbeats"
MAKE_OLD = "update mirror.heartbeats set seen_at = now() - interval '1 hour'"


def test_a_drain_that_finds_no_event_writes_a_heartbeat(
    drain: Drain, primary: TestDatabase
) -> None:
    """The drain asked for events, which proves that it is at work."""
    drain.run()
    assert primary.value(NOTED) == [f"drain@{socket.gethostname()}"]


def test_it_is_written_every_half_minute_however_many_ask(
    make_drain: Callable[..., Drain], primary: TestDatabase
) -> None:
    """This holds for one process and for several."""
    drain = make_drain()
    drain.run()
    first = primary.value(VERSION)
    drain.run()
    make_drain().run()
    assert primary.value(VERSION) == first
    primary.query(MAKE_OLD)
    make_drain().run()
    assert primary.value(FRESH)


def test_it_is_written_again_after_half_a_minute(settings: Settings, primary: TestDatabase) -> None:
    """The same process writes it again."""
    times = [0.0, 29.0, 30.0]
    heartbeat = Heartbeat("relay", iter(times).__next__)
    database = primary_database(settings)
    fresh = []
    for _ in times:
        heartbeat.beat(database)
        fresh.append(primary.value(FRESH))
        primary.query(MAKE_OLD)
    database.close()
    assert fresh == [True, False, True]


def test_a_primary_without_the_table_is_drained_all_the_same(
    drain: Drain, session: Session, primary: TestDatabase, target: TestDatabase
) -> None:
    """A worker may be newer than its primary's schema."""
    primary.query("drop table mirror.heartbeats")
    user = UserFactory()
    session.commit()
    primary.query("insert into mirror.outbox (mapping, key) values ('users', %s)", [str(user.id)])
    drain.run()
    assert target.value("select count(*) from users") == 1


def test_heartbeats_of_machines_that_are_gone_are_forgotten_except_the_last_of_each_part(
    primary: TestDatabase, settings: Settings
) -> None:
    """A purge does so."""
    primary.query(
        "insert into mirror.heartbeats values ('drain@old', now() - interval '9 days'),"
        " ('drain@new', now()), ('purge@old', now() - interval '9 days')"
    )
    database = primary_database(settings)
    forget_heartbeats(database)
    database.close()
    assert primary.value(NOTED) == ["drain@new", "purge@old"]
