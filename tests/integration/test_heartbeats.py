"""Heartbeats: each part of the mirror records that it is at work, at little cost."""

from collections.abc import Callable

from sqlalchemy.orm import Session

from mirror.settings import Settings
from mirror.sync.drain import Drain
from mirror.sync.heartbeats import Heartbeat
from mirror.sync.wiring import primary_database
from tests.support.databases import TestDatabase
from tests.support.factories import UserFactory

NOTED = "select array_agg(name order by name) from mirror.heartbeats"
VERSION = "select xmin::text from mirror.heartbeats where name = 'drain'"
FRESH = "select seen_at > now() - interval '1 minute' from mirror.heartbeats"
MAKE_OLD = "update mirror.heartbeats set seen_at = now() - interval '1 hour'"


def test_a_drain_that_finds_no_event_writes_a_heartbeat(
    drain: Drain, primary: TestDatabase
) -> None:
    """The drain asked for events, which proves that it is at work."""
    drain.run()
    assert primary.value(NOTED) == ["drain"]


def test_it_is_written_once_a_minute_however_many_ask(
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


def test_it_is_written_again_after_a_minute(settings: Settings, primary: TestDatabase) -> None:
    """The same process writes it again."""
    times = [0.0, 59.0, 60.0]
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
