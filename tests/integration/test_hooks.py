"""Hooks: events commit with the change, by one statement, or not at all."""

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
from sqlalchemy import (
    Engine,
    StaticPool,
    Table,
    Text,
    column,
    create_engine,
    event,
    insert,
    select,
    table,
    text,
)
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.ext.horizontal_shard import ShardedSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.sql.expression import Delete, Update

from examples.trip_chat.models import Base, Trip, User
from mappings.trips import registry
from mirror import hooks
from mirror.capture import outbox
from mirror.capture.doorbell import Doorbell, DoorbellSettings
from mirror.devstack import PostgresCluster
from mirror.errors import (
    ConfigError,
    InvalidKey,
    MappingError,
    NotInTransaction,
    NotMigrated,
    UsageError,
)
from mirror.model.mapping import Column, Mapping
from mirror.model.registry import Registry
from mirror.schema.migrate import upgrade
from tests.support.databases import TestDatabase

ROOT = Path(__file__).parent.parent.parent


def recorded(primary: TestDatabase) -> list[tuple[Any, ...]]:
    """Return the outbox: mapping and key of each event, in order."""
    return primary.query("select mapping, key from mirror.outbox order by id")


@contextmanager
def inserts_counted(engine: Engine) -> Iterator[list[str]]:
    """Yield a list that fills with the statements sent to the outbox."""
    seen: list[str] = []

    def count(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "mirror.outbox" in statement:
            seen.append(statement)

    event.listen(engine, "before_cursor_execute", count)
    yield seen
    event.remove(engine, "before_cursor_execute", count)


def user(name: str = "ann") -> User:
    """Return a user outside any session."""
    return User(id=uuid4(), email=f"{name}@example.com", username=name)


# The events of a commit


def test_all_events_of_a_commit_are_written_by_one_statement(
    engine: Engine, primary: TestDatabase, recorder: hooks.Hooks
) -> None:
    """This holds for any number of events, mappings and flushes; each event is written once."""
    ids = [uuid4() for _ in range(300)]
    with inserts_counted(engine) as inserts, Session(engine) as session:
        for one in ids:
            session.add(User(id=one, email=f"{one}@example.com", username="u"))
            recorder.changed(session, "users", one, "grant")
            recorder.changed(session, "users", str(one).upper(), "grant")
            if one.int % 50 == 0:
                session.flush()
        recorder.changed(session, "trip_memberships", (ids[0], ids[1]))
        recorder.scope_changed(session, "trip_memberships", user_id=ids[0])
        assert inserts == []
        session.commit()
        assert len(inserts) == 1
    assert recorded(primary) == [
        *(("users", [str(one)]) for one in ids),
        ("trip_memberships", [str(ids[0]), str(ids[1])]),
        ("trip_memberships", [str(ids[0])]),
    ]
    assert primary.query(
        "select lane, reference, count(*) from mirror.outbox group by 1, 2 order by 1, 2"
    ) == [(0, "user_id", 1), (0, None, 1), (1, None, 300)]


def test_a_commit_without_events_touches_no_outbox(engine: Engine, recorder: hooks.Hooks) -> None:
    """This holds on a session that had events before, too."""
    with Session(engine) as session:
        session.add(user())
        recorder.changed(session, "users", uuid4())
        session.commit()
        with inserts_counted(engine) as inserts:
            session.add(user("bob"))
            session.commit()
            session.commit()
        assert inserts == []


@pytest.mark.parametrize("ending", ["rollback", "close", "error"])
def test_events_go_with_the_change_that_did_not_commit(
    engine: Engine, primary: TestDatabase, recorder: hooks.Hooks, ending: str
) -> None:
    """A rollback, a close or an exception ends it; the next transaction starts empty."""
    with Session(engine) as session:
        session.add(user())
        recorder.changed(session, "users", uuid4())
        if ending == "rollback":
            session.rollback()
        elif ending == "close":
            session.close()
        else:
            session.add_all([user("same"), user("same")])
            with pytest.raises(IntegrityError):
                session.commit()
            session.rollback()
        kept = user("kept")
        session.add(kept)
        recorder.changed(session, "users", kept.id)
        session.commit()
        assert recorded(primary) == [("users", [str(kept.id)])]
    assert primary.query("select username from users") == [("kept",)]


def test_a_session_serves_one_transaction_after_another(
    engine: Engine, primary: TestDatabase, recorder: hooks.Hooks
) -> None:
    """Each transaction writes its own events, once."""
    ids = [str(uuid4()) for _ in range(3)]
    with Session(engine) as session:
        for count, one in enumerate(ids, 1):
            session.execute(text("select 1"))
            recorder.changed(session, "users", one)
            session.commit()
            assert recorded(primary) == [("users", [i]) for i in ids[:count]]


def test_two_sessions_at_once_do_not_mix(
    engine: Engine, primary: TestDatabase, recorder: hooks.Hooks
) -> None:
    """They do not mix even if they share `info`, which sessionmaker can give to all of them."""
    make = sessionmaker(engine, info={"shared": {}})
    with make() as one, make() as other:
        for session in (one, other):
            session.execute(text("select 1"))
        recorder.changed(one, "users", UUID(int=1))
        recorder.changed(other, "users", UUID(int=2))
        recorder.changed(one, "users", UUID(int=3))
        other.rollback()
        one.commit()
    assert recorded(primary) == [("users", [str(UUID(int=n))]) for n in (1, 3)]


def test_two_recorders_on_one_session_each_write_their_events(
    engine: Engine, primary: TestDatabase
) -> None:
    """Use of both in turn adds no more listeners."""
    off = Doorbell(DoorbellSettings(mode="off"))
    one, other = hooks.Hooks(registry, off), hooks.Hooks(registry, off)
    with inserts_counted(engine) as inserts, Session(engine) as session:
        session.execute(text("select 1"))
        for n in range(50):
            (one if n % 2 else other).changed(session, "users", UUID(int=n))
        session.commit()
        assert len(inserts) == 2
    assert len(recorded(primary)) == 50


def test_scoped_sessions_of_many_threads_do_not_mix(
    primary: TestDatabase, recorder: hooks.Hooks
) -> None:
    """Each thread's own session commits or rolls back its own events."""
    engine = create_engine(primary.sqlalchemy_url, pool_size=4)
    scoped = scoped_session(sessionmaker(engine))
    start = threading.Barrier(4)

    def work(number: int) -> None:
        start.wait()
        for n in range(20):
            scoped.execute(text("select 1"))
            recorder.changed(scoped, "users", UUID(int=number * 1000 + n))
            scoped.commit() if n % 2 else scoped.rollback()
        scoped.remove()

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.dispose()
    expected = {str(UUID(int=t * 1000 + n)) for t in range(4) for n in range(1, 20, 2)}
    keys = [key[0] for _, key in recorded(primary)]
    assert len(keys) == len(expected)
    assert set(keys) == expected


# Savepoints


def test_releasing_a_savepoint_writes_nothing_yet(
    engine: Engine, recorder: hooks.Hooks, primary: TestDatabase
) -> None:
    """One statement writes all events of the commit, from every savepoint."""
    with inserts_counted(engine) as inserts, Session(engine) as session:
        with session.begin_nested():
            session.add(user())
            recorder.changed(session, "users", UUID(int=1))
            with session.begin_nested():
                recorder.changed(session, "users", UUID(int=2))
        assert inserts == []
        recorder.changed(session, "users", UUID(int=3))
        session.commit()
        assert len(inserts) == 1
    assert len(recorded(primary)) == 3


def test_the_events_of_a_savepoint_that_rolled_back_are_kept(
    engine: Engine, recorder: hooks.Hooks, primary: TestDatabase
) -> None:
    """An event says that a row may have changed; the drain reads the row and finds it unchanged."""
    with Session(engine) as session:
        session.add(user("kept"))
        with session.begin_nested() as savepoint:
            recorder.changed(session, "users", UUID(int=1))
            savepoint.rollback()
        session.commit()
    assert recorded(primary) == [("users", [str(UUID(int=1))])]


@pytest.mark.parametrize("depth", [1, 2])
def test_the_outer_transaction_may_commit_with_a_savepoint_still_open(
    engine: Engine, recorder: hooks.Hooks, primary: TestDatabase, depth: int
) -> None:
    """SQLAlchemy releases it during the commit, and its events are written."""
    with Session(engine) as session:
        with session.begin():
            recorder.changed(session, "users", UUID(int=1))
            for _ in range(depth):
                session.begin_nested()
            session.add(user())
            recorder.changed(session, "users", UUID(int=2))
        assert len(recorded(primary)) == 2
        assert primary.value("select count(*) from users") == 1
        session.add(user("bob"))
        recorder.changed(session, "users", UUID(int=3))
        session.commit()
    assert len(recorded(primary)) == 3


def test_session_commit_ends_open_savepoints_as_well(
    engine: Engine, recorder: hooks.Hooks, primary: TestDatabase
) -> None:
    """Session.commit is another method for it."""
    with inserts_counted(engine) as inserts, Session(engine) as session:
        session.add(user())
        session.begin_nested()
        recorder.changed(session, "users", UUID(int=1))
        session.commit()
        assert len(inserts) == 1
    assert len(recorded(primary)) == 1


# ORM listeners that call hooks


@pytest.mark.parametrize("moment", ["before_flush", "after_flush", "after_flush_postexec"])
@pytest.mark.parametrize("flushed", ["by commit", "before"])
@pytest.mark.parametrize("warm", [False, True])
def test_hooks_may_be_called_while_the_session_flushes(
    engine: Engine,
    recorder: hooks.Hooks,
    primary: TestDatabase,
    moment: str,
    flushed: str,
    warm: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """The commit's own flush comes after before_commit; the listener may call the first hook."""
    make = sessionmaker(engine)

    def listener(session: Session, *_: Any) -> None:
        for one in [*session.new, *session.identity_map.values()]:
            if isinstance(one, User):
                recorder.changed(session, "users", one.id)

    event.listen(make, moment, listener)
    with make() as session:
        if warm:
            session.execute(text("select 1"))
            recorder.changed(session, "users", UUID(int=1))
            session.commit()
        added = [user(str(n)) for n in range(3)]
        keys = {str(one.id) for one in added}
        with inserts_counted(engine) as inserts:
            session.add_all(added)
            if flushed == "before":
                session.flush()
            session.commit()
            assert len(inserts) == 1
    assert {key[0] for _, key in recorded(primary)[-3:]} == keys


def test_a_flush_that_fails_in_a_savepoint_leaves_the_transaction_usable(
    engine: Engine, recorder: hooks.Hooks, primary: TestDatabase
) -> None:
    """Its first hook was called inside the flush, and waits for the end of the flush."""
    make = sessionmaker(engine)
    event.listen(
        make, "before_flush", lambda session, *_: recorder.changed(session, "users", UUID(int=1))
    )
    with make() as session:
        nested = session.begin_nested()
        session.add_all([User(id=UUID(int=1), email="a", username="a") for _ in range(2)])
        with pytest.raises(IntegrityError), nested:
            session.flush()
        session.add(user())
        session.commit()
    assert len(recorded(primary)) == 1


def test_mapper_events_may_call_hooks(
    engine: Engine, recorder: hooks.Hooks, primary: TestDatabase
) -> None:
    """The listener runs after a row's INSERT, with the object's session or its own connection."""

    def inserted(_mapper: Any, _connection: Any, target: User) -> None:
        session = Session.object_session(target)
        assert session is not None
        recorder.changed(session, "users", target.id)

    event.listen(User, "after_insert", inserted)
    try:
        with Session(engine) as session:
            session.add_all([user(str(n)) for n in range(5)])
            session.commit()
    finally:
        event.remove(User, "after_insert", inserted)
    assert len(recorded(primary)) == 5


@pytest.mark.parametrize("changes", [False, True])
def test_a_listener_of_all_sessions_may_call_the_first_hook(
    engine: Engine,
    recorder: hooks.Hooks,
    primary: TestDatabase,
    changes: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """The commit may have nothing left to flush, so that our own listener is called no more."""
    make = sessionmaker(engine)

    def listener(session: Session) -> None:
        recorder.changed(session, "users", UUID(int=2))
        recorder.changed(session, "users", UUID(int=3))

    event.listen(make, "before_commit", listener)
    with make() as session:
        session.add(user())
        if not changes:
            session.flush()
        session.commit()
        assert len(recorded(primary)) == 2
        session.execute(text("select 1"))
        session.commit()
    assert len(recorded(primary)) == 4


def test_the_first_hook_of_a_flush_writes_nothing_yet(
    engine: Engine, recorder: hooks.Hooks, primary: TestDatabase
) -> None:
    """One statement writes the events of the commit, for any number of flushes before it."""
    make = sessionmaker(engine)

    def listener(session: Session, *_: Any) -> None:
        recorder.changed(session, "users", uuid4())

    event.listen(make, "after_flush", listener)
    with inserts_counted(engine) as inserts, make() as session:
        for number in range(3):
            session.add(user(str(number)))
            session.flush()
        assert inserts == []
        session.commit()
        assert len(inserts) == 1
    assert len(recorded(primary)) == 3


def test_a_listener_behind_ours_may_call_hooks(
    engine: Engine, recorder: hooks.Hooks, primary: TestDatabase
) -> None:
    """A before_commit listener that runs after the events were written adds one more event."""
    with Session(engine) as session:
        session.add(user())
        recorder.changed(session, "users", UUID(int=1))
        event.listen(session, "before_commit", lambda s: recorder.changed(s, "users", UUID(int=2)))
        session.commit()
    assert len(recorded(primary)) == 2


@pytest.mark.parametrize("moment", ["after_commit", "after_rollback"])
def test_a_hook_after_the_end_is_refused(
    engine: Engine, recorder: hooks.Hooks, primary: TestDatabase, moment: str
) -> None:
    """The session is still in its transaction then, but no statement would write the event."""
    errors: list[Exception] = []

    def late(session: Session) -> None:
        try:
            recorder.changed(session, "users", UUID(int=2))
        except NotInTransaction as error:
            errors.append(error)

    with Session(engine) as session:
        event.listen(session, moment, late)
        session.add(user())
        recorder.changed(session, "users", UUID(int=1))
        session.commit() if moment == "after_commit" else session.rollback()
    assert len(errors) == 1


# Transactions of other kinds


def test_a_session_in_its_callers_transaction_commits_with_that(
    engine: Engine, recorder: hooks.Hooks, primary: TestDatabase
) -> None:
    """This holds in every join_transaction_mode that leaves the outer transaction to the caller."""
    for number, mode in enumerate(("create_savepoint", "conditional_savepoint", "rollback_only")):
        for outcome in ("rollback", "commit"):
            with engine.connect() as connection, connection.begin() as outer:
                with Session(connection, join_transaction_mode=mode) as session:  # type: ignore[arg-type]
                    session.add(user(f"{mode}{outcome}"))
                    recorder.changed(session, "users", UUID(int=number))
                    session.commit()
                    assert len(recorded(primary)) == number
                outer.rollback() if outcome == "rollback" else outer.commit()
            assert len(recorded(primary)) == number + (outcome == "commit")


@pytest.fixture
def preparing(tmp_path: Path) -> Iterator[TestDatabase]:
    """A primary that allows prepared transactions, with triggers, and to which a relay listens."""
    with PostgresCluster.start(
        tmp_path / "data", version=16, durable=False, settings={"max_prepared_transactions": "5"}
    ) as cluster:
        cluster.create_database("app")
        database = TestDatabase(cluster.url("app"))
        with database.migrating() as connection:
            Base.metadata.create_all(connection)
            upgrade(connection)
        database.query("update mirror.state set listened_until = now() + interval '1 hour'")
        yield database


def test_two_phase_commits_prepare_the_events(
    preparing: TestDatabase, recorder: hooks.Hooks
) -> None:
    """The prepared transaction of a session or connection holds them; a rollback removes them."""
    engine = preparing.engine()
    for number, ending in enumerate(("commit", "rollback")):
        with Session(engine, twophase=True) as session:
            session.add(user(ending))
            recorder.changed(session, "users", UUID(int=1))
            session.prepare()
            assert len(recorded(preparing)) == 2 * number
            getattr(session, ending)()
        with engine.connect() as connection:
            transaction = connection.begin_twophase()
            recorder.changed(connection, "users", UUID(int=2))
            transaction.prepare()
            getattr(transaction, ending)()
            with connection.begin():
                connection.execute(text("select 1"))
    with engine.connect() as connection:
        with connection.begin_twophase():
            recorder.changed(connection, "users", UUID(int=4))
        assert len(recorded(preparing)) == 3, "committed without being prepared"
        transaction = connection.begin_twophase()
        recorder.changed(connection, "users", UUID(int=3))
        transaction.rollback()
        with connection.begin():
            connection.execute(text("select 1"))
    assert len(recorded(preparing)) == 3
    assert preparing.query("select username from users") == [("commit",)]


def test_a_transaction_that_was_captured_by_triggers_can_be_prepared(
    preparing: TestDatabase,
) -> None:
    """While a relay listens, too: no writer's transaction fails because of the mirror."""
    with preparing.migrating() as connection:
        upgrade(connection, "primary", registry, triggers=True)
    preparing.query(
        "begin; insert into users (id, email, username) values (gen_random_uuid(), 'a',"
        " 'ada'); prepare transaction 'one'"
    )
    assert recorded(preparing) == []
    preparing.query("commit prepared 'one'")
    assert len(recorded(preparing)) == 1


def test_a_hook_after_prepare_is_refused(preparing: TestDatabase, recorder: hooks.Hooks) -> None:
    """A prepared transaction takes no more statements, so the event would be lost."""
    with preparing.engine().connect() as connection:
        transaction = connection.begin_twophase()
        connection.execute(text("select 1"))
        transaction.prepare()
        with pytest.raises(NotInTransaction, match=r"before prepare\(\)"):
            recorder.changed(connection, "users", UUID(int=1))
        transaction.commit()
    with Session(preparing.engine(), twophase=True) as session:
        session.add(user("ada"))
        session.prepare()
        with pytest.raises(NotInTransaction):
            recorder.changed(session, "users", UUID(int=1))
        session.commit()


def test_an_autocommit_connection_is_refused_at_the_hook(
    primary: TestDatabase, recorder: hooks.Hooks
) -> None:
    """The change and its event could not commit together."""
    for options in ({"isolation_level": "AUTOCOMMIT"}, {}):
        engine = primary.engine(**options)
        with engine.connect() as connection:
            if not options:
                connection.execution_options(isolation_level="AUTOCOMMIT")
            with connection.begin(), pytest.raises(NotInTransaction, match="AUTOCOMMIT"):
                recorder.changed(connection, "users", uuid4())


def test_an_autocommit_session_is_refused_at_commit(
    primary: TestDatabase, recorder: hooks.Hooks
) -> None:
    """Hooks do no I/O, so the connection is known only at commit."""
    for options, of_session in (
        ({"isolation_level": "AUTOCOMMIT"}, None),
        ({}, {"isolation_level": "AUTOCOMMIT"}),
    ):
        with Session(primary.engine(**options)) as session:
            if of_session:
                session.connection(execution_options=of_session)
            session.execute(text("select 1"))
            recorder.changed(session, "users", uuid4())
            with pytest.raises(NotInTransaction, match="AUTOCOMMIT"):
                session.commit()
            session.rollback()
    assert recorded(primary) == []


def test_outside_a_transaction_a_hook_is_refused(
    engine: Engine, recorder: hooks.Hooks, primary: TestDatabase
) -> None:
    """This holds before the first statement, after commit or close, and after a failed flush."""
    refused = pytest.raises(NotInTransaction, match="before commit")
    with Session(engine) as session:
        with refused:
            recorder.changed(session, "users", uuid4())
        session.add(user("same"))
        session.commit()
        with refused:
            recorder.changed(session, "users", uuid4())
        session.add(user("same"))
        with pytest.raises(IntegrityError):
            session.flush()
        with refused:
            recorder.changed(session, "users", uuid4())
    with engine.connect() as connection:
        with refused:
            recorder.changed(connection, "users", uuid4())
        connection.execute(text("select 1"))
        connection.commit()
        with refused:
            recorder.changed(connection, "users", uuid4())
    with refused:
        recorder.changed(connection, "users", uuid4())
    unstarted = create_async_engine(primary.sqlalchemy_url).connect()
    with refused:
        recorder.changed(unstarted, "users", uuid4())


@pytest.mark.parametrize("wrong", [None, "session", 7, object()], ids=["", "text", "7", "object"])
def test_an_object_that_is_no_session_is_refused(recorder: hooks.Hooks, wrong: Any) -> None:
    """Examples are an engine, a request, and a forgotten argument."""
    with pytest.raises(UsageError, match="hooks take a SQLAlchemy session or connection, not "):
        recorder.changed(wrong, "users", uuid4())


# Connections


def test_a_connections_events_commit_with_its_transaction(
    engine: Engine, recorder: hooks.Hooks, primary: TestDatabase
) -> None:
    """Each gets one statement; transactions that are rolled back or closed write nothing."""
    with inserts_counted(engine) as inserts, engine.connect() as connection:
        for number, ending in enumerate(("commit", "rollback", "commit")):
            connection.execute(text("select 1"))
            recorder.changed(connection, "users", UUID(int=number))
            recorder.changed(connection, "users", UUID(int=number + 100))
            getattr(connection, ending)()
        connection.execute(text("select 1"))
        recorder.changed(connection, "users", UUID(int=9))
    assert len(inserts) == 2
    assert [key[0][-3:] for _, key in recorded(primary)] == ["000", "064", "002", "066"]


def test_a_pooled_connection_keeps_nothing_from_its_last_user(
    primary: TestDatabase, recorder: hooks.Hooks
) -> None:
    """One driver connection serves many Connection objects, even two at a time."""
    for options in ({"pool_size": 1}, {"poolclass": StaticPool}):
        engine = create_engine(primary.sqlalchemy_url, **options)
        with inserts_counted(engine) as inserts:
            for _ in range(5):
                with engine.begin() as connection:
                    recorder.changed(connection, "users", uuid4())
            with engine.connect() as connection:
                connection.execute(text("select 1"))
                recorder.changed(connection, "users", uuid4())
            with engine.begin() as connection:
                connection.execute(text("select 1"))
        assert len(inserts) == 5
        engine.dispose()
    assert len(recorded(primary)) == 10


def test_a_connections_savepoints_write_nothing_by_themselves(
    engine: Engine, recorder: hooks.Hooks, primary: TestDatabase
) -> None:
    """Savepoints of a session behave in the same way."""
    with inserts_counted(engine) as inserts, engine.begin() as connection:
        with connection.begin_nested() as savepoint:
            recorder.changed(connection, "users", uuid4())
            savepoint.rollback()
        with connection.begin_nested():
            recorder.changed(connection, "users", uuid4())
        assert inserts == []
    assert len(inserts) == 1
    assert len(recorded(primary)) == 2


# Several databases


def test_a_routing_session_writes_events_to_the_primary(
    engine: Engine, recorder: hooks.Hooks, primary: TestDatabase
) -> None:
    """As in SQLAlchemy's documentation, reads go to a replica, which could not store events."""
    replica = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/replica")

    class Routing(Session):
        def get_bind(self, mapper: Any = None, *, clause: Any = None, **_: Any) -> Engine:  # noqa: ARG002 - the caller's
            writes = self._flushing or isinstance(clause, Update | Delete)
            return engine if writes else replica

    with Routing() as session:
        session.add(user())
        recorder.changed(session, "users", UUID(int=1))
        session.commit()
    assert len(recorded(primary)) == 1


def test_a_session_of_several_databases_must_name_the_one_of_the_outbox(
    engine: Engine, recorder: hooks.Hooks, primary: TestDatabase
) -> None:
    """Without that, the error says how to name it."""
    with Session(binds={Base: engine}) as session:
        session.add(user())
        recorder.changed(session, "users", UUID(int=1))
        with pytest.raises(UsageError, match=r"add mirror\.capture\.OUTBOX to its binds"):
            session.commit()
    assert primary.value("select count(*) from users") == 0
    with Session(binds={Base: engine, outbox.OUTBOX: engine}) as session:
        session.add(user())
        recorder.changed(session, "users", UUID(int=1))
        session.commit()
    assert len(recorded(primary)) == 1


@pytest.mark.parametrize("moment", ["before_flush", "after_flush", "after_flush_postexec"])
def test_an_error_of_a_hook_in_the_flush_of_a_commit_is_not_masked(
    engine: Engine, recorder: hooks.Hooks, primary: TestDatabase, moment: str
) -> None:
    """SQLAlchemy would raise that the transaction is closed."""
    with Session(binds={Base: engine}) as session:
        event.listen(
            session, moment, lambda s, *_: recorder.changed(s, "users", UUID(int=1)), once=True
        )
        session.add(user())
        with pytest.raises(UsageError, match=r"add mirror\.capture\.OUTBOX to its binds"):
            session.commit()
    assert primary.value("select count(*) from users") == 0


class Sharded(ShardedSession):
    """A session that knows where the outbox is."""

    def get_bind(self, mapper: Any = None, *, clause: Any = None, **kwargs: Any) -> Any:
        """Return the first shard for the outbox."""
        if isinstance(clause, Update) and clause.table is outbox.OUTBOX:
            kwargs["shard_id"] = "one"
        return super().get_bind(mapper, clause=clause, **kwargs)


def test_a_sharded_session_must_name_the_shard_of_the_outbox(
    engine: Engine, recorder: hooks.Hooks, primary: TestDatabase
) -> None:
    """Without that, the error says how to name it."""
    choosers: dict[str, Any] = {
        "shard_chooser": lambda *_, **__: "one",
        "identity_chooser": lambda *_, **__: ["one"],
        "execute_chooser": lambda *_: ["one"],
    }
    with ShardedSession(shards={"one": engine}, **choosers) as session:
        session.add(user())
        recorder.changed(session, "users", UUID(int=1))
        with pytest.raises(UsageError, match=r"which of its shards holds mirror\.outbox"):
            session.commit()
    assert primary.value("select count(*) from users") == 0
    with Sharded(shards={"one": engine}, **choosers) as session:
        session.add(user())
        recorder.changed(session, "users", UUID(int=1))
        session.commit()
    assert len(recorded(primary)) == 1


class Keyed(Session):
    """Chooses an engine as the session of Flask-SQLAlchemy does: by the metadata's bind_key."""

    engines: ClassVar[dict[str | None, Engine]]

    def get_bind(self, mapper: Any = None, clause: Any = None, **_: Any) -> Any:
        """Return the engine of the mapper's or the statement's table."""
        target = getattr(clause, "table", None) if mapper is None else mapper.local_table
        key = target.metadata.info.get("bind_key") if isinstance(target, Table) else None
        return self.engines[key]


def test_a_primary_with_a_bind_key_gets_the_events(
    engine: Engine, recorder: hooks.Hooks, primary: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outbox has metadata of its own for that."""
    other = create_engine("sqlite://")
    Keyed.engines = {None: other, "primary": engine}
    monkeypatch.setitem(Base.metadata.info, "bind_key", "primary")
    monkeypatch.setitem(outbox.OUTBOX.metadata.info, "bind_key", "primary")
    with Keyed() as session:
        session.add(user())
        recorder.changed(session, "users", UUID(int=1))
        session.commit()
    assert len(recorded(primary)) == 1
    other.dispose()


# Bad input


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda h, s: h.changed(s, "boats", 1), MappingError, "'boats' is not declared"),
        (lambda h, s: h.changed(s, "users", None), InvalidKey, r"session\.flush\(\) before"),
        (lambda h, s: h.changed(s, "users", "x"), InvalidKey, "mapping 'users', column 'id'"),
        (lambda h, s: h.changed(s, "users", ()), InvalidKey, r"its key is \(id\), 1 value"),
        (
            lambda h, s: h.changed(s, "trip_memberships", uuid4()),
            InvalidKey,
            r"its key is \(trip_id, user_id\), 2 value\(s\); got 1",
        ),
        (
            lambda h, s: h.changed(s, "trip_memberships", (uuid4(), None)),
            InvalidKey,
            "column 'user_id': the value is None",
        ),
        (lambda h, s: h.changed(s, "users", uuid4(), "fast"), UsageError, "lane 'fast'"),
        (lambda h, s: h.scope_changed(s, "users", id=1), MappingError, "no reference 'id'"),
        (lambda h, s: h.scope_changed(s, "boats", id=1), MappingError, "'boats' is not declared"),
        (
            lambda h, s: h.scope_changed(s, "trip_memberships", trip_id=None),
            InvalidKey,
            "'trip_id': the value is None",
        ),
        (lambda h, s: h.scope_changed(s, "trip_memberships"), UsageError, "exactly one reference"),
        (
            lambda h, s: h.scope_changed(s, "trip_memberships", trip_id=1, user_id=2),
            UsageError,
            "exactly one reference",
        ),
    ],
)
def test_bad_input_is_named_and_nothing_is_half_written(
    engine: Engine,
    recorder: hooks.Hooks,
    primary: TestDatabase,
    call: Callable[[hooks.Hooks, Session], None],
    error: type[Exception],
    message: str,
) -> None:
    """The hook itself raises the error; the events recorded before can still commit."""
    with Session(engine) as session:
        session.add(user())
        recorder.changed(session, "users", UUID(int=1))
        with pytest.raises(error, match=message):
            call(recorder, session)
        session.commit()
    assert recorded(primary) == [("users", [str(UUID(int=1))])]


def test_a_text_key_is_stored_as_it_is(engine: Engine, primary: TestDatabase) -> None:
    """The text may hold any character."""
    keys = [
        "",
        "'; drop table mirror.outbox; --",
        '{"a": [1, null]}',
        "\\u0000 \\x00 \\n",
        ":events %s %(x)s {} $1",
        "é \N{SNOWMAN} \N{PILE OF POO} \N{RIGHT-TO-LEFT OVERRIDE}\u200b",
        "line\nbreak\ttab\r\x01\x7f",
        "NULL",
        "x" * 100_000,
    ]
    labels = table("labels", column("name", Text))
    mapping = Mapping(
        name="labels",
        table="labels",
        key=("name",),
        columns=(Column("name", "text"),),
        query=select(labels.c.name),
    )
    off = Doorbell(DoorbellSettings(mode="off"))
    recorder = hooks.Hooks(Registry("some", [mapping]), off)
    with Session(engine) as session:
        session.execute(text("select 1"))
        for key in keys:
            recorder.changed(session, "labels", key)
        session.commit()
    assert recorded(primary) == [("labels", [key]) for key in keys]


# Databases that cannot take the events


def test_an_unmigrated_primary_is_named_at_commit_and_the_change_is_rolled_back(
    primary: TestDatabase, engine: Engine, recorder: hooks.Hooks
) -> None:
    """A change without its event must not commit; once the primary is migrated, it commits."""
    primary.query("alter schema mirror rename to elsewhere")
    with Session(engine) as session:
        session.add(user())
        recorder.changed(session, "users", UUID(int=1))
        with pytest.raises(NotMigrated, match="run `mirror migrate primary`"):
            session.commit()
        session.rollback()
    with engine.connect() as connection:
        connection.execute(insert(User).values(id=uuid4(), email="a", username="a"))
        recorder.changed(connection, "users", UUID(int=1))
        with pytest.raises(NotMigrated):
            connection.commit()
    assert primary.value("select count(*) from users") == 0
    primary.query("alter schema elsewhere rename to mirror")
    with Session(engine) as session:
        session.add(user())
        recorder.changed(session, "users", UUID(int=1))
        session.commit()
    assert len(recorded(primary)) == 1


def test_an_outbox_of_another_version_is_no_outbox(
    primary: TestDatabase, engine: Engine, recorder: hooks.Hooks
) -> None:
    """The remedy is the same."""
    primary.query("alter table mirror.outbox rename column reference to other")
    with Session(engine) as session:
        session.add(user())
        recorder.changed(session, "users", UUID(int=1))
        with pytest.raises(NotMigrated, match="run `mirror migrate primary`"):
            session.commit()


@pytest.mark.parametrize("schema", [False, True], ids=["no schema", "no table"])
def test_the_error_for_a_role_without_rights_names_the_grant(
    primary: TestDatabase,
    recorder: hooks.Hooks,
    schema: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """The grant in the message is the least that the role needs, and it is enough."""
    role = f"backend_{uuid4().hex}"
    primary.query(f"create role {role}; grant insert on users to {role}")
    if schema:
        primary.query(f"grant usage on schema mirror to {role}")
    engine = primary.engine(connect_args={"options": f"-c role={role}"})
    try:
        with Session(engine) as session:
            session.add(user())
            recorder.changed(session, "users", UUID(int=1))
            with pytest.raises(NotMigrated, match="grant usage on schema mirror"):
                session.commit()
        assert primary.value("select count(*) from users") == 0
        primary.query(f"grant usage on schema mirror to {role}")
        primary.query(f"grant insert on mirror.outbox to {role}")
        with Session(engine) as session:
            session.add(user())
            recorder.changed(session, "users", UUID(int=1))
            session.commit()
        assert len(recorded(primary)) == 1
    finally:
        primary.query(f"drop owned by {role}; drop role {role}")


def test_an_unreachable_database_is_the_backends_own_error(recorder: hooks.Hooks) -> None:
    """Without hooks the same error would arise."""
    nowhere = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    with Session(nowhere) as session:
        session.add(user())
        recorder.changed(session, "users", uuid4())
        with pytest.raises(OperationalError):
            session.commit()


def test_the_change_fails_with_its_own_error_not_with_ours(
    engine: Engine, recorder: hooks.Hooks, primary: TestDatabase
) -> None:
    """The backend's handlers for its constraint errors keep working."""
    with Session(engine) as session:
        session.add(Trip(id=uuid4(), name="x", created_by=uuid4()))
        recorder.changed(session, "trips", uuid4())
        with pytest.raises(IntegrityError, match="created_by"):
            session.commit()
    assert recorded(primary) == []


# Memory


def test_hooks_keep_no_session_alive(engine: Engine, recorder: hooks.Hooks) -> None:
    """Hooks make no reference cycle: a session ends with its last user, without the collector."""
    gc.collect()
    gc.disable()
    try:
        session = Session(engine)
        session.execute(text("select 1"))
        recorder.changed(session, "users", uuid4())
        session.commit()
        session.close()
        gone = weakref.ref(session)
        del session
        assert gone() is None
    finally:
        gc.enable()


def test_nothing_piles_up_on_a_long_lived_session(engine: Engine, recorder: hooks.Hooks) -> None:
    """The request number 1,000 of one scoped_session costs as much as the first."""
    calls: list[str] = []
    with engine.connect() as connection:
        scoped = scoped_session(sessionmaker(connection, join_transaction_mode="rollback_only"))
        session = scoped()
        for _ in range(300):
            scoped.execute(text("select 1"))
            recorder.changed(scoped, "users", uuid4())
            scoped.commit()
        for name in ("before_commit", "after_commit", "after_transaction_end"):
            assert len(list(getattr(session.dispatch, name))) == 1, name
        scoped.remove()
    assert calls == []


def test_nothing_remains_of_sessions_and_connections_that_are_gone(
    primary: TestDatabase, recorder: hooks.Hooks
) -> None:
    """The recorder keeps no reference to them, nor do the pool's connections."""
    engine = create_engine(primary.sqlalchemy_url, pool_size=1)
    for _ in range(50):
        with Session(engine) as session:
            session.execute(text("select 1"))
            recorder.changed(session, "users", uuid4())
            session.commit()
        with engine.begin() as connection:
            recorder.changed(connection, "users", uuid4())
    del session, connection
    gc.collect()
    assert len(recorder._transactions) == 0
    with engine.connect() as connection:
        assert not connection.info
    engine.dispose()


# The module's own functions


def test_the_default_hooks_are_made_at_the_first_call(
    engine: Engine, primary: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment may be set after the import; a wrong setting is named and can be fixed."""
    with Session(engine) as session:
        session.execute(text("select 1"))
        monkeypatch.setenv("MIRROR_MAPPINGS", "no.such.module")
        with pytest.raises(ConfigError, match=r"'no\.such\.module' does not import"):
            hooks.user_created(session, uuid4())
        monkeypatch.setenv("MIRROR_MAPPINGS", "mappings.trips")
        monkeypatch.setenv("REDIS_URL", "http://nonsense")
        with pytest.raises(ConfigError, match="REDIS_URL: expected redis://"):
            hooks.user_created(session, uuid4())
        monkeypatch.delenv("REDIS_URL")
        hooks.user_created(session, uuid4())
        session.commit()
    assert len(recorded(primary)) == 1


def test_each_domain_event_records_its_key_in_its_lane(
    engine: Engine, primary: TestDatabase
) -> None:
    """Events that can take access away come first."""
    trip, person = uuid4(), uuid4()
    with Session(engine) as session:
        session.execute(text("select 1"))
        hooks.user_created(session, person)
        hooks.trip_created(session, trip)
        hooks.member_added(session, trip, person)
        hooks.member_updated(session, trip, person)
        session.commit()
        session.execute(text("select 1"))
        hooks.user_updated(session, person)
        hooks.trip_updated(session, trip)
        hooks.member_removed(session, trip, person)
        hooks.trip_deleted(session, trip)
        hooks.user_deleted(session, person)
        hooks.scope_changed(session, "trip_memberships", trip_id=trip, lane="grant")
        session.commit()
    both = [str(trip), str(person)]
    assert primary.query("select mapping, reference, key, lane from mirror.outbox order by id") == [
        ("users", None, [str(person)], 1),
        ("trips", None, [str(trip)], 1),
        ("trip_memberships", None, both, 1),
        ("trip_memberships", None, both, 0),
        ("users", None, [str(person)], 1),
        ("trips", None, [str(trip)], 1),
        ("trip_memberships", None, both, 0),
        ("trips", None, [str(trip)], 0),
        ("users", None, [str(person)], 0),
        ("trip_memberships", "trip_id", [str(trip)], 1),
    ]


def test_importing_the_hooks_loads_nothing_a_backend_did_not_ask_for() -> None:
    """A fresh interpreter loads no Celery, no pydantic and no driver."""
    script = (
        "import sys, mirror.hooks; "
        "print([m for m in ('celery', 'kombu', 'supabase', 'typer', 'pydantic', 'psycopg')"
        " if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert found.stdout.strip() == "[]"
