"""Target: the operations on a database that the mirror writes, whatever the transport.

Each operation is one method here, which builds the request and parses the answer, and one SQL
function in the target, behind an RPC function of the same name (`public.mirror_<name>`). The rules
(fences, scopes, parents, horizon) live in the SQL functions. A transport implements `_call`.
"""

import base64
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Mapping as MappingABC
from dataclasses import asdict, replace
from typing import Any, Final, TypeVar

from mirror.errors import Halted, LostParent, NotPaired, Transient, Unexplained
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.sync.pairing import Pair
from mirror.sync.row_queries import JsonRows
from mirror.sync.snapshot import Stamp
from mirror.sync.targets.asking import Ask, AskResult, Trace
from mirror.sync.targets.catalog import Catalog, Description, read_catalog
from mirror.sync.targets.damage import undamaged
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
    as_list,
    as_text,
)

VERSION: Final = 1
"""The version of the envelope in which a worker writes."""

# While a slow read goes on, other workers may take so many steps.
_MAX_STEPS_BEHIND: Final = 5

Result = TypeVar("Result")


class Target(ABC):
    """A database that authorises. Each call is a transaction of its own."""

    read_pair: Callable[[], Pair] | None = None
    """Reads the primary's present step, outside the snapshot that a write comes from. None: a write
    whose step is no longer the last one fails."""
    _renewed: tuple[Stamp, Pair] | None = None
    """The last stamp whose step was no longer the last one, and the step that was. A long pass
    sends many writes with one stamp, and only the first of them shall be refused."""

    @abstractmethod
    def _call(self, function: str, *, timeout_factor: int = 1, **arguments: str) -> Any:
        """Call `public.mirror_<function>` and return its JSON value.

        `timeout_factor` multiplies the statement timeout. A transport may repeat a call whose
        answer was lost: writes are fenced.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connections; the next call opens others."""

    def twin(self) -> "Target | None":
        """Return a target of the same database with connections of its own; the caller closes it.

        It has no `read_pair`. None: there can be none.
        """
        return None

    # Writing; ARCHITECTURE.md describes the envelope of a request.

    def apply(self, stamp: Stamp, sections: Sequence[Section | JsonRows]) -> Answers:
        """Write all sections or none, in one call.

        Raises:
            TooOld: the stamp is older than the horizon.
            Unexplained: a mapping cannot be written at all, or one of its rows.
        """
        parts = []
        for section in sections:
            rows, deleted = section.as_json()
            parts.append(_with(_about(section.mapping), rows=rows, gone=deleted))
        sections_text = f"[{','.join(parts)}]"

        def parse(answer: Any) -> Answers:
            _check_horizon(answer)
            # A mapping that the answer leaves out would count as written.
            names = [section.mapping.name for section in sections]
            return {name: Answer.from_json(answer["mappings"][name]) for name in names}

        try:
            return self._write("apply", stamp, sections_text, parse, pages=True)
        except LostParent:
            # The ledger has a parent whose row somebody deleted by hand.
            return self._write("apply", stamp, sections_text, parse, pages=True, careful=True)
        except Halted as error:
            if type(error) is not Halted or not sections:
                raise
            # A table, column or privilege is missing. If the target takes an empty call, it is one
            # of these mappings', or of a trigger on its table: the others go on.
            self.apply(stamp, [])
            raise Unexplained(str(error)) from None

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

        def parse(answer: Any) -> list[list[Key]]:
            _check_horizon(answer)
            return [as_keys(keys) for _, keys in zip(pages, answer["sections"], strict=True)]

        return self._write("open_scopes", stamp, as_text(parts), parse, limit=limit)

    def withhold(self, stamp: Stamp, mapping: Mapping, key: Key, reason: str | None) -> Outcome:
        """Let a key grant nothing until a read of this stamp or a newer one is written.

        `reason` is stored. A row without children is removed; with children it stays, and the
        helpers ignore it and them. None: change nothing, and only answer what would be done.
        """
        section = _about(mapping) | {"key": key, "reason": reason}
        return self._write(
            "withhold", stamp, as_text([section]), lambda answer: Outcome(answer["outcome"])
        )

    def step(
        self, stamp: Stamp, fresh: MappingABC[str, str], *, verified: str | None = None
    ) -> str:
        """Take a step together with the primary; return the target's clock, as text.

        `fresh` has for each mapping the moment of that clock before which every recorded revocation
        is in force. `verified` is the moment at which a reconcile began that ended in line.

        Raises:
            NotPaired: primary and target do not belong together.
        """
        return self._write(
            "step",
            stamp,
            "[]",
            lambda answer: str(answer["clock"]),
            fresh=dict(fresh),
            verified=verified,
        )

    def _write(
        self,
        function: str,
        stamp: Stamp,
        sections: str,
        parse: Callable[[Any], Result],
        **fields: Any,
    ) -> Result:
        """Send a request that carries a stamp, and parse the answer; `sections` is a JSON text.

        The primary may have taken more steps since it was read: then the same request is sent with
        the present one.
        """
        read = stamp
        if self._renewed is not None and self._renewed[0] == read:
            stamp = replace(read, pair=self._renewed[1])
        for _ in range(_MAX_STEPS_BEHIND):
            try:
                # Faster than `asdict`, which copies.
                stamped = vars(stamp) | {"pair": vars(stamp.pair)}
                request = _with({"version": VERSION} | stamped | fields, sections=sections)
                return self._parse(parse, self._call(function, request=request))
            except NotPaired:
                pair = stamp.pair if self.read_pair is None else self.read_pair()
                if pair == stamp.pair:
                    known = self.describe()
                    reason = pair.parting(known.step, known.token)
                    if reason is None:
                        raise
                    raise NotPaired(f"target: {reason}") from None
                self._renewed = (read, pair)
                stamp = replace(read, pair=pair)
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
            deleted, more = self._parse(lambda found: (int(found["purged"]), found["more"]), answer)
            purged += deleted
            if not more:
                return purged

    def rebase(self, identity: str, epoch: int) -> None:
        """Make `identity` the primary that this target mirrors."""
        self._call("rebase", identity=identity, epoch=str(epoch))

    # Reading

    def describe(self) -> Description:
        """Return the primary, step, epoch, declarations and migrations of this target."""
        return self._parse(Description.from_json, self._call("describe"))

    def digest(
        self, mapping: Mapping, hashing: Hashing, ranges: Sequence[KeyRange], *, limit: int
    ) -> list[Digest]:
        """Return the count and the hash sum of each range, for at most `limit` rows of it."""

        def parse(answer: Any) -> list[Digest]:
            return [Digest.from_json(*each) for each in zip(ranges, answer["ranges"], strict=True)]

        return self._digest(mapping, hashing, ranges, limit, parse)

    def listing(
        self, mapping: Mapping, hashing: Hashing, ranges: Sequence[KeyRange], *, limit: int
    ) -> list[Listing]:
        """Return each row's hash, per range, for at most `limit` rows of it."""

        def parse(answer: Any) -> list[Listing]:
            return [Listing.from_json(*each) for each in zip(ranges, answer["ranges"], strict=True)]

        return self._digest(mapping, hashing, ranges, limit, parse, each=True)

    def probe(self, mapping: Mapping, hashing: Hashing) -> int:
        """Return the hash of a constant row, which both sides of a comparison compute."""
        return self._digest(mapping, hashing, [], 1, lambda answer: int(answer["probe"]))

    def _digest(
        self,
        mapping: Mapping,
        hashing: Hashing,
        ranges: Sequence[KeyRange],
        limit: int,
        parse: Callable[[Any], Result],
        *,
        each: bool = False,
    ) -> Result:
        parts = [[range_.start, range_.end] for range_ in ranges]
        request = {"limit": limit, "each": each, "ranges": parts}
        return self._send("digest", _about(mapping) | asdict(hashing) | request, parse)

    def buckets(self, mapping: Mapping, hashing: Hashing, survey: SurveyRequest) -> Buckets:
        """Return the row count and hash sum of each bucket, for one part of the rows.

        The sums of all parts, XORed, are the sums of all rows.
        """
        return self._survey(mapping, hashing, survey, Buckets.from_json, each=False)

    def members(self, mapping: Mapping, hashing: Hashing, survey: SurveyRequest) -> dict[Key, int]:
        """Return each key's hash in the wanted buckets, for one part of the rows.

        A key's visible row and its ledger row may be in different parts.
        """

        def parse(answer: Any) -> dict[Key, int]:
            return {tuple(key): int(hashed) for *key, hashed in as_list(answer)}

        return self._survey(mapping, hashing, survey, parse, each=True)

    def _survey(
        self,
        mapping: Mapping,
        hashing: Hashing,
        survey: SurveyRequest,
        parse: Callable[[Any], Result],
        *,
        each: bool,
    ) -> Result:
        wanted = None if survey.wanted is None else base64.b64encode(survey.wanted).decode()
        request = asdict(survey) | {"wanted": wanted, "each": each}
        return self._send("survey", _about(mapping) | asdict(hashing) | request, parse)

    def rows(self, mapping: Mapping, keys: Sequence[Key] | None) -> dict[Key, KnownRow]:
        """Return all that the target knows about each of these keys; None: of those withheld."""

        def parse(answer: Any) -> dict[Key, KnownRow]:
            return {tuple(part["key"]): KnownRow.from_json(part) for part in as_list(answer)}

        wanted = {} if keys is None else {"keys": keys}
        return self._send("rows", _about(mapping) | wanted, parse)

    def expired(self, mapping: Mapping, *, after: Key, limit: int) -> list[Key]:
        """Return at most `limit` keys of expired rows in key order, starting after a key."""
        return self._send("expired", _about(mapping) | {"after": after, "limit": limit}, as_keys)

    # Diagnosing

    def trace(self, user: str, scopes: Sequence[tuple[str, str, str]]) -> Trace:
        """Return facts beside the rows: the primary, and scopes (mapping, reference, value)."""
        request = {"user": user, "scopes": scopes, "asks": []}
        return self._send("trace", request, Trace.from_json)

    def keys(
        self, mapping: Mapping, columns: MappingABC[str, str] | None, *, limit: int
    ) -> list[Key]:
        """Return the keys of rows with these values; for {}, of any rows.

        For None, the keys that were deleted last.
        """
        request = {"mapping": mapping.name, "columns": columns, "most": limit}
        return self._send(
            "trace",
            {"scopes": [], "asks": [], "keys": request},
            lambda answer: as_keys(answer["keys"]),
        )

    def ask(
        self, asks: Sequence[Ask], users: Sequence[tuple[str, Sequence[str]]]
    ) -> list[list[AskResult]]:
        """Evaluate the asks as each of these users, about the user's values.

        Returns the results by user, then by ask. Writes are undone.

        Raises:
            WrongKey: the connected role may not act as a user.
            UsageError: a row names a column that its table does not have.
        """
        request = {
            "asks": [{"kind": ask.kind, **asdict(ask)} for ask in asks],
            "users": [{"user": user, "values": values} for user, values in users],
        }

        def parse(answer: Any) -> list[list[AskResult]]:
            return [
                [
                    AskResult.from_json(ask, facts or {}, part)
                    for ask, facts, part in zip(asks, answer["facts"], parts, strict=True)
                ]
                for _, parts in zip(users, answer["answers"], strict=True)
            ]

        return self._send("ask", request, parse)

    def examine(self, tables: Iterable[str], types: Iterable[str]) -> Catalog:
        """Return the catalog's entries for these tables and the server's names of these types.

        A table or type that does not exist is None. The result also has facts that do not depend on
        the arguments: the server's version and clock, the names of all mirrored tables, all
        policies, and the mirror's functions that anon or authenticated may execute.
        """
        request = {"tables": sorted(set(tables)), "types": sorted(set(types))}
        return self._send("examine", request, read_catalog)

    def _send(
        self, function: str, request: MappingABC[str, Any], parse: Callable[[Any], Result]
    ) -> Result:
        """Call a function that takes one JSON value, and parse its answer."""
        return self._parse(parse, self._call(function, request=as_text(request)))

    @staticmethod
    def _parse(parse: Callable[[Any], Result], answer: Any) -> Result:
        with undamaged():
            return parse(answer)


def _with(values: MappingABC[str, Any], **texts: str) -> str:
    """Return a JSON object with some values, and with fields whose values are JSON texts."""
    fields = [f'"{name}":{text}' for name, text in texts.items()]
    return f"{as_text(values)[:-1]},{','.join(fields)}}}"


def _about(mapping: Mapping) -> dict[str, Any]:
    return {"mapping": mapping.name, "digest": mapping.digest}


def _check_horizon(answer: dict[str, Any]) -> None:
    if answer["horizon"] is not None:
        raise TooOld(answer["horizon"])
