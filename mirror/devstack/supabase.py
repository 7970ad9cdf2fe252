"""A cluster dressed up as a Supabase project: its roles, grants and the schema auth.

The facts are those of the public repositories supabase/postgres, supabase/auth, supabase/realtime
and supabase/storage. What a project can do beyond plain PostgreSQL is missing: PostgREST, Realtime
and Storage but for what policies see of their tables (`prepare_services`), pg_safeupdate (which
refuses UPDATE and DELETE without WHERE from the API), and supautils, which lets `postgres` do a few
things that otherwise take a superuser.
"""

from importlib.resources import files

import psycopg
from psycopg import sql

from mirror.devstack.postgres import PostgresCluster
from mirror.errors import ConfigError

SUPERUSER = "supabase_admin"
"""What the cluster's bootstrap superuser must be called."""

OWNER = "postgres"
"""The role that migrations run as and that owns the database; no superuser."""

_LOGIN_ROLES = (OWNER, "authenticator", "supabase_auth_admin")


def prepare_cluster(cluster: PostgresCluster) -> None:
    """Create the roles, once per cluster; those that log in share the superuser's password.

    Raises:
        ConfigError: the bootstrap superuser is not `supabase_admin`.
    """
    if cluster.superuser != SUPERUSER:
        raise ConfigError(
            f"A stand-in for Supabase needs a cluster started with superuser={SUPERUSER!r}, "
            f"not {cluster.superuser!r}: there, {OWNER!r} is an ordinary role."
        )
    with psycopg.connect(cluster.url()) as connection:
        connection.execute(_statements("supabase_roles.sql"))
        for role in _LOGIN_ROLES:
            connection.execute(
                sql.SQL("alter role {} password {}").format(sql.Identifier(role), cluster.password)
            )


def prepare_database(cluster: PostgresCluster, database: str) -> None:
    """Give `database` to `postgres` and fill it; it must be new, the cluster prepared.

    A copy made with `create_database(..., template=database, owner="postgres")` needs no
    preparation of its own.
    """
    with psycopg.connect(cluster.url(database)) as connection:
        connection.execute(
            sql.SQL("alter database {} owner to {}").format(
                sql.Identifier(database), sql.Identifier(OWNER)
            )
        )
        connection.execute(_statements("supabase_database.sql"))


def prepare_services(cluster: PostgresCluster, database: str) -> None:
    """Add what Realtime and Storage make in a database; apart, because plain PostgreSQL has none.

    `database` must be prepared.
    """
    with psycopg.connect(cluster.url(database)) as connection:
        connection.execute(_statements("supabase_services.sql"))


def _statements(name: str) -> bytes:
    return files("mirror.devstack").joinpath(name).read_bytes()
