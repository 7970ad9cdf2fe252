"""The target over its own PostgreSQL connection (SUPABASE_DB_URL)."""

import json
import time
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

    Each call is one transaction in one round trip.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def apply(self, stamp: Stamp, sections: Sequence[Section]) -> Answers:
        """Write all sections or none."""
        request = json.dumps(apply_request(stamp, sections))
        return apply_answer(self._call("select public.mirror_apply({})", request))

    def open_scopes(
        self, stamp: Stamp, pages: Sequence[ScopePage], *, limit: int
    ) -> list[list[Key]]:
        """Note that these scopes are read at this stamp; return the keys known under them."""
        request = json.dumps(scopes_request(stamp, pages, limit))
        return scopes_answer(self._call("select public.mirror_open_scopes({})", request))

    def purge(self, days: int) -> int:
        """Forget tombstones older than that; return how many."""
        began = time.monotonic()
        purged = 0
        while True:
            # Always as of when it began: what grows old meanwhile waits for the next purge.
            age = f"{days} days {time.monotonic() - began:.6f} seconds"
            # Looking for what is old reads every tombstone; nobody waits for that.
            answer = self._call("select public.mirror_purge({})", age, patience=20)
            purged += int(answer["purged"])
            if not answer["more"]:
                return purged

    def rebase(self, identity: str, epoch: int) -> None:
        """Take `identity` as the source from now on."""
        self._call("select public.mirror_rebase({}, {})", identity, str(epoch))

    def describe(self) -> Description:
        """Say which source, epoch and declarations this target has."""
        return description(self._call("select public.mirror_describe()"))

    def close(self) -> None:
        """Close the connection."""
        self.database.close()

    def _call(self, query: str, *arguments: str, patience: int = 1) -> Any:
        return self.database.call(query, arguments, patience=patience)[0][0]
