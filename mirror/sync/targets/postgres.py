"""The target over its own PostgreSQL connection (SUPABASE_DB_URL)."""

from typing import Any

from mirror.sync.connections import Database
from mirror.sync.targets.rpc import Doors


class PostgresTarget(Doors):
    """Calls the target's functions with psycopg, each in one round trip."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def close(self) -> None:
        """Close the connection."""
        self.database.close()

    def _call(self, door: str, *, patience: int = 1, **arguments: str) -> Any:
        named = ", ".join(f"{name} => {{}}" for name in arguments)
        query = f"select public.mirror_{door}({named})"
        return self.database.call(query, list(arguments.values()), patience=patience)[0][0]
