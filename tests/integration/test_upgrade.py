"""The databases of an earlier version migrate to today's, and nothing that they hold is lost.

`tests/support/releases/` has the SQL that version 0.1.0 printed for both sides of the trips model.
"""

import gzip
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from examples.trip_chat import models
from mappings.trips import registry
from mirror.devstack import PostgresCluster
from mirror.reconcile import Options, Throttle, reconcile
from mirror.schema.migrate import upgrade
from mirror.settings import load_settings
from mirror.sync.wiring import build_drain
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory
from tests.support.waiting import until

RELEASES = Path(__file__).parent.parent / "support" / "releases"

# Five members in the primary, one of whom has left since a worker mirrored all of them.
ROWS = """
insert into users (id, email, username)
select md5('user' || n)::uuid, n || '@example.com', 'user' || n from generate_series(1, 5) as n;
insert into trips (id, name, created_by) values (md5('trip')::uuid, 'Lisbon', md5('user1')::uuid);
insert into trip_memberships (trip_id, user_id, role, status)
select md5('trip')::uuid, id, 'MEMBER', 'ACTIVE' from users;
"""
MIRRORED = """
insert into mirror.ledger_users (id, epoch, fence, present, applied_at)
select id, 0, 1, true, now() from users;
insert into mirror.ledger_trips (id, epoch, fence, present, applied_at)
select id, 0, 1, true, now() from trips;
insert into mirror.ledger_trip_memberships (trip_id, user_id, epoch, fence, present, applied_at)
select trip_id, user_id, 0, 1, true, now() from trip_memberships;
insert into mirror.ledger_trip_memberships (trip_id, user_id, epoch, fence, present, applied_at)
values (md5('trip')::uuid, md5('long gone')::uuid, 0, 1, false, now());
"""
# Two members leave. The event of one waits; the event of the other has failed.
CHANGES = """
delete from trip_memberships where user_id in (md5('user4')::uuid, md5('user5')::uuid);
insert into mirror.outbox (lane, mapping, key)
values (0, 'trip_memberships', array[md5('trip')::uuid::text, md5('user4')::uuid::text]);
insert into mirror.retries (id, lane, recorded_at, mapping, key, attempts, due_at, error)
values (1000001, 0, now(), 'trip_memberships',
  array[md5('trip')::uuid::text, md5('user5')::uuid::text], 1, now(), 'Rejected: no');
insert into mirror.retries (id, lane, recorded_at, mapping, key, attempts, due_at, error, buried_at)
values (1000002, 0, now(), 'users', '{nobody}', 5, now(), 'InvalidKey: no', now());
insert into mirror.heartbeats values ('drain', now()), ('purge', now());
"""


def script(name: str) -> str:
    """Return the SQL of a release."""
    return gzip.decompress((RELEASES / f"{name}.sql.gz").read_bytes()).decode()


@pytest.fixture
def old_primary(primary_cluster: PostgresCluster) -> Iterator[TestDatabase]:
    """A primary of version 0.1.0."""
    primary_cluster.create_database("old_primary")
    database = TestDatabase(primary_cluster.url("old_primary"))
    with database.migrating() as connection:
        models.Base.metadata.create_all(connection)
    database.query(script("0.1.0-primary"))
    database.query(ROWS)
    yield database
    primary_cluster.drop_database("old_primary")


@pytest.fixture
def old_target(project: TestDatabase) -> TestDatabase:
    """A target of version 0.1.0, to which a worker has mirrored the primary."""
    project.query(script("0.1.0-supabase"))
    project.query(ROWS + MIRRORED)
    return project


def test_what_an_earlier_version_left_is_mirrored_after_the_migration(
    old_primary: TestDatabase, old_target: TestDatabase
) -> None:
    """Waiting events, those that were set apart, and dead ones; then both sides are equal."""
    old_primary.query(CHANGES)
    with old_primary.migrating() as connection:
        upgrade(connection)
    with old_target.migrating() as connection:
        upgrade(connection, "supabase", registry)
    settings = load_settings(primary_database_url=old_primary.url, supabase_db_url=old_target.url)
    with closing(build_drain(settings, registry)) as drain:
        done = drain.run()
        assert (done.events, done.failed) == (2, 0)
        throttle = Throttle(drain.queue.beside, backlog=10**9, latency_seconds=60)
        assert reconcile(drain, Options(grace_seconds=0), throttle).outcome == "in line"
    members = "select array_agg(user_id order by user_id) from trip_memberships"
    assert old_target.value(members) == old_primary.value(members)
    assert old_primary.query("select id, buried_at is not null from mirror.retries") == [
        (1000002, True)
    ]


def test_an_upgraded_target_has_the_indexes_of_a_new_one(
    old_target: TestDatabase, target: TestDatabase
) -> None:
    """Later versions find the ledger rows of a user by the index of the mirrored table."""
    indexes = "select indexdef from pg_indexes where schemaname = 'mirror' order by 1"
    assert "ledger_trip_memberships_by_user_id" in str(old_target.query(indexes))
    with old_target.migrating() as connection:
        upgrade(connection, "supabase", registry)
    assert old_target.query(indexes) == target.query(indexes)


def test_a_primary_with_triggers_migrates_while_its_tables_are_written(
    primary: TestDatabase, session: Session
) -> None:
    """A writer waits for the migration, and neither waits for the other for ever."""
    MembershipFactory()
    session.commit()
    with primary.migrating() as connection:
        upgrade(connection, registry=registry, triggers=True)
    stop = threading.Event()
    written: list[int] = []

    def write() -> None:
        with primary.connect() as connection:
            while not stop.is_set():
                connection.execute("update trip_memberships set role = 'ADMIN', status = 'ACTIVE'")
                connection.execute("update trip_memberships set role = 'MEMBER'")
                written.append(1)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        until(lambda: len(written) > 10)
        # As if these were new.
        primary.query(
            "delete from mirror.migrations where name in ('0005_outbox_rights', '0007_pairing');"
            "update mirror.migrations set checksum = 'old' where name = 'triggers_trips'"
        )
        with primary.migrating() as connection:
            applied = upgrade(connection, registry=registry)
        before = len(written)
        until(lambda: len(written) > before + 10)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert applied == ["0005_outbox_rights", "0007_pairing", "triggers_trips"]
