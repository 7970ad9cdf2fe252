"""Receipts under asyncio: awaited, with asyncpg and with psycopg."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)

from examples.trip_chat.models import Membership, Trip, User
from mirror.capture.receipts import AsyncReceipt
from mirror.devstack import PostgresCluster
from mirror.errors import NotInTransaction, NotMigrated, StillWaiting, Unreachable, UsageError
from mirror.hooks import Hooks
from mirror.sync.drain import Drain
from tests.faults.tools import Running
from tests.support.databases import TestDatabase
from tests.support.tcp_proxy import TcpProxy

Body = Callable[[AsyncEngine], Awaitable[None]]


@pytest.fixture(params=["asyncpg", "psycopg"])
def run(request: pytest.FixtureRequest, primary: TestDatabase) -> Callable[[Body], None]:
    """Return a function that runs a coroutine with an engine of each driver and a pool of one."""
    url = primary.url.replace("postgresql://", f"postgresql+{request.param}://", 1)

    @asynccontextmanager
    async def engine() -> AsyncIterator[AsyncEngine]:
        engine = create_async_engine(url, pool_size=1, max_overflow=0)
        yield engine
        await engine.dispose()

    def run(body: Body) -> None:
        async def main() -> None:
            async with engine() as made:
                await body(made)

        asyncio.run(main())
        # It closes connections whose begin was cancelled. The server would wait for their passwords
        # for a minute, and to drop a database waits for the server.
        gc.collect()

    return run


async def committed(session: AsyncSession, recorder: Hooks) -> AsyncReceipt:
    """Commit a transaction with one event; return its receipt."""
    await session.execute(text("select 1"))
    recorder.changed(session, "users", uuid4())
    receipt = recorder.receipt(session)
    await session.commit()
    return receipt


async def waits(recorder: Hooks, receipt: AsyncReceipt) -> bool:
    """Tell with one query whether an event of the receipt waits."""
    try:
        await recorder.wait(receipt, 0)
    except StillWaiting:
        return True
    return False


def test_after_the_wait_the_chat_lets_the_new_member_in(
    run: Callable[[Body], None], recorder: Hooks, drain: Drain, target: TestDatabase
) -> None:
    """The wait blocks neither the loop nor the pool, and the drain uses both."""
    trip_id, user_id = uuid4(), uuid4()

    async def body(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session:
            session.add(User(id=user_id, email="ann@example.com", username="ann"))
            await session.flush()
            session.add(Trip(id=trip_id, name="Lisbon", created_by=user_id))
            await session.flush()
            session.add(Membership(trip_id=trip_id, user_id=user_id))
            recorder.changed(session, "trip_memberships", (trip_id, user_id), "grant")
            receipt = recorder.receipt(session)
            await session.commit()
        assert await waits(recorder, receipt)

        async def work() -> None:
            async with engine.connect() as connection:
                await connection.execute(text("select 1"))
            await asyncio.to_thread(drain.run)

        await asyncio.gather(recorder.wait(receipt, 30), work())

    run(body)
    with target.acting_as(user_id) as client:
        client.execute("insert into chat_messages (trip_id, content) values (%s, 'hi')", [trip_id])


def test_between_two_queries_a_wait_holds_no_connection(
    run: Callable[[Body], None],
    recorder: Hooks,
    primary: TestDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop stays free: the pauses are asyncio's."""
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def body(engine: AsyncEngine) -> None:
        async def pause(seconds: float) -> None:
            assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
            pauses.append(seconds)
            if len(pauses) == 12:
                primary.query("delete from mirror.outbox")
            await sleep(0)

        async with AsyncSession(engine) as session:
            receipt = await committed(session, recorder)
        monkeypatch.setattr(asyncio, "sleep", pause)
        monkeypatch.setattr(time, "sleep", None)
        await recorder.wait(receipt, 30)

    run(body)
    assert len(pauses) == 12
    assert (pauses[0], pauses[-1]) == (0.005, 0.1)


