"""Target: the operations on a database that the mirror writes, whatever the transport.

Each operation is one method here, which builds the request and parses the answer, and one SQL
function in the target, behind an RPC function of the same name (`public.mirror_<name>`). The rules
(fences, scopes, parents, horizon) live in the SQL functions. A transport implements `_call`.
"""

import base64
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Mapping as MappingABC
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, Final, cast

from mirror.errors import LostParent, NotPaired, Transient
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.sync.pairing import Pair
from mirror.sync.row_queries import JsonRows
from mirror.sync.snapshot import Stamp
from mirror.sync.targets.asking import Ask, AskResult, Trace
from mirror.sync.targets.catalog import Catalog, Description
from mirror.sync.targets.reading import (
    Buckets,
    Digest,
    Hashing,
    KeyRange,
    KnownRow,
    Listing,
    SurveyRequest,
)
from mirror.sync.targets.writing import (
    Answer,
    Answers,
    Outcome,
    ScopePage,
    Section,
    TooOld,
    as_keys,
    as_text,
)

VERSION: Final = 1
"""The version of the envelope in which a worker writes."""

# While a slow read goes on, other workers may take so many steps.
_MAX_STEPS_BEHIND: Final = 5


class Target(ABC):
    """A database that authorises. Each call is a transaction of its own."""

    read_pair: Callable[[], Pair] | None = None
    """Reads the primary's present step, outside the snapshot that a write comes from. None: a write
    whose step is no longer the last one fails."""

    @abstractmethod
    def _call(self, function: str, *, timeout_factor: int = 1, **arguments: str) -> Any:
        """Call `public.mirror_<function>` and return its JSON value.

        `timeout_factor` multiplies the statement timeout. A transport may repeat a call whose
        answer was lost: writes are fenced.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connections; the next call opens others."""

    # Writing; ARCHITECTURE.md describes the envelope of a request.

    def apply(self, stamp: Stamp, sections: Sequence[Section | JsonRows]) -> Answers:
        """Write all sections or none, in one call.

        Raises:
            TooOld: the stamp is older than the horizon.
        """
        parts = []
        for section in sections:
            rows, deleted = section.as_json()
            parts.append(_with(_about(section.mapping), rows=rows, gone=deleted))
        sections_text = f"[{','.join(parts)}]"
        try:
            answer = self._write("apply", stamp, sections_text, pages=True)
        except LostParent:
            # The ledger has a parent whose row somebody deleted by hand.
            answer = self._write("apply", stamp, sections_text, pages=True, careful=True)
        with _undamaged():
            _check_horizon(answer)
            return {name: Answer.from_json(part) for name, part in answer["mappings"].items()}

    def open_scopes(
        self, stamp: Stamp, pages: Sequence[ScopePage], *, limit: int
    ) -> list[list[Key]]:
        """Record that these scopes are read at this stamp; return at most `limit` keys for each.

        The keys are those that the target's ledger has under the scope.

        Raises:
            TooOld: the stamp is older than the horizon.
        """
        parts = [
            _about(page.mapping)
            | {"reference": page.reference, "values": page.values, "after": page.after}
            for page in pages
        ]
        answer = self._write("open_scopes", stamp, as_text(parts), limit=limit)
        with _undamaged():
            _check_horizon(answer)
            return [as_keys(keys) for keys in answer["sections"]]

    def withhold(self, stamp: Stamp, mapping: Mapping, key: Key, reason: str) -> Outcome:
        """Let a key grant nothing until a read of this stamp or a newer one is written.

        `reason` is stored. A row without children is removed; with children it stays, and the
        helpers ignore it and them.
        """
        section = _about(mapping) | {"key": key, "reason": reason}
        answer = self._write("withhold", stamp, as_text([section]))
        with _undamaged():
            return Outcome(answer["outcome"])

    def step(
        self, stamp: Stamp, fresh: MappingABC[str, str], *, verified: str | None = None
    ) -> str:
        """Take a step together with the primary; return the target's clock, as text.

        `fresh` has for each mapping the moment of that clock before which every recorded revocation
        is in force. `verified` is the moment at which a reconcile began that ended in line.

        Raises:
            NotPaired: primary and target do not belong together.
        """
        answer = self._write("step", stamp, "[]", fresh=dict(fresh), verified=verified)
        with _undamaged():
            return str(answer["clock"])

    def _write(self, function: str, stamp: Stamp, sections: str, **fields: Any) -> Any:
        """Send a request that carries a stamp; `sections` is a JSON text.

        The primary may have taken more steps since it was read: then the same request is sent with
        the present one.
        """
        for _ in range(_MAX_STEPS_BEHIND):
            try:
                request = _with({"version": VERSION} | asdict(stamp) | fields, sections=sections)
                return self._call(function, request=request)
            except NotPaired:
                pair = stamp.pair if self.read_pair is None else self.read_pair()
                if pair == stamp.pair:
                    known = self.describe()
                    reason = pair.parting(known.step, known.token)
                    if reason is None:
                        raise
                    raise NotPaired(f"target: {reason}") from None
                stamp = replace(stamp, pair=pair)
        raise Transient("target: primary and target take their steps faster than this worker reads")

    def purge(self, days: int) -> int:
        """Delete tombstones older than `days`; return their number."""
        began = time.monotonic()
        purged = 0
        while True:
            # The age limit stays where it was at the start: later tombstones wait for the next
            # purge.
            age = f"{days} days {time.monotonic() - began:.6f} seconds"
            # The search reads every tombstone, and no other work waits for it.
            answer = self._call("purge", age=age, timeout_factor=20)
            purged += int(answer["purged"])
            if not answer["more"]:
                return purged

    def rebase(self, identity: str, epoch: int) -> None:
        """Make `identity` the primary that this target mirrors."""
        self._call("rebase", identity=identity, epoch=str(epoch))

    # Reading

    def describe(self) -> Description:
        """Return the primary, step, epoch, declarations and migrations of this target."""
        return Description.from_json(self._call("describe"))

    def digest(
        self, mapping: Mapping, hashing: Hashing, ranges: Sequence[KeyRange], *, limit: int
    ) -> list[Digest]:
        """Return the count and the hash sum of each range, for at most `limit` rows of it."""
        answer = self._digest(mapping, hashing, ranges, limit)
        return [Digest.from_json(*each) for each in zip(ranges, answer["ranges"], strict=True)]

    def listing(
        self, mapping: Mapping, hashing: Hashing, ranges: Sequence[KeyRange], *, limit: int
    ) -> list[Listing]:
        """Return each row's hash, per range, for at most `limit` rows of it."""
        answer = self._digest(mapping, hashing, ranges, limit, each=True)
        return [Listing.from_json(*each) for each in zip(ranges, answer["ranges"], strict=True)]

    def probe(self, mapping: Mapping, hashing: Hashing) -> int:
        """Return the hash of a constant row, which both sides of a comparison compute."""
        return int(self._digest(mapping, hashing, [], 1)["probe"])

    def _digest(
        self,
        mapping: Mapping,
        hashing: Hashing,
        ranges: Sequence[KeyRange],
        limit: int,
        *,
        each: bool = False,
    ) -> Any:
        parts = [[range_.start, range_.end] for range_ in ranges]
        request = {"limit": limit, "each": each, "ranges": parts}
        return self._send("digest", _about(mapping) | asdict(hashing) | request)

    def buckets(self, mapping: Mapping, hashing: Hashing, survey: SurveyRequest) -> Buckets:
        """Return the row count and hash sum of each bucket, for one part of the rows.

        The sums of all parts, XORed, are the sums of all rows.
        """
        return Buckets.from_json(self._survey(mapping, hashing, survey, each=False))

    def members(self, mapping: Mapping, hashing: Hashing, survey: SurveyRequest) -> dict[Key, int]:
        """Return each key's hash in the wanted buckets, for one part of the rows.

        A key's visible row and its ledger row may be in different parts.
        """
        answer = self._survey(mapping, hashing, survey, each=True)
        return {tuple(key): int(hashed) for *key, hashed in answer}

    def _survey(
        self, mapping: Mapping, hashing: Hashing, survey: SurveyRequest, *, each: bool
    ) -> Any:
        wanted = None if survey.wanted is None else base64.b64encode(survey.wanted).decode()
        request = asdict(survey) | {"wanted": wanted, "each": each}
        return self._send("survey", _about(mapping) | asdict(hashing) | request)

    def rows(self, mapping: Mapping, keys: Sequence[Key]) -> dict[Key, KnownRow]:
        """Return all that the target knows about each of these keys."""
        answer = self._send("rows", _about(mapping) | {"keys": keys})
        return {tuple(part["key"]): KnownRow.from_json(part) for part in answer}

    def expired(self, mapping: Mapping, *, after: Key, limit: int) -> list[Key]:
        """Return at most `limit` keys of expired rows in key order, starting after a key."""
        return as_keys(self._send("expired", _about(mapping) | {"after": after, "limit": limit}))

    # Diagnosing

    def trace(self, user: str, scopes: Sequence[tuple[str, str, str]]) -> Trace:
        """Return facts beside the rows: the primary, and scopes (mapping, reference, value)."""
        return Trace.from_json(self._send("trace", {"user": user, "scopes": scopes, "asks": []}))

    def keys(
        self, mapping: Mapping, columns: MappingABC[str, str] | None, *, limit: int
    ) -> list[Key]:
        """Return the keys of rows with these values; for {}, of any rows.

        For None, the keys that were deleted last.
        """
        request = {"mapping": mapping.name, "columns": columns, "most": limit}
        return as_keys(self._send("trace", {"scopes": [], "asks": [], "keys": request})["keys"])

    def ask(
        self, asks: Sequence[Ask], users: Sequence[tuple[str, Sequence[str]]]
    ) -> list[list[AskResult]]:
        """Evaluate the asks as each of these users, about the user's values.

        Returns the results by user, then by ask. Writes are undone.

        Raises:
            WrongKey: the connected role may not act as a user.
            UsageError: a row names a column that its table does not have.
        """
        answer = self._send(
            "ask",
            {
                "asks": [{"kind": ask.kind, **asdict(ask)} for ask in asks],
                "users": [{"user": user, "values": values} for user, values in users],
            },
        )
        return [
            [
                AskResult.from_json(ask, facts or {}, part)
                for ask, facts, part in zip(asks, answer["facts"], parts, strict=True)
            ]
            for parts in answer["answers"]
        ]

    def examine(self, tables: Iterable[str], types: Iterable[str]) -> Catalog:
        """Return the catalog's entries for these tables and the server's names of these types.

        A table or type that does not exist is None. The result also has facts that do not depend on
        the arguments: the server's version and clock, the names of all mirrored tables, all
        policies, and the mirror's functions that anon or authenticated may execute.
        """
        request = {"tables": sorted(set(tables)), "types": sorted(set(types))}
        return cast("Catalog", self._send("examine", request))

    def _send(self, function: str, request: MappingABC[str, Any]) -> Any:
        """Call a function that takes one JSON value."""
        return self._call(function, request=as_text(request))


def _with(values: MappingABC[str, Any], **texts: str) -> str:
    """Return a JSON object with some values, and with fields whose values are JSON texts."""
    fields = [f'"{name}":{text}' for name, text in texts.items()]
    return f"{as_text(values)[:-1]},{','.join(fields)}}}"


def _about(mapping: Mapping) -> dict[str, Any]:
    return {"mapping": mapping.name, "digest": mapping.digest}


@contextmanager
def _undamaged() -> Iterator[None]:
    """Raise Transient if an answer does not have the form that the target's functions give it.

    A proxy between worker and target may cut an answer off or replace it. No event is the
    cause, so all of them wait.
    """
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Transient("target: its answer is damaged") from None


def _check_horizon(answer: dict[str, Any]) -> None:
    if answer["horizon"] is not None:
        raise TooOld(answer["horizon"])
