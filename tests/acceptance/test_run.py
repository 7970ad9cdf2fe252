"""The real `mirror run`: one process that mirrors, without Redis."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from examples.trip_chat import models
from examples.trip_chat.people import PeopleInSql
from examples.trip_chat.story import TripChatApp, play_story
from mappings.trips import registry
from mirror.devstack import PostgresCluster, RedisServer, prepare_cluster, prepare_database
from mirror.schema.migrate import upgrade
from mirror.settings import load_settings
from tests.acceptance.conftest import Command, StartService, StartWorker
from tests.support.claimed import suspected
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory
from tests.support.services import Service
from tests.support.transaction_pooler import TransactionPooler
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("no_environment")

WAITING = "select (select count(*) from mirror.outbox) + (select count(*) from mirror.retries)"
MEMBERS = "select count(*) from trip_memberships"


StartRun = Callable[..., Service]


@pytest.fixture
def start_run(primary: TestDatabase, target: TestDatabase, start_service: StartService) -> StartRun:
    """Return a function that starts `mirror run`; keyword arguments are further variables."""

    def start(**variables: str) -> Service:
        urls = {"PRIMARY_DATABASE_URL": primary.url, "SUPABASE_DB_URL": target.url}
        run = start_service("run", urls | variables)
        run.wait_until_logged("watching")
        return run

    return start


@pytest.fixture
def triggers(mirror: Command) -> None:
    """Triggers record every change in the primary."""
    assert mirror("migrate", "primary", "--triggers").code == 0


@pytest.fixture
def members(session: Session, triggers: None) -> list[tuple[UUID, UUID]]:
    """Memberships in the primary: the ids of trip and user."""
    made = [MembershipFactory() for _ in range(30)]
    session.commit()
    return [(member.trip_id, member.user_id) for member in made]


@contextmanager
def writing(primary: TestDatabase, members: list[tuple[UUID, UUID]]) -> Iterator[None]:
    """Change random memberships, as fast as possible, until the end of the block."""
    stop = threading.Event()

    def write() -> None:
        with primary.connect() as connection:
            while not stop.is_set():
                connection.execute(
                    "update trip_memberships set role = case role when 'MEMBER' then 'ADMIN'"
                    " else 'MEMBER' end::trip_role where (trip_id, user_id) = (%s, %s)",
                    random.choice(members),
                )

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()


def change(primary: TestDatabase) -> None:
    """Record an event for each member, without a ring."""
    primary.query(
        "insert into mirror.outbox (mapping, key)"
        " select 'trip_memberships', array[trip_id::text, user_id::text] from trip_memberships"
    )


def test_it_plays_the_demos_story_alone(
    start_run: StartRun, primary: TestDatabase, target: TestDatabase, monkeypatch: Any
) -> None:
    """Where the story kills Redis, which is not there, this process is killed."""
    monkeypatch.setenv("PRIMARY_DATABASE_URL", primary.url)
    monkeypatch.setenv("SUPABASE_DB_URL", target.url)
    stack = SimpleNamespace(primary_url=primary.url, supabase_db_url=target.url, redis=start_run())
    trip_chat = TripChatApp(
        cast("Any", stack), cast("Any", None), load_settings(), PeopleInSql(target.url)
    )
    assert [step.text for step in play_story(trip_chat) if not step.held] == []
    trip_chat.engine.dispose()


def test_it_listens_and_the_parts_are_known_to_be_at_work(
    start_run: StartRun,
    mirror: Command,
    members: list[tuple[UUID, UUID]],
    primary: TestDatabase,
    target: TestDatabase,
) -> None:
    """A direct URL needs no setting; health and doctor miss no part, and no Redis."""
    run = start_run()
    until(lambda: run.logged("listening"))
    until(lambda: target.value(MEMBERS) == len(members))
    noted = "select array_agg(split_part(name, '@', 1) order by name) from mirror.heartbeats"
    until(lambda: primary.value(noted) == ["drain", "relay", "run", "sweep"])
    assert mirror("health", "--part", "run").code == 0
    done = mirror("doctor")
    assert not {"redis-not-set", "beat-missing", "relay-missing"} & set(done.out.split()), done.out


def test_it_polls_through_a_transaction_pooler(
    start_run: StartRun,
    members: list[tuple[UUID, UUID]],
    primary: TestDatabase,
    target: TestDatabase,
) -> None:
    """It notices by itself that no notification arrives, and says so once."""
    with TransactionPooler(primary.url) as pooler:
        run = start_run(PRIMARY_DATABASE_URL=pooler.url)
        until(lambda: '"polling instead of listening' in run.log.read_text())
        primary.query("delete from trip_memberships where user_id = %s", members[0][1])
        until(lambda: target.value(MEMBERS) == len(members) - 1)
        assert run.end(signal.SIGTERM) == 0
        assert run.log.read_text().count("polling instead of listening") == 1


def test_it_takes_the_turns_of_the_night(start_run: StartRun, primary: TestDatabase) -> None:
    """It reconciles and purges, once, by the records in the primary."""
    primary.query("update mirror.migrations set applied_at = now() - interval '3 days'")
    run = start_run(MIRROR_SWEEP_SECONDS="1")
    until(lambda: run.logged("purged") and run.logged("reconciled"))
    primary.query("delete from mirror.heartbeats where name like 'sweep@%'")
    assert primary.query("select started_by, outcome from mirror.runs") == [("beat", "in line")]
    assert run.logged("purged") == 1


def test_it_takes_its_next_turn_however_soon_that_is(
    start_run: StartRun, primary: TestDatabase
) -> None:
    """Only a turn that left no record has to wait for an hour."""
    primary.query("update mirror.migrations set applied_at = now() - interval '3 days'")
    run = start_run(MIRROR_SWEEP_SECONDS="1")
    # The purge comes after the reconcile: then it has looked at what that has left.
    until(lambda: run.logged("reconciled") and run.logged("purged"))
    primary.query("update mirror.runs set started_at = now() - interval '2 days'")
    until(lambda: run.logged("reconciled") == 2)


@pytest.mark.parametrize(("stop_signal", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_in_order_under_load(
    start_run: StartRun,
    mirror: Command,
    members: list[tuple[UUID, UUID]],
    primary: TestDatabase,
    stop_signal: signal.Signals,
    code: int,
) -> None:
    """Its batch is settled or given back: it is not taken for crashed, no event is set apart."""
    run = start_run()
    with writing(primary, members):
        until(lambda: run.logged("drained") > 5)
        assert run.end(stop_signal) == code
        assert suspected(primary) == 0
    assert primary.value("select count(*) from mirror.retries") == 0
    assert mirror("drain").code == 0
    assert mirror("reconcile", "--dry-run").code == 0


def test_a_celery_worker_ends_in_order_under_load(
    start_worker: StartWorker,
    mirror: Command,
    members: list[tuple[UUID, UUID]],
    primary: TestDatabase,
    worker_log: Path,
) -> None:
    """It does not drain on until its time is over: a platform would kill it before."""
    worker = start_worker(MIRROR_SWEEP_SECONDS="1", MIRROR_DRAIN_SECONDS="3000")
    with writing(primary, members):
        until(lambda: worker_log.read_text().count('"drained"') > 5)
        os.kill(worker.pid, signal.SIGTERM)
        until(lambda: not worker.alive)
        assert suspected(primary) == 0
    assert primary.value("select count(*) from mirror.retries") == 0
    assert mirror("drain").code == 0


def test_a_relay_ends_in_order_under_load(
    members: list[tuple[UUID, UUID]],
    primary: TestDatabase,
    redis_server: RedisServer,
    start_service: StartService,
) -> None:
    """It has nothing to roll back."""
    urls = {
        "PRIMARY_DATABASE_URL": primary.url,
        "PRIMARY_LISTEN_URL": primary.url,
        "REDIS_URL": redis_server.url,
    }
    relay = start_service("relay", urls)
    with writing(primary, members):
        relay.wait_until_logged("listening")
        assert relay.end(signal.SIGTERM) == 0


def test_killed_at_any_moment_it_loses_nothing(
    start_run: StartRun,
    mirror: Command,
    members: list[tuple[UUID, UUID]],
    primary: TestDatabase,
) -> None:
    """While changes go on, it is killed again and again; then both sides are equal."""
    run = start_run()
    with writing(primary, members):
        for kills in range(1, 5):
            drained = run.logged("drained")
            until(lambda: run.logged("drained") > drained)  # noqa: B023 - called at once
            # The moment of the kill is the point: anywhere in the next batches.
            time.sleep(random.uniform(0, 0.1))
            run.kill()
            run.restart()
            until(lambda: run.logged("watching") > kills)  # noqa: B023 - likewise

    # A retry that was killed holds its event for as long as its lease lasts: minutes. Not again and
    # again: the process that lives would lose the leases that it has meanwhile.
    primary.query("update mirror.retries set due_at = least(due_at, now())")
    until(lambda: primary.value(WAITING) == 0, seconds=60)
    assert run.end(signal.SIGTERM) == 0
    assert mirror("reconcile", "--dry-run").code == 0


def test_it_listens_again_after_its_connection_was_lost(
    start_run: StartRun,
    members: list[tuple[UUID, UUID]],
    primary: TestDatabase,
    target: TestDatabase,
) -> None:
    """Meanwhile it polls; the log has a line about each."""
    run = start_run()
    until(lambda: run.logged("listening"))
    # Now and then the listener asks whether its connection lives.
    ended = (
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and query in ('listen mirror', 'select 1')"
    )
    until(lambda: primary.query(ended))
    until(lambda: run.logged("polling until listening works again"))
    until(lambda: run.logged("listening") == 2)
    primary.query("delete from trip_memberships where user_id = %s", members[0][1])
    until(lambda: target.value(MEMBERS) == len(members) - 1)
    assert run.logged("polling until listening works again") == 1


def test_its_servers_may_be_down_with_a_line_about_each(
    start_run: StartRun, tmp_path: Path
) -> None:
    """The primary is down for a while, then the target; each time it goes on by itself."""
    with (
        PostgresCluster.start(tmp_path / "primary", version=16, durable=False) as first,
        PostgresCluster.start(
            tmp_path / "target", version=18, superuser="supabase_admin", durable=False
        ) as second,
    ):
        prepare_cluster(second)
        prepare_database(second, "postgres")
        primary, target = TestDatabase(first.url()), TestDatabase(second.url(user="postgres"))
        with primary.migrating() as connection:
            models.Base.metadata.create_all(connection)
            upgrade(connection)
        with target.migrating() as connection:
            upgrade(connection, "supabase", registry)
        run = start_run(PRIMARY_DATABASE_URL=primary.url, SUPABASE_DB_URL=target.url)

        def mirrors(users: int) -> None:
            primary.query(
                "with added as (insert into users (id, email, username)"
                " values (gen_random_uuid(), gen_random_uuid()::text, 'a') returning id)"
                " insert into mirror.outbox (mapping, key)"
                " select 'users', array[id::text] from added"
            )
            until(lambda: target.value("select count(*) from users") == users)

        mirrors(1)
        first.stop()
        until(lambda: run.logged("waiting for the primary"))
        first.restart()
        mirrors(2)
        second.stop()
        primary.query("insert into mirror.outbox (mapping, key) values ('users', '{a}')")
        until(lambda: run.logged("events wait"))
        second.restart()
        mirrors(3)
        until(lambda: run.logged("events are mirrored again"))
        assert run.logged("waiting for the primary") == 1


def test_wrong_settings_are_exit_code_2(mirror: Command) -> None:
    """The error names the setting."""
    done = mirror("run", PRIMARY_DATABASE_URL=None)
    assert (done.code, "PRIMARY_DATABASE_URL is not set" in done.err) == (2, True), done.text
    done = mirror("run", SUPABASE_DB_URL=None)
    assert (done.code, "SUPABASE_DB_URL is not set" in done.err) == (2, True), done.text
    done = mirror("run", MIRROR_RECONCILE_CRON="61 3 * * *")
    assert (done.code, "MIRROR_RECONCILE_CRON" in done.err) == (2, True), done.text


def test_an_unmigrated_primary_is_exit_code_4(mirror: Command, primary: TestDatabase) -> None:
    """The error has the remedy."""
    primary.query("drop schema mirror cascade")
    done = mirror("run")
    assert (done.code, "mirror migrate primary" in done.err) == (4, True), done.text


def test_redis_is_not_used(start_run: StartRun) -> None:
    """A backend that still rings there would fill the queue, so a warning says so."""
    run = start_run(REDIS_URL="redis://127.0.0.1:9/0")
    assert '"REDIS_URL is not used' in run.log.read_text()
