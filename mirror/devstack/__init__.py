"""Devstack: embedded, temporary servers for `mirror demo`, `mirror dev` and the tests.

It needs no Docker, no root and no system packages, only `permission-mirror[embedded]`. Each module
builds on those before it:

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
