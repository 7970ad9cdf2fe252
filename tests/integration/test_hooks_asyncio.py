"""Hooks under asyncio: the same calls, with asyncpg and with psycopg."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import NullPool, event, text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)

from examples.trip_chat.models import User
from mirror import hooks
from mirror.errors import InvalidKey, NotInTransaction, NotMigrated
from tests.support.databases import TestDatabase

Body = Callable[[AsyncEngine], Awaitable[None]]


@pytest.fixture(params=["asyncpg", "psycopg"])
def run(request: pytest.FixtureRequest, primary: TestDatabase) -> Callable[..., None]:
    """Return a function that runs a coroutine with an engine of each driver."""
    url = primary.url.replace("postgresql://", f"postgresql+{request.param}://", 1)

    @asynccontextmanager
    async def engine(options: dict[str, Any]) -> AsyncIterator[AsyncEngine]:
        engine = create_async_engine(url, poolclass=NullPool, **options)
        yield engine
        await engine.dispose()

    def run(body: Body, **options: Any) -> None:
        async def main() -> None:
            async with engine(options) as made:
                await body(made)

        asyncio.run(main())

    return run


def recorded(primary: TestDatabase) -> list[str]:
    """Return the outbox's one-column keys, in order."""
    return [key for (key,) in primary.query("select key[1] from mirror.outbox order by id")]


def user() -> User:
    """Return a user outside any session."""
    one = uuid4()
    return User(id=one, email=f"{one}@example.com", username="ann")


def test_an_async_session_writes_once_per_commit(
    run: Callable[..., None], recorder: hooks.Hooks, primary: TestDatabase
) -> None:
    """Attributes expired by the commit can be awaited, and the next transaction works."""

    async def body(engine: AsyncEngine) -> None:
        inserts: list[str] = []
        event.listen(
            engine.sync_engine,
            "before_cursor_execute",
            lambda _c, _cursor, statement, *_: (
                inserts.append(statement) if "mirror.outbox" in statement else None
            ),
        )
        async with AsyncSession(engine, expire_on_commit=True) as session:
            added = user()
            session.add(added)
            for n in range(100):
                recorder.changed(session, "users", UUID(int=n))
                if n == 50:
                    await session.flush()
            await session.commit()
            assert len(inserts) == 1
            await session.refresh(added)
            assert added.username == "ann"
            recorder.changed(session, "users", UUID(int=100))
            await session.rollback()
            session.add(user())
            recorder.changed(session, "users", UUID(int=101))
            await session.commit()
        assert len(inserts) == 2

    run(body)
    assert recorded(primary) == [str(UUID(int=n)) for n in [*range(100), 101]]


def test_an_async_connection_writes_once_per_commit(
    run: Callable[..., None], recorder: hooks.Hooks, primary: TestDatabase
) -> None:
    """A rollback writes nothing, and releasing a savepoint is no commit."""

    async def body(engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            for n, ending in enumerate(("commit", "rollback", "commit")):
                await connection.execute(text("select 1"))
                async with connection.begin_nested():
                    recorder.changed(connection, "users", UUID(int=n))
                recorder.changed(connection, "users", UUID(int=n + 100))
                await getattr(connection, ending)()
        with pytest.raises(NotInTransaction):
            recorder.changed(connection, "users", UUID(int=9))

    run(body)
    assert recorded(primary) == [str(UUID(int=n)) for n in (0, 100, 2, 102)]


def test_sessions_of_many_tasks_do_not_mix(
    run: Callable[..., None], recorder: hooks.Hooks, primary: TestDatabase
) -> None:
    """async_scoped_session gives each task its own session."""

    async def body(engine: AsyncEngine) -> None:
        scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)

        async def request(number: int) -> None:
            for n in range(4):
                scoped.add(user())
                recorder.changed(scoped, "users", UUID(int=number * 100 + n))
                await scoped.flush()
                await (scoped.commit() if n % 2 else scoped.rollback())
            await scoped.remove()

        await asyncio.gather(*(request(number) for number in range(5)))

    run(body)
    expected = {str(UUID(int=number * 100 + n)) for number in range(5) for n in (1, 3)}
    assert len(recorded(primary)) == 10
    assert set(recorded(primary)) == expected
    assert primary.value("select count(*) from users") == 10


def test_a_session_inside_run_sync_is_the_same_session(
    run: Callable[..., None], recorder: hooks.Hooks, primary: TestDatabase
) -> None:
    """Services written for synchronous sessions work with both."""

    async def body(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session, session.begin():
            session.add(user())
            recorder.changed(session, "users", UUID(int=1))
            await session.run_sync(lambda sync: recorder.changed(sync, "users", UUID(int=2)))

    run(body)
    assert recorded(primary) == [str(UUID(int=1)), str(UUID(int=2))]


def test_a_task_cancelled_before_commit_leaves_nothing(
    run: Callable[..., None], recorder: hooks.Hooks, primary: TestDatabase
) -> None:
    """This happens when a client disconnects in the middle of its request."""

    async def body(engine: AsyncEngine) -> None:
        reached = asyncio.Event()

        async def request() -> None:
            async with AsyncSession(engine) as session, session.begin():
                session.add(user())
                recorder.changed(session, "users", UUID(int=1))
                reached.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(request())
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(body)
    assert recorded(primary) == []
    assert primary.value("select count(*) from users") == 0


def test_errors_are_the_same_as_without_asyncio(
    run: Callable[..., None], recorder: hooks.Hooks, primary: TestDatabase
) -> None:
    """Errors of the hook, of autocommit mode, and of a primary without an outbox."""

    async def bad_calls(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session:
            with pytest.raises(NotInTransaction):
                recorder.changed(session, "users", uuid4())
            session.add(user())
            with pytest.raises(InvalidKey):
                recorder.changed(session, "users", None)

    async def autocommit(engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            await connection.execute(text("select 1"))
            with pytest.raises(NotInTransaction, match="AUTOCOMMIT"):
                recorder.changed(connection, "users", uuid4())
        async with AsyncSession(engine) as session:
            await session.execute(text("select 1"))
            recorder.changed(session, "users", uuid4())
            with pytest.raises(NotInTransaction, match="AUTOCOMMIT"):
                await session.commit()

    async def unmigrated(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session:
            session.add(user())
            recorder.changed(session, "users", uuid4())
            with pytest.raises(NotMigrated, match="run `mirror migrate primary`"):
                await session.commit()

    run(bad_calls)
    run(autocommit, isolation_level="AUTOCOMMIT")
    assert recorded(primary) == []
    primary.query("drop schema mirror cascade")
    run(unmigrated)
    assert primary.value("select count(*) from users") == 0


def test_the_error_for_a_role_without_rights_names_the_grant(
    run: Callable[..., None], recorder: hooks.Hooks, primary: TestDatabase
) -> None:
    """Each driver reports the SQLSTATE in its own attribute."""
    role = f"backend_{uuid4().hex}"
    primary.query(f"create role {role}; grant insert on users to {role}")

    async def body(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session:
            await session.execute(text(f"set local role {role}"))
            session.add(user())
            recorder.changed(session, "users", uuid4())
            with pytest.raises(NotMigrated, match="grant usage on schema mirror"):
                await session.commit()

    try:
        run(body)
    finally:
        primary.query(f"drop owned by {role}; drop role {role}")
