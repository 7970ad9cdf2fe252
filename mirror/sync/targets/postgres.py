"""The target over a PostgreSQL connection of its own (SUPABASE_DB_URL)."""

from typing import Any, Final

from psycopg import sql

from mirror.sync.connections import Database
from mirror.sync.targets.base import Target

_FLUSH: Final = sql.SQL("select public.mirror_flush()")


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
        query, values = f"select public.mirror_{function}({parameters})", list(arguments.values())
        if function == "apply":
            # Access depends on it. The other calls wait for the disk themselves.
            rows = self.database.call_early(
                query, values, flush=_FLUSH, timeout_factor=timeout_factor
            )
        else:
            rows = self.database.call(query, values, timeout_factor=timeout_factor)
        ((answer,),) = rows
        return answer
