"""Receipts: after the wait the target matches the transaction, or the wait raises the reason."""

import json
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import (
    BigInteger,
    Engine,
    Text,
    column,
    create_engine,
    event,
    select,
    table,
    text,
)
from sqlalchemy.exc import IntegrityError, ProgrammingError
from sqlalchemy.orm import Session

from examples.trip_chat.models import User
from mirror.capture import receipts
from mirror.capture.doorbell import Doorbell, DoorbellSettings
from mirror.capture.receipts import Receipt
from mirror.devstack import PostgresCluster
from mirror.errors import (
    Buried,
    NotInTransaction,
    NotMigrated,
    StillWaiting,
    Unreachable,
    UsageError,
)
from mirror.hooks import Hooks
from mirror.model.mapping import Column, Mapping, Parent
from mirror.model.registry import Registry
from mirror.sync.drain import Drain
from tests.faults.tools import Intercepted, Running, record
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory, TripFactory, UserFactory
from tests.support.tcp_proxy import TcpProxy
from tests.support.transaction_pooler import TransactionPooler
from tests.support.waiting import until


def user(name: str = "ann") -> User:
    """Return a user outside any session."""
    return User(id=uuid4(), email=f"{name}@example.com", username=name)


def waits(receipt: Receipt) -> bool:
    """Tell with one query whether an event of the receipt waits."""
    try:
        receipts.wait(receipt, 0)
    except StillWaiting:
        return True
    return False


def committed(session: Session, recorder: Hooks, mapping: str = "users") -> Receipt:
    """Commit a transaction with one event; return its receipt."""
    session.begin()
    recorder.changed(session, mapping, uuid4())
    receipt = recorder.receipt(session)
    session.commit()
    return receipt


def buried(primary: TestDatabase, error: bool = True) -> None:  # noqa: FBT001, FBT002 - brevity
    """Move every waiting event to the retries, as failures do, and bury it if `error`."""
    primary.query(
        "with gone as (delete from mirror.outbox returning *) insert into mirror.retries"
        " (id, transaction_id, lane, recorded_at, mapping, reference, key, attempts, due_at, error,"
        " buried_at) select id, transaction_id, lane, recorded_at, mapping, reference, key, 1,"
        " now(), 'x', case when %s then now() end from gone",
        error,
    )


# The purpose of a wait


def test_after_the_wait_the_chat_lets_the_new_member_in(
    session: Session, recorder: Hooks, drain: Drain, target: TestDatabase
) -> None:
    """Only a worker that is slow to apply delays the answer."""
    member = MembershipFactory()
    recorder.changed(session, "trip_memberships", (member.trip_id, member.user_id), "grant")
    receipt = recorder.receipt(session)
    session.commit()
    go_on = threading.Event()
    target_that_waits = Intercepted(drain.target, before=lambda: go_on.wait(30))
    drain.target = target_that_waits
    draining = Running(drain.run)
    until(lambda: target_that_waits.calls)
    assert waits(receipt)
    waiting = Running(lambda: recorder.wait(receipt, 30))
    assert not waiting.ended
    go_on.set()
    waiting.wait()
    with target.acting_as(member.user_id) as client:
        client.execute(
            "insert into chat_messages (trip_id, content) values (%s, 'hi')", [member.trip_id]
        )
    draining.wait()


def test_events_of_triggers_count(
    session: Session, recorder: Hooks, primary: TestDatabase, drain: Drain
) -> None:
    """No hook is called, but the receipt covers the event and also rings a worker."""
    primary.query(
        "create function told() returns trigger language plpgsql as $$ begin"
        " insert into mirror.outbox (lane, mapping, key) values (1, 'users', array[new.id::text]);"
        " return null; end $$;"
        " create trigger told after insert on users for each row execute function told()"
    )
    rings: list[object] = []
    recorder.doorbell.ring = lambda after=None: rings.append(after)  # type: ignore[method-assign]
    session.add(user())
    receipt = recorder.receipt(session)
    session.commit()
    assert waits(receipt)
    assert len(rings) == 1
    drain.run()
    assert not waits(receipt)


