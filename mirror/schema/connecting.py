"""Connecting: opens the SQLAlchemy connection in which `mirror migrate` runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import Connection, NullPool, create_engine
from sqlalchemy.exc import DBAPIError

from mirror.errors.sqlstates import translate
from mirror.schema.migrate import Side
from mirror.settings import Settings


@contextmanager
def migrating(settings: Settings, side: Side) -> Iterator[Connection]:
    """Yield a SQLAlchemy connection to one side, in a transaction.

    Raises:
        ConfigError: the side's URL is not set.
        Unreachable: the database does not answer.
        MirrorError: the database reports another error, also inside the block.
    """
    field, role = (
        ("primary_database_url", "primary") if side == "primary" else ("supabase_db_url", "target")
    )
    url = settings.need(field).replace("postgresql://", "postgresql+psycopg://", 1)
    options = {"prepare_threshold": None, "connect_timeout": settings.connect_seconds}
    # One connection, so no pool. No prepared statements: a pooler may be in between.
    engine = create_engine(url, poolclass=NullPool, connect_args=options)
    try:
        with engine.begin() as connection:
            yield connection
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise translate(error.orig, role) from error
        raise
