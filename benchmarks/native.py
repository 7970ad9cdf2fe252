"""Native logical replication of the same columns, between the same two servers."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from benchmarks.stage import Connection, Stage, until

DATABASE = "native"

_TABLES = """
create table users (id uuid primary key, email text, username text);
create table trips (id uuid primary key, name text, created_by uuid);
create table trip_memberships (
  trip_id uuid, user_id uuid, role text, status text,
  primary key (trip_id, user_id), unique (user_id, trip_id)
)
"""

_PUBLISH = """
create publication native for table users (id, email, username), trips (id, name, created_by),
  trip_memberships (trip_id, user_id, role, status)
"""


class Native:
    """A subscription, into a database of its own on the target's server."""

    def __init__(self, stage: Stage, connection: Connection) -> None:
        self._stage = stage
        self.connection = connection

    def pause(self) -> None:
        """Let changes pile up in the primary."""
        self.connection.execute("alter subscription native disable")
        self._until("select not active from pg_replication_slots where slot_name = 'native'")

    def resume(self, *, durable: bool = False) -> None:
        """Go on. Its commits do not wait for the disk, as is the default, unless `durable`."""
        self.connection.execute(
            sql.SQL("alter subscription native set (synchronous_commit = {})").format(
                sql.Literal("on" if durable else "off")
            )
        )
        self.connection.execute("alter subscription native enable")

    def catch_up(self) -> None:
        """Return once everything that is committed now has been applied."""
        found = self._stage.primary.execute("select pg_current_wal_insert_lsn()::text").fetchone()
        assert found is not None  # noqa: S101 - a function always answers
        self._until(
            "select coalesce((select replay_lsn >= %s::pg_lsn from pg_stat_replication"
            " where application_name = 'native'), false)",
            found[0],
        )

    def _until(self, question: str, *parameters: object) -> None:
        until(self._stage.primary, question, *parameters)


@contextmanager
def native(stage: Stage) -> Iterator[Native]:
    """Yield a subscription that has copied what is there."""
    primary, target = stage.stack.primary, stage.stack.target
    target.create_database(DATABASE)
    stage.primary.execute(_PUBLISH)
    with psycopg.connect(target.url(DATABASE), autocommit=True) as connection:
        connection.execute(_TABLES)
        connection.execute(
            sql.SQL("create subscription native connection {} publication native").format(
                primary.url()
            )
        )
        until(connection, "select count(*) = 0 from pg_subscription_rel where srsubstate <> 'r'")
        connection.execute("analyze")
        yield Native(stage, connection)
        connection.execute("drop subscription native")
        # Its slot goes along; the worker that held it ends a moment later.
        time.sleep(0.2)
    stage.primary.execute("drop publication native")
    target.drop_database(DATABASE)