def test_events_that_the_commit_itself_records_count(
    session: Session, recorder: Hooks, primary: TestDatabase, drain: Drain
) -> None:
    """Deferred triggers and some listeners run after every event of SQLAlchemy."""
    primary.query(
        "create function told() returns trigger language plpgsql as $$ begin"
        " insert into mirror.outbox (lane, mapping, key) values (1, 'users', array[new.id::text]);"
        " return null; end $$;"
        " create constraint trigger told after insert on users deferrable initially deferred"
        " for each row execute function told()"
    )
    for set_apart in (False, True):
        session.add(user(f"ann{set_apart}"))
        receipt = recorder.receipt(session)
        session.commit()
        if set_apart:
            # This happens before the first query of the wait.
            buried(primary, error=False)
        assert waits(receipt)
        drain.run()
        assert not waits(receipt)


def test_hooks_after_before_commit_count(
    session: Session, recorder: Hooks, primary: TestDatabase
) -> None:
    """A listener that runs after ours adds an event, or takes the receipt only then."""
    taken: list[Receipt] = []
    session.add(user())
    recorder.changed(session, "users", UUID(int=1))
    receipt = recorder.receipt(session)

    def late(session: Session) -> None:
        recorder.changed(session, "users", UUID(int=2))
        taken.append(recorder.receipt(session))

    event.listen(session, "before_commit", late, once=True)
    session.commit()
    primary.query("delete from mirror.outbox where key = %s", [str(UUID(int=1))])
    # A moved event is found only by its id, no longer by its transaction.
    buried(primary, error=False)
    assert waits(receipt)
    assert waits(taken[0])


def test_a_receipt_taken_while_the_session_flushes_is_read(
    session: Session, recorder: Hooks, primary: TestDatabase
) -> None:
    """The flush may be the commit's own."""
    taken: list[Receipt] = []

    def flushed(session: Session, _: object) -> None:
        taken.append(recorder.receipt(session))

    event.listen(session, "after_flush", flushed)
    session.add(user())
    session.commit()
    assert not waits(taken[0])


# Events that follow from an event


def test_the_rest_of_a_large_scope_counts(
    session: Session,
    recorder: Hooks,
    make_drain: Callable[..., Drain],
    target: TestDatabase,
    primary: TestDatabase,
) -> None:
    """The drain deletes the scope's own event after the first page."""
    trip = TripFactory()
    MembershipFactory.create_batch(20, trip=trip)
    session.commit()
    session.begin()
    recorder.scope_changed(session, "trip_memberships", trip_id=trip.id, lane="grant")
    receipt = recorder.receipt(session)
    session.commit()
    drain = make_drain(batch_size=2)
    pages = 0
    while waits(receipt):
        drain.once()
        pages += 1
    assert pages > 1
    assert target.value("select count(*) from trip_memberships") == 20
    assert primary.value("select count(*) from mirror.outbox") == 0


def test_children_that_were_too_many_to_come_with_their_parent_count(
    session: Session, recorder: Hooks, make_drain: Callable[..., Drain], target: TestDatabase
) -> None:
    """The drain announces them after it has deleted the parent's event."""
    trip = TripFactory()
    MembershipFactory.create_batch(20, trip=trip)
    recorder.changed(session, "trips", trip.id, "grant")
    receipt = recorder.receipt(session)
    session.commit()
    drain = make_drain(batch_size=2)
    drain.once()
    assert target.value("select count(*) from trips") == 1
    assert target.value("select count(*) from trip_memberships") < 20
    with pytest.raises(StillWaiting) as raised:
        recorder.wait(receipt, 0)
    assert (raised.value.pending, raised.value.events) == (1, ())
    while waits(receipt):
        drain.once()
    assert target.value("select count(*) from trip_memberships") == 20


