"""Everything works behind transaction poolers on both sides."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from sqlalchemy import NullPool, create_engine
from sqlalchemy.orm import Session

from mappings.trips import registry
from mirror.diagnostics.figures import read_figures
from mirror.diagnostics.status import exit_code
from mirror.hooks import Hooks
from mirror.schema.connecting import migrating
from mirror.schema.migrate import upgrade
from mirror.settings import Settings, load_settings
from mirror.sync.wiring import build_drain, build_source, build_target
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory
from tests.support.transaction_pooler import TransactionPooler


@pytest.fixture
def pooled(primary: TestDatabase, target: TestDatabase) -> Iterator[Settings]:
    """Settings whose URLs lead through a pooler on both sides."""
    with TransactionPooler(primary.url) as one, TransactionPooler(target.url) as other:
        yield load_settings(primary_database_url=one.url, supabase_db_url=other.url)


def test_the_pooler_of_these_tests_keeps_no_session(primary: TestDatabase) -> None:
    """A setting of the session is gone in its next transaction."""
    with TransactionPooler(primary.url) as pooler:
        database = TestDatabase(pooler.url)
        with database.connect(prepare_threshold=None) as connection:
            connection.execute("set application_name = 'mine'")
            row = connection.execute("show application_name").fetchone()
            pids = {connection.execute("select pg_backend_pid()").fetchone() for _ in range(4)}
    assert row != ("mine",)
    assert len(pids) == 4


def test_events_are_mirrored_through_poolers(
    pooled: Settings, session: Session, recorder: Hooks, target: TestDatabase
) -> None:
    """This covers keys, scopes, parents, retries and several batches."""
    members = MembershipFactory.create_batch(12)
    session.flush()
    for member in members:
        recorder.changed(session, "trip_memberships", (member.trip_id, member.user_id), "grant")
    session.commit()
    drain = build_drain(pooled.model_copy(update={"batch_size": 5}), registry)
    drain.run()
    assert target.value("select count(*) from trip_memberships") == 12

    session.delete(members[0])
    recorder.scope_changed(session, "trip_memberships", trip_id=members[0].trip_id)
    recorder.changed(session, "users", uuid4())
    session.commit()
    drain.run()
    drain.close()
    assert target.value("select count(*) from trip_memberships") == 11


def test_hooks_record_through_a_pooler(
    pooled: Settings, primary: TestDatabase, recorder: Hooks
) -> None:
    """The backend itself connects through the pooler."""
    url = pooled.need("primary_database_url").replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url, poolclass=NullPool, connect_args={"prepare_threshold": None})
    with Session(engine) as session, session.begin():
        session.connection()
        recorder.changed(session, "users", uuid4())
    assert primary.value("select count(*) from mirror.outbox") == 1


@pytest.mark.long
def test_commands_work_through_poolers(pooled: Settings, project: TestDatabase) -> None:
    """Migrating and asking for the status need no session either."""
    with TransactionPooler(project.url) as pooler:
        settings = load_settings(
            primary_database_url=pooled.need("primary_database_url"), supabase_db_url=pooler.url
        )
        with migrating(settings, "primary") as connection:
            assert upgrade(connection) == []
        with migrating(settings, "supabase") as connection:
            assert upgrade(connection, "supabase", registry) == ["0001_engine", "model_trips"]
        source, target = build_source(settings), build_target(settings)
        assert exit_code(read_figures(settings, registry, source, target)) == 0
        source.close()
        target.close()
