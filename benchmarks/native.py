"""Native: PostgreSQL's logical replication of the same columns, between the same two servers."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from pydantic import SecretStr

from benchmarks.servers import Connection, Servers, until
from mappings.trips import registry
from mirror.devstack import supabase
from mirror.schema.connecting import migrating
from mirror.schema.migrate import upgrade

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


class NativeSubscription:
    """A subscription of logical replication; its tables are in a database of their own."""

    def __init__(self, servers: Servers, connection: Connection) -> None:
        self._servers = servers
        self.connection = connection

    def pause(self) -> None:
        """Stop applying changes, so that they wait in the primary."""
        self.connection.execute("alter subscription native disable")
        self._until("select not active from pg_replication_slots where slot_name = 'native'")

    def resume(self, *, durable: bool = False) -> None:
        """Apply changes again. Commits wait for the disk if `durable`; by default they do not."""
        self.connection.execute(
            sql.SQL("alter subscription native set (synchronous_commit = {})").format(
                sql.Literal("on" if durable else "off")
            )
        )
        self.connection.execute("alter subscription native enable")

    def catch_up(self) -> None:
        """Wait until all changes that are committed now have been applied."""
        found = self._servers.primary.execute("select pg_current_wal_insert_lsn()::text").fetchone()
        assert found is not None  # noqa: S101 - a function always answers
        self._until(
            "select coalesce((select replay_lsn >= %s::pg_lsn from pg_stat_replication"
            " where application_name = 'native'), false)",
            found[0],
        )

    def _until(self, question: str, *parameters: object) -> None:
        until(self._servers.primary, question, *parameters)


@contextmanager
def native(servers: Servers, *, policies: bool = False) -> Iterator[NativeSubscription]:
    """Yield a subscription that has copied all rows.

    `policies`: its tables are those of a migrated target, with their policies and no ledger rows.
    """
    primary, target = servers.stack.primary, servers.stack.target
    target.create_database(DATABASE)
    servers.primary.execute(_PUBLISH)
    with psycopg.connect(target.url(DATABASE), autocommit=True) as connection:
        if policies:
            supabase.prepare_database(target, DATABASE)
            url = target.url(DATABASE, user=supabase.OWNER)
            settings = servers.settings.model_copy(update={"supabase_db_url": SecretStr(url)})
            with migrating(settings, "supabase") as owner:
                upgrade(owner, "supabase", registry)
        else:
            connection.execute(_TABLES)
        connection.execute(
            sql.SQL("create subscription native connection {} publication native").format(
                primary.url()
            )
        )
        until(connection, "select count(*) = 0 from pg_subscription_rel where srsubstate <> 'r'")
        connection.execute("analyze")
        yield NativeSubscription(servers, connection)
        connection.execute("drop subscription native")
        # This also drops the slot; the worker that used it ends a moment later.
        time.sleep(0.2)
    servers.primary.execute("drop publication native")
    target.drop_database(DATABASE)
