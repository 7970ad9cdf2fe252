"""Each test gets databases of its own: copies of templates that a test run creates once."""

import itertools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, NullPool, create_engine

from examples.trip_chat import models
from mappings.trips import registry
from mirror.devstack import PostgresCluster, prepare_database, prepare_services
from mirror.devstack.caller import become
from mirror.schema.migrate import upgrade

_numbers = itertools.count(1)
EXAMPLES = Path(__file__).parents[2] / "examples"
SCHEMA = EXAMPLES / "trip_chat" / "supabase.sql"


@dataclass
class TestDatabase:
    """A database, and the ways in which tests read and change it."""

    __test__ = False

    url: str
    """The URL of the role that migrates and mirrors."""
    _idle: list[psycopg.Connection[tuple[Any, ...]]] = field(
        default_factory=list, repr=False, compare=False
    )
    """Connections that the next queries use again, which costs less than to connect. They have the
    settings that roles and databases had when they began: `disconnect` after a change."""

    def __post_init__(self) -> None:
        """Let the connections end with the object."""
        weakref.finalize(self, _disconnect, self._idle)

    @property
    def sqlalchemy_url(self) -> str:
        """The same URL for SQLAlchemy with psycopg."""
        return self.url.replace("postgresql://", "postgresql+psycopg://", 1)

    def engine(self, **options: Any) -> Engine:
        """Return an engine that keeps no connections; the caller need not dispose of it."""
        return create_engine(self.sqlalchemy_url, poolclass=NullPool, **options)

    def connect(self, **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """Open a new connection, in autocommit mode by default."""
        return psycopg.connect(self.url, **{"autocommit": True, **options})

    def query(self, query: str | sql.SQL | sql.Composed, *parameters: Any) -> list[Any]:
        """Run one statement and return its rows."""
        with self._connection() as connection:
            cursor = connection.execute(query, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def value(self, query: str, *parameters: Any) -> Any:
        """Run one statement and return the first value of its first row."""
        return self.query(query, *parameters)[0][0]

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """Yield a connection in its first state: an idle one, or a new one."""
        connection = self._idle_connection() or self.connect(prepare_threshold=None)
        try:
            yield connection
        finally:
            # A statement that failed may have left a transaction open.
            if connection.info.transaction_status is TransactionStatus.IDLE:
                self._idle.append(connection)
            else:
                connection.close()

    def _idle_connection(self) -> psycopg.Connection[tuple[Any, ...]] | None:
        while self._idle:
            connection = self._idle.pop()
            # The server may have been restarted meanwhile.
            with suppress(psycopg.OperationalError):
                connection.execute("discard all")
                return connection
            connection.close()
        return None

    def disconnect(self) -> None:
        """Close the idle connections."""
        _disconnect(self._idle)

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """Yield a SQLAlchemy connection in a transaction, which is committed at the end."""
        engine = self.engine()
        with engine.begin() as connection:
            yield connection

    @contextmanager
    def acting_as(
        self, user: UUID | str | None, *, role: str = "authenticated"
    ) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """Yield a connection in a transaction with this user's role and claims, as in PostgREST.

        The transaction is rolled back at the end.

        None: the token has no subject. `role` may be `anon` or `service_role`, too.
        """
        with self.connect(autocommit=False) as connection:
            become(connection, user, role=role)
            try:
                yield connection
            finally:
                connection.rollback()


def _disconnect(idle: list[psycopg.Connection[tuple[Any, ...]]]) -> None:
    while idle:
        idle.pop().close()


@pytest.fixture(scope="session")
def primary_template(primary_cluster: PostgresCluster) -> str:
    """A database with the example backend's tables and the outbox."""
    primary_cluster.create_database("primary_template")
    engine = TestDatabase(primary_cluster.url("primary_template")).engine()
    with engine.begin() as connection:
        models.Base.metadata.create_all(connection)
        upgrade(connection)
    return "primary_template"


@pytest.fixture(scope="session")
def project_template(target_cluster: PostgresCluster) -> str:
    """A Supabase project without any object of the mirror."""
    target_cluster.create_database("project_template", owner="postgres")
    prepare_database(target_cluster, "project_template")
    return "project_template"


@pytest.fixture(scope="session")
def target_template(target_cluster: PostgresCluster, project_template: str) -> str:
    """A Supabase project with the trips model and the example's chat tables, guarded."""
    target_cluster.create_database("target_template", template=project_template, owner="postgres")
    prepare_services(target_cluster, "target_template")
    database = TestDatabase(target_cluster.url("target_template", user="postgres"))
    with database.migrating() as connection:
        upgrade(connection, "supabase", registry)
    database.query(SCHEMA.read_text())
    with database.migrating() as connection:
        upgrade(connection, "supabase", registry, guards=True)
    return "target_template"


@contextmanager
def primary_with(cluster: PostgresCluster, name: str, tables: str) -> Iterator[TestDatabase]:
    """Yield a primary with some tables, which these statements create, and an outbox."""
    cluster.create_database(name)
    database = TestDatabase(cluster.url(name))
    database.query(tables)
    with database.migrating() as connection:
        upgrade(connection)
    yield database
    database.disconnect()
    cluster.drop_database(name)


@pytest.fixture
def primary(primary_cluster: PostgresCluster, primary_template: str) -> Iterator[TestDatabase]:
    """The backend's database."""
    name = f"primary_{next(_numbers)}"
    primary_cluster.create_database(name, template=primary_template)
    database = TestDatabase(primary_cluster.url(name))
    # A copy of the template has its token, too.
    database.query("update mirror.pairing set token = gen_random_uuid()")
    yield database
    database.disconnect()
    primary_cluster.drop_database(name)


@pytest.fixture
def project(target_cluster: PostgresCluster, project_template: str) -> Iterator[TestDatabase]:
    """A Supabase project without any object of the mirror."""
    name = f"project_{next(_numbers)}"
    target_cluster.create_database(name, template=project_template, owner="postgres")
    database = TestDatabase(target_cluster.url(name, user="postgres"))
    yield database
    database.disconnect()
    target_cluster.drop_database(name)


@pytest.fixture
def target(target_cluster: PostgresCluster, target_template: str) -> Iterator[TestDatabase]:
    """A migrated Supabase project with the example's chat tables."""
    name = f"target_{next(_numbers)}"
    target_cluster.create_database(name, template=target_template, owner="postgres")
    database = TestDatabase(target_cluster.url(name, user="postgres"))
    yield database
    database.disconnect()
    target_cluster.drop_database(name)
