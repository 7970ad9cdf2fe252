"""The target over its own PostgreSQL connection (SUPABASE_DB_URL)."""

from typing import Any

from mirror.sync.connections import Database
from mirror.sync.targets.rpc import RpcTarget


class PostgresTarget(RpcTarget):
    """Calls the target's functions with psycopg, each in one round trip."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def close(self) -> None:
        """Close the connection."""
        self.database.close()

    def _call(self, door: str, *, timeout_factor: int = 1, **arguments: str) -> Any:
        named = ", ".join(f"{name} => {{}}" for name in arguments)
        query = f"select public.mirror_{door}({named})"
        return self.database.call(query, list(arguments.values()), timeout_factor=timeout_factor)[
            0
        ][0]
