"""The target over its own PostgreSQL connection (SUPABASE_DB_URL)."""

import json
from collections.abc import Sequence
from typing import Any

from mirror.keys import Key
from mirror.postgres import Database
from mirror.stamp import Stamp
from mirror.targets.base import (
    Answers,
    Description,
    ScopePage,
    Section,
    apply_answer,
    apply_request,
    description,
    scopes_answer,
    scopes_request,
)


class PostgresTarget:
    """Calls the target's functions with psycopg.

    Each call is one statement, so one round trip and one transaction.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def apply(self, stamp: Stamp, sections: Sequence[Section]) -> Answers:
        """Write all sections or none."""
        request = json.dumps(apply_request(stamp, sections))
        return apply_answer(self._call("select public.mirror_apply(%s)", request))

    def open_scopes(
        self, stamp: Stamp, pages: Sequence[ScopePage], *, limit: int
    ) -> list[list[Key]]:
        """Note that these scopes are read at this stamp; return the keys known under them."""
        request = json.dumps(scopes_request(stamp, pages, limit))
        return scopes_answer(self._call("select public.mirror_open_scopes(%s)", request))

    def purge(self, days: int) -> int:
        """Forget tombstones older than that; return how many."""
        return int(self._call("select public.mirror_purge(%s)", f"{days} days")["purged"])

    def rebase(self, identity: str, epoch: int) -> None:
        """Take `identity` as the source from now on."""
        self._call("select public.mirror_rebase(%s, %s)", identity, str(epoch))

    def describe(self) -> Description:
        """Say which source, epoch and declarations this target has."""
        return description(self._call("select public.mirror_describe()"))

    def close(self) -> None:
        """Close the connection."""
        self.database.close()

    def _call(self, query: str, *arguments: str) -> Any:
        return self.database.execute(query, arguments)[0][0]
