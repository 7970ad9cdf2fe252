"""Connecting: opens the SQLAlchemy connection in which `mirror migrate` runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from mirror.errors.sqlstates import translate
from mirror.schema.sides import ROLE, Side
from mirror.schema.watched_connection import WatchedConnection
from mirror.settings import Settings

FIELD: dict[Side, str] = {"primary": "primary_database_url", "supabase": "supabase_db_url"}
"""The setting with the URL of each side."""


@contextmanager
def migrating(
    settings: Settings,
    side: Side,
    *,
    seconds: int | None = None,
    warn: Callable[[str], object] = lambda _: None,
) -> Iterator[Connection]:
    """Yield a SQLAlchemy connection to one side, in a transaction.

    `seconds` limits how long it may take to connect, and each statement; by default, the settings
    limit the former, and a statement may take as long as the server works on it. `warn` is called
    with each warning of the database.

    Raises:
        ConfigError: the side's URL is not set.
        Unreachable: the database does not answer.
        MirrorError: the database reports another error, also inside the block.
    """
    url = settings.need(FIELD[side])
    limit = seconds or settings.connect_seconds

    def connect() -> WatchedConnection:
        # No prepared statements: a pooler may be in between.
        made = WatchedConnection.connect(url, prepare_threshold=None, connect_timeout=limit)
        made.url, made.seconds = url, limit
        return made

    # One connection, so no pool.
    engine = create_engine("postgresql+psycopg://", poolclass=NullPool, creator=connect)
    try:
        with engine.begin() as connection:
            watched = connection.connection.driver_connection
            assert isinstance(watched, WatchedConnection)  # noqa: S101 - for mypy
            watched.process = connection.scalar(text("select pg_backend_pid()"))
            if seconds is not None:
                connection.execute(text(f"set local statement_timeout = '{seconds}s'"))
            _pass_warnings(connection, warn)
            yield connection
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise translate(error.orig, ROLE[side]) from error
        raise


def _pass_warnings(connection: Connection, warn: Callable[[str], object]) -> None:
    """Call `warn` with the text of each warning that the database sends from now on."""

    def received(notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            warn(str(notice.message_primary))

    driver = connection.connection.driver_connection
    if isinstance(driver, psycopg.Connection):
        driver.add_notice_handler(received)
