"""Supabase: prepares a cluster like a Supabase project: its roles, grants and the schema auth.

The details follow the public repositories supabase/postgres, supabase/auth, supabase/realtime and
supabase/storage. These parts of a project are missing: PostgREST; Realtime and Storage, except the
tables that policies refer to (`prepare_services`); pg_safeupdate, which refuses UPDATE and DELETE
without WHERE from the API; and supautils, which allows `postgres` a few actions that otherwise
need a superuser.
"""

from importlib.resources import files

import psycopg
from psycopg import sql

from mirror.devstack.postgres import PostgresCluster
from mirror.errors import ConfigError

SUPERUSER = "supabase_admin"
"""The required name of the cluster's bootstrap superuser."""

OWNER = "postgres"
"""The role that runs migrations and owns the database; not a superuser."""

_LOGIN_ROLES = (OWNER, "authenticator", "supabase_auth_admin")


def prepare_cluster(cluster: PostgresCluster) -> None:
    """Create a project's roles in a new cluster; login roles get the superuser's password.

    Raises:
        ConfigError: the bootstrap superuser is not `supabase_admin`.
    """
    if cluster.superuser != SUPERUSER:
        raise ConfigError(
            f"A stand-in for Supabase needs a cluster started with superuser={SUPERUSER!r}, "
            f"not {cluster.superuser!r}: in a project, {OWNER!r} is an ordinary role."
        )
    with psycopg.connect(cluster.url()) as connection:
        connection.execute(_statements("supabase_roles.sql"))
        for role in _LOGIN_ROLES:
            connection.execute(
                sql.SQL("alter role {} password {}").format(sql.Identifier(role), cluster.password)
            )


def prepare_database(cluster: PostgresCluster, database: str) -> None:
    """Make `postgres` the owner of a new database and create a project's schemas in it.

    The cluster must be prepared. A copy made with `create_database(..., template=database,
    owner="postgres")` needs no further preparation.
    """
    with psycopg.connect(cluster.url(database)) as connection:
        connection.execute(
            sql.SQL("alter database {} owner to {}").format(
                sql.Identifier(database), sql.Identifier(OWNER)
            )
        )
        connection.execute(_statements("supabase_database.sql"))


def prepare_services(cluster: PostgresCluster, database: str) -> None:
    """Create the tables of Realtime and Storage in a prepared database.

    Separate, because a target does not need these services.
    """
    with psycopg.connect(cluster.url(database)) as connection:
        connection.execute(_statements("supabase_services.sql"))


def _statements(name: str) -> bytes:
    return files("mirror.devstack").joinpath(name).read_bytes()