def chain() -> Registry:
    """Return a model of three generations."""

    def mapping(name: str, parent: str | None) -> Mapping:
        columns = ["id", *([f"{parent}_id"] if parent else [])]
        source = table(name, *(column(c, BigInteger) for c in columns), column("x", Text))
        return Mapping(
            name=name,
            table=name,
            key=("id",),
            columns=tuple(Column(c, "bigint") for c in columns),
            query=select(*(source.c[c] for c in columns)),
            parents=(Parent(parent, f"{parent}_id"),) if parent else (),
        )

    return Registry("chain", [mapping("a", None), mapping("b", "a"), mapping("c", "b")])


KEY, SCOPE, ALL = ("a", None, "1"), ("b", "a_id", "1"), ("b", "*", None)


@pytest.mark.parametrize("place", ["outbox", "retries", "buried"])
@pytest.mark.parametrize(
    ("recorded", "waiting", "counts"),
    [
        (KEY, ("b", "a_id", "1"), True),
        (KEY, ("b", "a_id", "2"), False),
        (KEY, ("b", "other", "1"), False),
        (KEY, ("c", "b_id", "7"), True),
        (KEY, ("a", None, "2"), False),
        (KEY, ("b", None, "1"), False),
        (SCOPE, ("b", "a_id", "1"), True),
        (SCOPE, ("b", "a_id", "2"), False),
        (SCOPE, ("c", "b_id", "7"), True),
        (SCOPE, ("b", None, "7"), False),
        (ALL, ("b", "*", "7"), True),
        (ALL, ("b", None, "7"), True),
        (ALL, ("c", "b_id", "7"), True),
        (ALL, ("b", "a_id", "1"), False),
        (("a", "*", None), ("b", "a_id", "1"), True),
        (("a", "*", None), ("b", "*", "1"), False),
        (("not ours", None, "1"), ("b", "a_id", "1"), False),
    ],
)
def test_a_wait_counts_events_that_may_follow_from_its_own(
    engine: Engine,
    primary: TestDatabase,
    recorded: tuple[str, str | None, str | None],
    waiting: tuple[str, str | None, str],
    counts: bool,  # noqa: FBT001 - a parameter of the test
    place: str,
) -> None:
    """Mapping, reference and value must match; if the value is unknown, any value matches."""
    recorder = Hooks(chain(), Doorbell(DoorbellSettings(mode="off")))
    insert = text(
        "insert into mirror.outbox (mapping, reference, key)"
        " values (:mapping, :reference, array_remove(array[:value, :last], null))"
    )
    with Session(engine) as session:
        mapping, reference, value = recorded
        values = {"mapping": mapping, "reference": reference, "value": value, "last": None}
        session.execute(insert, values)
        receipt = recorder.receipt(session)
        session.commit()
        assert waits(receipt)
        primary.query("delete from mirror.outbox")
        assert not waits(receipt)
        mapping, reference, value = waiting
        values = {"mapping": mapping, "reference": reference, "value": value}
        session.execute(insert, values | {"last": "9" if reference else None})
        session.commit()
    if place != "outbox":
        buried(primary, error=place == "buried")
    if place == "buried" and counts:
        with pytest.raises(Buried):
            recorder.wait(receipt, 0)
    else:
        assert waits(receipt) == counts


def test_events_buried_before_count_only_under_the_same_scope(
    engine: Engine, primary: TestDatabase
) -> None:
    """A buried event of a whole mapping must not fail every wait; one of the same trip must."""
    recorder = Hooks(chain(), Doorbell(DoorbellSettings(mode="off")))
    record(primary, "c", 7, reference="b_id")
    buried(primary)
    with Session(engine) as session:
        receipt = committed_key(session, recorder)
        primary.query("delete from mirror.outbox")
        assert not waits(receipt)
        record(primary, "b", 1, reference="a_id")
        buried(primary)
        receipt = committed_key(session, recorder)
        primary.query("delete from mirror.outbox")
        with pytest.raises(Buried):
            recorder.wait(receipt, 0)


def committed_key(session: Session, recorder: Hooks) -> Receipt:
    """Commit an event for key 1 of `a`."""
    session.begin()
    recorder.changed(session, "a", 1)
    receipt = recorder.receipt(session)
    session.commit()
    return receipt