def test_every_kind_of_async_session_gives_receipts(
    run: Callable[[Body], None], recorder: Hooks, primary: TestDatabase
) -> None:
    """A scoped session, a connection, and one session with several transactions."""

    async def body(engine: AsyncEngine) -> None:
        scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
        await scoped.execute(text("select 1"))
        recorder.changed(scoped, "users", UUID(int=1))
        receipts = [recorder.receipt(scoped)]
        await scoped.commit()
        await scoped.remove()
        async with engine.connect() as connection:
            await connection.execute(text("select 1"))
            recorder.changed(connection, "users", UUID(int=2))
            receipts.append(recorder.receipt(connection))
            await connection.commit()
        async with AsyncSession(engine) as session:
            receipts += [await committed(session, recorder) for _ in range(2)]
        for receipt in receipts:
            assert await waits(recorder, receipt)
        primary.query("delete from mirror.outbox")
        for receipt in receipts:
            await recorder.wait(receipt, 0)

    run(body)


def test_misuse_is_refused_as_without_asyncio(
    run: Callable[[Body], None], recorder: Hooks, primary: TestDatabase
) -> None:
    """It is misuse before commit, after a rollback, without a transaction, with a wrong receipt."""

    async def body(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session:
            with pytest.raises(NotInTransaction):
                recorder.receipt(session)
            await session.execute(text("select 1"))
            receipt = recorder.receipt(session)
            with pytest.raises(UsageError, match="not committed"):
                await recorder.wait(receipt)
            await session.rollback()
            with pytest.raises(UsageError, match="rolled back"):
                await recorder.wait(receipt)
            session.add(User(email="ann@example.com", username="ann"))
            blocking = recorder.receipt(session.sync_session)
            await session.commit()
            with pytest.raises(UsageError, match=r"pass that to receipt\(\)"):
                recorder.wait(blocking)

    run(body)


def test_a_cancelled_wait_returns_its_connection(
    run: Callable[[Body], None], recorder: Hooks, primary: TestDatabase
) -> None:
    """A client may disconnect, or a timeout of the backend may come first."""

    async def body(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session:
            receipt = await committed(session, recorder)
        for seconds in (0.001, 0.01, 0.05):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(recorder.wait(receipt, 30), seconds)
        primary.query("delete from mirror.outbox")
        await recorder.wait(receipt, 30)

    run(body)


def test_a_primary_that_is_away_is_asked_again_until_time_is_up(
    run: Callable[[Body], None],
    recorder: Hooks,
    primary: TestDatabase,
    primary_cluster: PostgresCluster,
) -> None:
    """While connecting, asyncpg raises errors that are not SQLAlchemy's."""

    async def body(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session:
            receipt = await committed(session, recorder)
        primary_cluster.stop()
        try:
            for timeout in (0, 0.05):
                with pytest.raises(Unreachable, match="primary"):
                    await recorder.wait(receipt, timeout)
            waiting = asyncio.create_task(recorder.wait(receipt, 30))
            await asyncio.sleep(0)
        finally:
            primary_cluster.restart()
        primary.query("delete from mirror.outbox")
        await waiting

    run(body)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("moment", ["at connect", "at a query"])
def test_a_primary_that_never_answers_ends_a_wait(
    primary: TestDatabase, recorder: Hooks, driver: str, moment: str
) -> None:
    """The query is cancelled, and nobody waits for that: the server does not answer it either."""

    async def body(url: str, proxy: TcpProxy) -> None:
        engine = create_async_engine(url)
        async with AsyncSession(engine) as session:
            receipt = await committed(session, recorder)
        if moment == "at connect":
            await engine.dispose()
        proxy.stall()
        for timeout in (0, 0.1):
            with pytest.raises(Unreachable, match=f"not answered within {timeout} s"):
                await recorder.wait(receipt, timeout)
        proxy.resume()
        primary.query("delete from mirror.outbox")
        await recorder.wait(receipt, 30)
        await engine.dispose()

    with TcpProxy(primary.url) as proxy:
        url = proxy.url.replace("postgresql://", f"postgresql+{driver}://", 1)
        Running(lambda: asyncio.run(body(url, proxy))).wait()


def test_an_older_outbox_is_named(
    run: Callable[[Body], None], recorder: Hooks, primary: TestDatabase
) -> None:
    """The error comes at commit, or in the wait."""

    async def body(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session:
            receipt = await committed(session, recorder)
            primary.query("drop function mirror.still_waiting(jsonb)")
            with pytest.raises(NotMigrated, match="run `mirror migrate primary`"):
                await recorder.wait(receipt, 30)
            primary.query("drop function mirror.events_of(xid8, text)")
            session.add(User(email="ann@example.com", username="ann"))
            recorder.receipt(session)
            with pytest.raises(NotMigrated, match="run `mirror migrate primary`"):
                await session.commit()

    run(body)
