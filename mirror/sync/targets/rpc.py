"""The doors of a target: its public functions, called over whatever transport.

Every door takes texts and answers one JSON value. A transport is a way to call one.
"""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from collections.abc import Mapping as MappingABC
from typing import Any, cast

from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.sync.snapshot import Stamp
from mirror.sync.targets.asking import (
    Ask,
    AskResult,
    Trace,
    ask_answer,
    ask_request,
    keys_request,
    trace_answer,
    trace_request,
)
from mirror.sync.targets.base import (
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
from mirror.sync.targets.catalog import Catalog
from mirror.sync.targets.reading import (
    Buckets,
    Digest,
    Hashing,
    KeyRange,
    KnownRow,
    Listing,
    SurveyRequest,
    buckets_answer,
    digest_answer,
    digest_request,
    members_answer,
    rows_answer,
    rows_request,
    survey_request,
)


class RpcTarget(ABC):
    """A target whose functions are called one at a time, each call a transaction of its own."""

    @abstractmethod
    def _call(self, door: str, *, timeout_factor: int = 1, **arguments: str) -> Any:
        """Call `public.mirror_<door>` and return its JSON.

        `timeout_factor` multiplies the statement timeout. Repeating a call whose answer was lost is
        harmless: writes are fenced.
        """

    @abstractmethod
    def close(self) -> None:
        """Close what is open; the next call opens it again."""

    def apply(self, stamp: Stamp, sections: Sequence[Section]) -> Answers:
        """Write all sections or none."""
        request = _dump(apply_request(stamp, sections))
        return apply_answer(self._call("apply", request=request))

    def open_scopes(
        self, stamp: Stamp, pages: Sequence[ScopePage], *, limit: int
    ) -> list[list[Key]]:
        """Note that these scopes are read at this stamp; return the keys known under them."""
        request = _dump(scopes_request(stamp, pages, limit))
        return scopes_answer(self._call("open_scopes", request=request))

    def digest(
        self, mapping: Mapping, hashing: Hashing, ranges: Sequence[KeyRange], *, limit: int
    ) -> list[Digest]:
        """Say what lies in each range, at most `limit` rows of it."""
        return self._digest(mapping, hashing, ranges, limit, each=False)[0]

    def listing(
        self, mapping: Mapping, hashing: Hashing, ranges: Sequence[KeyRange], *, limit: int
    ) -> list[Listing]:
        """Say it row by row."""
        return self._digest(mapping, hashing, ranges, limit, each=True)[1]

    def probe(self, mapping: Mapping, hashing: Hashing) -> int:
        """Return the hash of the row that both sides of a comparison know."""
        return self._digest(mapping, hashing, [], 1, each=False)[2]

    def _digest(
        self,
        mapping: Mapping,
        hashing: Hashing,
        ranges: Sequence[KeyRange],
        limit: int,
        *,
        each: bool,
    ) -> tuple[list[Digest], list[Listing], int]:
        request = _dump(digest_request(mapping, hashing, ranges, limit, each=each))
        return digest_answer(ranges, self._call("digest", request=request))

    def buckets(self, mapping: Mapping, hashing: Hashing, look: SurveyRequest) -> Buckets:
        """Say what lies in each bucket."""
        request = _dump(survey_request(mapping, hashing, look, each=False))
        return buckets_answer(self._call("survey", request=request))

    def members(self, mapping: Mapping, hashing: Hashing, look: SurveyRequest) -> dict[Key, int]:
        """Say it key by key."""
        request = _dump(survey_request(mapping, hashing, look, each=True))
        return members_answer(self._call("survey", request=request))

    def rows(self, mapping: Mapping, keys: Sequence[Key]) -> dict[Key, KnownRow]:
        """Say everything that is known of each of these keys."""
        return rows_answer(self._call("rows", request=_dump(rows_request(mapping, keys))))

    def trace(self, user: str, scopes: Sequence[tuple[str, str, str]]) -> Trace:
        """Say what is known beside rows."""
        return trace_answer(self._call("trace", request=_dump(trace_request(user, scopes))))

    def keys(
        self, mapping: Mapping, columns: MappingABC[str, str] | None, *, most: int
    ) -> list[Key]:
        """Return the keys of rows with these values; None: those that were deleted last."""
        answer = self._call("trace", request=_dump(keys_request(mapping.name, columns, most)))
        return [tuple(key) for key in answer["keys"]]

    def ask(
        self, asks: Sequence[Ask], users: Sequence[tuple[str, Sequence[str]]]
    ) -> list[list[AskResult]]:
        """Ask as each of these users; what that writes is undone."""
        return ask_answer(asks, self._call("ask", request=_dump(ask_request(asks, users))))

    def expired(self, mapping: Mapping, *, after: Key, limit: int) -> list[Key]:
        """Return at most `limit` keys of rows that have expired, in order, those after one."""
        request = {"mapping": mapping.name, "digest": mapping.digest}
        keys = self._call("expired", request=_dump(request | {"after": after, "limit": limit}))
        return [tuple(key) for key in keys]

    def purge(self, days: int) -> int:
        """Forget tombstones older than that; return how many."""
        began = time.monotonic()
        purged = 0
        while True:
            # Always as of when it began: what grows old meanwhile waits for the next purge.
            age = f"{days} days {time.monotonic() - began:.6f} seconds"
            # Looking for what is old reads every tombstone; nobody waits for that.
            answer = self._call("purge", age=age, timeout_factor=20)
            purged += int(answer["purged"])
            if not answer["more"]:
                return purged

    def rebase(self, identity: str, epoch: int) -> None:
        """Take `identity` as the source from now on."""
        self._call("rebase", identity=identity, epoch=str(epoch))

    def describe(self) -> Description:
        """Say which source, epoch and declarations this target has."""
        return description(self._call("describe"))

    def examine(self, tables: Iterable[str], types: Iterable[str]) -> Catalog:
        """Say what its catalogs hold: of these tables, and what these types are called there."""
        request = _dump({"tables": sorted(set(tables)), "types": sorted(set(types))})
        return cast("Catalog", self._call("examine", request=request))


def _dump(request: dict[str, Any]) -> str:
    """Return compact JSON: REST sends it as a string in JSON, where every quote counts twice."""
    return json.dumps(request, ensure_ascii=False, separators=(",", ":"))