# When the wait fails


def test_a_wait_that_times_out_says_how_many_events_wait(
    session: Session, recorder: Hooks, primary: TestDatabase
) -> None:
    """The error has the events' ids, which survive pickling, and no other data of them."""
    session.add(user())
    for n in range(12):
        recorder.changed(session, "users", UUID(int=n))
    receipt = recorder.receipt(session)
    session.commit()
    ids = [row[0] for row in primary.query("select id from mirror.outbox order by id")]
    with pytest.raises(StillWaiting) as raised:
        recorder.wait(receipt, timeout=0.02)
    error = pickle.loads(pickle.dumps(raised.value))  # noqa: S301 - our own
    assert (error.pending, error.events) == (12, tuple(ids))
    named = ", ".join(map(str, ids[:10]))
    assert f"12 event(s) ({named}, …) have not reached the target within 0.02 s" in str(error)
    assert str(UUID(int=1)) not in str(error)


def test_an_event_that_was_given_up_ends_the_wait(
    session: Session, recorder: Hooks, make_drain: Callable[..., Drain], target: TestDatabase
) -> None:
    """It ends at once; while the event is retried, the wait goes on. No revocation is given up."""
    target.query("create unique index spoilt on users ((1))")
    fine, spoilt = UserFactory(), UserFactory()
    recorder.changed(session, "users", fine.id)
    session.commit()
    session.begin()
    recorder.changed(session, "users", spoilt.id, lane="grant")
    receipt = recorder.receipt(session)
    session.commit()
    drain = make_drain(max_attempts=2, retry_seconds=0.1)
    drain.once()
    drain.once()
    assert waits(receipt)
    until(lambda: drain.run().failed)
    with pytest.raises(Buried, match="`mirror retry`") as raised:
        recorder.wait(receipt, 30)
    error = pickle.loads(pickle.dumps(raised.value))  # noqa: S301 - our own
    assert len(error.events) == 1
    assert str(error.events[0]) in str(error)
    assert str(spoilt.id) not in str(error)
    # An operator has repaired the cause.
    target.query("drop index spoilt")
    drain.queue.beside.execute("update mirror.retries set buried_at = null, due_at = now()")
    assert waits(receipt)
    drain.run()
    assert not waits(receipt)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_primary_that_is_away_is_asked_again_until_time_is_up(
    recorder: Hooks, primary: TestDatabase, primary_cluster: PostgresCluster, driver: str
) -> None:
    """Connections die or are refused; a restart in time does not fail the wait."""
    engine = create_engine(primary.url.replace("postgresql://", f"postgresql+{driver}://", 1))
    with Session(engine) as one:
        receipt = committed(one, recorder)
    primary_cluster.stop()
    try:
        for timeout in (0, 0.05):
            with pytest.raises(Unreachable, match="primary"):
                recorder.wait(receipt, timeout)
        waiting = Running(lambda: recorder.wait(receipt, 30))
    finally:
        primary_cluster.restart()
    primary.query("delete from mirror.outbox")
    waiting.wait()
    engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize("moment", ["at connect", "at a query"])
def test_a_primary_that_never_answers_ends_a_wait(
    recorder: Hooks, primary: TestDatabase, driver: str, moment: str
) -> None:
    """No driver limits the wait for a server that is halted; the query is left to itself."""
    with TcpProxy(primary.url) as proxy:
        engine = create_engine(proxy.url.replace("postgresql://", f"postgresql+{driver}://", 1))
        with Session(engine) as one:
            receipt = committed(one, recorder)
        if moment == "at connect":
            engine.dispose()
        proxy.stall()
        for timeout in (0, 0.1):
            with pytest.raises(Unreachable, match=f"not answered within {timeout} s"):
                Running(lambda: recorder.wait(receipt, timeout)).wait()  # noqa: B023 - ends here
        proxy.resume()
        primary.query("delete from mirror.outbox")
        recorder.wait(receipt, 30)
        until(lambda: "mirror-waiting" not in {thread.name for thread in threading.enumerate()})
        engine.dispose()


