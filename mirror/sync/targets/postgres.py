"""The target over a PostgreSQL connection of its own (SUPABASE_DB_URL)."""

from typing import Any

from mirror.sync.connections import Database
from mirror.sync.targets.base import Target


class PostgresTarget(Target):
    """Calls the target's RPC functions with psycopg, each in one round trip."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def close(self) -> None:
        """Close the connection."""
        self.database.close()

    def twin(self) -> "PostgresTarget":
        """Return one with a connection of its own."""
        return PostgresTarget(self.database.twin())

    def _call(self, function: str, *, timeout_factor: int = 1, **arguments: str) -> Any:
        parameters = ", ".join(f"{name} => {{}}" for name in arguments)
        ((answer,),) = self.database.call(
            f"select public.mirror_{function}({parameters})",
            list(arguments.values()),
            timeout_factor=timeout_factor,
            # Somebody may wait for it. The other calls wait for the disk themselves.
            flush="select public.mirror_flush()" if function == "apply" else None,
        )
        return answer