# Misuse, and all kinds of transactions


def test_before_commit_a_wait_is_refused(session: Session, recorder: Hooks) -> None:
    """That wait would never end; after the commit, the same receipt works, also twice."""
    session.add(user())
    receipt = recorder.receipt(session)
    with pytest.raises(UsageError, match="not committed"):
        recorder.wait(receipt)
    with session.begin_nested():
        recorder.changed(session, "users", uuid4())
    with pytest.raises(UsageError, match="not committed"):
        recorder.wait(receipt)
    session.commit()
    for _ in range(2):
        assert waits(receipt)


@pytest.mark.parametrize("ending", ["rollback", "close"])
def test_a_wait_for_a_rolled_back_transaction_is_refused(
    session: Session, recorder: Hooks, ending: str
) -> None:
    """The session's next transaction does not change that."""
    session.add(user())
    receipt = recorder.receipt(session)
    getattr(session, ending)()
    committed(session, recorder)
    with pytest.raises(UsageError, match="rolled back"):
        recorder.wait(receipt)


def test_a_commit_that_failed_was_rolled_back(
    session: Session, recorder: Hooks, primary: TestDatabase
) -> None:
    """A deferred constraint fails the commit after the receipt was read."""
    primary.query("alter table users add constraint one unique (biography) initially deferred")
    for one in (user("ann"), user("bob")):
        one.biography = "the same"
        session.add(one)
    recorder.changed(session, "users", uuid4())
    receipt = recorder.receipt(session)
    with pytest.raises(IntegrityError):
        session.commit()
    session.rollback()
    with pytest.raises(UsageError, match="rolled back"):
        recorder.wait(receipt)


def test_a_commit_that_the_server_has_not_finished_is_no_commit(
    session: Session, recorder: Hooks, primary: TestDatabase
) -> None:
    """The connection may have broken during the commit: only the primary knows the outcome."""
    receipt = committed(session, recorder)
    with primary.connect(autocommit=False) as unfinished:
        row = unfinished.execute("select pg_current_xact_id()::text").fetchone()
        assert row is not None
        receipt.recorded._transaction = row[0]
        with pytest.raises(UsageError, match="not committed"):
            recorder.wait(receipt, 30)


def test_without_a_transaction_there_is_no_receipt(session: Session, recorder: Hooks) -> None:
    """There is none before the first statement, nor after commit."""
    with pytest.raises(NotInTransaction):
        recorder.receipt(session)
    committed(session, recorder)
    with pytest.raises(NotInTransaction):
        recorder.receipt(session)


def test_in_autocommit_mode_there_is_no_receipt(primary: TestDatabase, recorder: Hooks) -> None:
    """Each statement is its own transaction."""
    with Session(primary.engine(isolation_level="AUTOCOMMIT")) as session:
        session.begin()
        recorder.receipt(session)
        with pytest.raises(NotInTransaction, match="AUTOCOMMIT"):
            session.commit()


@pytest.mark.parametrize("writes", [True, False])
def test_nothing_recorded_is_nothing_to_wait_for(
    session: Session,
    recorder: Hooks,
    writes: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """The transaction may have written other rows, or none."""
    session.add(user()) if writes else session.execute(text("select 1"))
    receipt = recorder.receipt(session)
    session.commit()
    recorder.wait(receipt, 0)


def test_each_transaction_of_a_session_has_its_own_receipt(
    session: Session, recorder: Hooks, primary: TestDatabase
) -> None:
    """All receipts of one transaction are the same."""
    first, second = committed(session, recorder), committed(session, recorder)
    assert waits(first)
    assert waits(second)
    primary.query("delete from mirror.outbox where id = (select min(id) from mirror.outbox)")
    assert not waits(first)
    assert waits(second)


def test_a_savepoint_that_rolled_back_changes_nothing(
    session: Session, recorder: Hooks, primary: TestDatabase
) -> None:
    """Its events are written with the transaction's id, not the savepoint's."""
    session.add(user())
    with session.begin_nested() as savepoint:
        recorder.changed(session, "users", uuid4())
        receipt = recorder.receipt(session)
        savepoint.rollback()
    with session.begin_nested():
        session.execute(text("insert into mirror.outbox (mapping, key) values ('users', '{x}')"))
    session.commit()
    primary.query("delete from mirror.outbox where key <> '{x}'")
    assert waits(receipt)
    primary.query("delete from mirror.outbox")
    assert not waits(receipt)


def test_a_connection_gives_receipts_too(engine: Engine, recorder: Hooks) -> None:
    """It does so for its transactions that commit."""
    with engine.connect() as connection:
        connection.execute(text("select 1"))
        recorder.changed(connection, "users", uuid4())
        receipt = recorder.receipt(connection)
        with pytest.raises(UsageError, match="not committed"):
            recorder.wait(receipt)
        connection.commit()
        assert waits(receipt)
        connection.execute(text("select 1"))
        gone = recorder.receipt(connection)
        connection.rollback()
        with pytest.raises(UsageError, match="rolled back"):
            recorder.wait(gone)


@pytest.mark.parametrize("outcome", ["commit", "rollback"])
def test_a_session_in_its_callers_transaction_waits_after_that(
    engine: Engine, recorder: Hooks, outcome: str
) -> None:
    """The session's own commit does not commit the transaction."""
    with engine.connect() as connection, connection.begin() as outer:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            session.add(user())
            recorder.changed(session, "users", uuid4())
            receipt = recorder.receipt(session)
            session.commit()
        with pytest.raises(UsageError, match="not committed"):
            recorder.wait(receipt)
        getattr(outer, outcome)()
    if outcome == "commit":
        assert waits(receipt)
    else:
        with pytest.raises(UsageError, match="rolled back"):
            recorder.wait(receipt)


# The cost of a wait


def test_between_two_queries_a_wait_holds_no_connection(
    primary: TestDatabase, recorder: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even a pool of one connection is enough; the queries become rarer."""
    engine = create_engine(primary.sqlalchemy_url, pool_size=1, max_overflow=0)
    with Session(engine) as session:
        receipt = committed(session, recorder)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        pauses.append(seconds)
        if len(pauses) == 12:
            primary.query("delete from mirror.outbox")

    monkeypatch.setattr(time, "sleep", pause)
    recorder.wait(receipt, 30)
    assert len(pauses) == 12
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.005, 0.1)
    engine.dispose()


def test_a_wait_takes_no_longer_than_its_timeout(
    session: Session, recorder: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test's clock moves only in pauses; the last pause is cut short before a last query."""
    receipt = committed(session, recorder)
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(receipts, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    with pytest.raises(StillWaiting):
        recorder.wait(receipt, 1.25)
    assert now[0] == pytest.approx(1.25)


def test_a_pool_that_is_exhausted_is_no_answer(primary: TestDatabase, recorder: Hooks) -> None:
    """A primary that is away is no answer either; a missing commit is an error at once."""
    engine = create_engine(primary.sqlalchemy_url, pool_size=1, max_overflow=0, pool_timeout=0.01)
    with Session(engine) as session:
        receipt = committed(session, recorder)
        session.execute(text("select 1"))
        with pytest.raises(Unreachable):
            recorder.wait(receipt, 0)
    with engine.connect() as connection, connection.begin():
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            receipt = committed(session, recorder)
        with pytest.raises(UsageError, match="not committed"):
            recorder.wait(receipt, 0)
    engine.dispose()


def test_an_engine_of_any_isolation_level_will_do(
    primary: TestDatabase, recorder: Hooks, drain: Drain
) -> None:
    """Each query sees everything committed before it."""
    engine = create_engine(primary.sqlalchemy_url, isolation_level="SERIALIZABLE")
    with Session(engine) as session:
        receipt = committed(session, recorder)
        assert waits(receipt)
        drain.run()
        assert not waits(receipt)
        assert session.scalar(text("show transaction_isolation")) == "serializable"
    engine.dispose()


def test_a_transaction_pooler_may_lie_between(
    primary: TestDatabase, recorder: Hooks, drain: Drain
) -> None:
    """Each query may use another server session."""
    with TransactionPooler(primary.url) as pooler:
        engine = create_engine(
            TestDatabase(pooler.url).sqlalchemy_url, connect_args={"prepare_threshold": None}
        )
        with Session(engine) as session:
            receipt = committed(session, recorder)
            assert waits(receipt)
            drain.run()
            recorder.wait(receipt, 30)
        engine.dispose()


@contextmanager
def backend(primary: TestDatabase, grants: str) -> Iterator[Engine]:
    """Yield an engine of a role with the privileges in `grants`, where {role} is its name."""
    role = f"backend_{uuid4().hex}"
    primary.query(f"create role {role}; {grants.format(role=role)}")
    engine = primary.engine(connect_args={"options": f"-c role={role}"})
    try:
        yield engine
    finally:
        primary.query(f"drop owned by {role}; drop role {role}")


def test_a_role_that_may_only_insert_can_wait(primary: TestDatabase, recorder: Hooks) -> None:
    """The role still cannot read any event."""
    grants = "grant usage on schema mirror to {role}; grant insert on mirror.outbox to {role}"
    with backend(primary, grants) as engine:
        with Session(engine) as session:
            receipt = committed(session, recorder)
            assert waits(receipt)
            assert not session.scalar(
                text("select has_table_privilege(current_user, 'mirror.outbox', 'select')")
            )
            key = primary.value("select key[1] from mirror.outbox")
            transaction = primary.value("select transaction_id::text from mirror.outbox")
            events = session.scalar(
                text("select cast(mirror.events_of(cast(:it as xid8)) as text)"),
                {"it": transaction},
            )
            assert events is not None
            assert key not in events
        with Session(engine) as session:
            session.execute(text("select 1"))
            receipt = recorder.receipt(session)
            primary.query("delete from mirror.outbox")
            session.commit()
            recorder.wait(receipt, 0)


def test_a_role_cannot_find_out_by_guessing_whose_keys_others_record(
    primary: TestDatabase, recorder: Hooks
) -> None:
    """Keys may be addresses. A role has a label of a guess, and none to compare it with."""
    grants = "grant usage on schema mirror to {role}; grant insert on mirror.outbox to {role}"
    record = "insert into mirror.outbox (mapping, reference, key) values ('users', 'email', %s)"
    (theirs,) = primary.query(f"{record} returning transaction_id::text", ["ada@x.example"])[0]
    with backend(primary, grants) as engine, engine.connect() as connection:

        def ask(query: str, **values: object) -> Any:
            return connection.execute(text(query), values).scalar_one()

        labels = []
        for guess in ("ada@x.example", "bob@x.example"):
            with connection.begin():
                connection.exec_driver_sql(record, ([guess],))
                mine = ask("select cast(pg_current_xact_id() as text)")
                proof = ask("select mirror.prove_transaction()")
            events = "select mirror.events_of(cast(:it as xid8), :proof)"
            with connection.begin():
                ((_, _, _, label),) = ask(events, it=mine, proof=proof)
                labels.append(label)
                assert label != str(ask("select hashtextextended(:guess, 0)", guess=guess))
                for other in (proof, None, ""):
                    ((_, _, _, hidden),) = ask(events, it=theirs, proof=other)
                    assert hidden is None
                ((_, _, _, hidden),) = ask("select mirror.events_of(cast(:it as xid8))", it=theirs)
                assert hidden is None
        answers = []
        for label in (*labels, "no label"):
            for transaction in (theirs, mine):
                question = {"transaction": transaction, "proof": proof, "ids": [], "newest": 0}
                question |= {"scopes": [["users", "email", label]], "anywhere": []}
                with connection.begin():
                    answers.append(
                        ask(
                            "select mirror.still_waiting(cast(:it as jsonb))",
                            it=json.dumps(question),
                        )
                    )
    counts = [answer["following"] for answer in answers]
    # Of theirs, any value counts. Of one's own, only the label of the last transaction is known.
    assert counts == [3, 0, 3, 1, 3, 0]


def test_a_proof_belongs_to_its_transaction(primary: TestDatabase, recorder: Hooks) -> None:
    """Outside of a transaction that wrote, there is none."""
    grants = "grant usage on schema mirror to {role}; grant insert on mirror.outbox to {role}"
    with backend(primary, grants) as engine, engine.connect() as connection:
        prove = text("select mirror.prove_transaction()")
        assert connection.execute(prove).scalar_one() is None
        connection.rollback()
        proofs = set()
        for _ in range(2):
            with connection.begin():
                connection.execute(text("select pg_current_xact_id()"))
                proofs |= {connection.execute(prove).scalar_one() for _ in range(2)}
        assert len(proofs) == 2
        with pytest.raises(ProgrammingError, match="permission denied"):
            connection.execute(text("select receipt_secret from mirror.state"))


def test_a_backend_of_the_version_before_waits_for_any_value(
    session: Session, primary: TestDatabase, recorder: Hooks
) -> None:
    """It sends no proof and hashes: its wait is rather too long than too short."""
    primary.query(
        "insert into mirror.outbox (mapping, reference, key) values ('users', 'email', '{x}')"
    )
    question = {"transaction": "1", "ids": [], "newest": 0, "anywhere": []}
    for scope in (["users", "email", 42], ["users", "email", None]):
        answer = primary.value(
            "select mirror.still_waiting(%s)", json.dumps(question | {"scopes": [scope]})
        )
        assert answer["following"] == 1


def test_the_error_for_a_role_without_the_schema_names_the_grant(
    primary: TestDatabase, recorder: Hooks
) -> None:
    """The error comes at commit, where the receipt is read."""
    with backend(primary, "") as engine, Session(engine) as session:
        session.begin()
        recorder.receipt(session)
        with pytest.raises(NotMigrated, match="grant usage on schema mirror"):
            session.commit()


def test_an_older_outbox_is_named(session: Session, recorder: Hooks, primary: TestDatabase) -> None:
    """The error comes at commit, or in the wait."""
    receipt = committed(session, recorder)
    primary.query("drop function mirror.still_waiting(jsonb)")
    with pytest.raises(NotMigrated, match="run `mirror migrate primary`"):
        recorder.wait(receipt, 30)
    primary.query("drop function mirror.events_of(xid8, text)")
    session.add(user())
    recorder.receipt(session)
    with pytest.raises(NotMigrated, match="run `mirror migrate primary`"):
        session.commit()


def test_a_backend_with_psycopg2_waits_like_others(
    primary: TestDatabase, recorder: Hooks, drain: Drain
) -> None:
    """That driver names its errors' SQLSTATE in its own way."""
    engine = create_engine(primary.url.replace("postgresql://", "postgresql+psycopg2://", 1))
    with Session(engine) as session:
        receipt = committed(session, recorder)
        assert waits(receipt)
        drain.run()
        assert not waits(receipt)
        primary.query("drop function mirror.still_waiting(jsonb)")
        with pytest.raises(NotMigrated, match="run `mirror migrate primary`"):
            recorder.wait(committed(session, recorder), 30)
    engine.dispose()


def test_without_a_receipt_a_commit_does_not_read(
    session: Session, recorder: Hooks, engine: Engine
) -> None:
    """A commit without a receipt costs nothing more, also right after one with a receipt."""
    seen: list[str] = []
    event.listen(
        engine, "before_cursor_execute", lambda _c, _u, statement, *_: seen.append(statement)
    )
    committed(session, recorder)
    assert sum("mirror.events_of" in statement for statement in seen) == 1
    session.add(user())
    recorder.changed(session, "users", uuid4())
    session.commit()
    assert sum("mirror.events_of" in statement for statement in seen) == 1
