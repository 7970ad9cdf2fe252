"""Reading a target for a reconcile: what is asked, what is answered, and both as JSON."""

import base64
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.sync.row_queries import Row


@dataclass(frozen=True)
class Hashing:
    """How rows are hashed. Both sides of a comparison hash alike."""

    seed: int
    """Another one for each run, so that rows whose hashes collide do not do so every night."""
    md5: bool = False
    """For servers whose own hashes differ."""


@dataclass(frozen=True)
class KeyRange:
    """The keys from `start` up to, not including, `end`; None: no end."""

    start: Key
    end: Key | None = None


@dataclass(frozen=True)
class Digest:
    """What one side holds of a range of keys."""

    range: KeyRange
    """What it answers for: less than was asked for where that held too much."""
    rows: int
    sum: int
    """Of the rows' 64-bit hashes."""
    strays: int = 0
    """Rows about which the target's table and its ledger disagree."""


@dataclass(frozen=True)
class Listing:
    """The rows of a range, one by one."""

    range: KeyRange
    hashes: dict[Key, int | None]
    """None: a stray."""


@dataclass(frozen=True)
class SurveyRequest:
    """What of all rows is looked at, by buckets: a key's is the lowest bits of its hash."""

    bits: int
    wanted: bytes | None = None
    """A bit for each bucket of as many as it has bits, set for those that are asked for; None: all
    are. It may have fewer, and so larger, buckets than `bits` makes."""
    part: int = 0
    parts: int = 1
    """Which part of the target's rows, of how many."""


@dataclass(frozen=True)
class Buckets:
    """What one side holds, by bucket."""

    numbers: bytes
    """Of buckets that are not empty: 32 bits each, the highest first."""
    rows: bytes
    """How many visible rows are in each, likewise."""
    sums: bytes
    """Of each, its rows' hashes XORed: 64 bits."""

    @property
    def size(self) -> int:
        """About how many characters that is in JSON."""
        return (len(self.numbers) + len(self.rows) + len(self.sums)) * 4 // 3

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        columns = array("i", self.numbers), array("i", self.rows), array("q", self.sums)
        if sys.byteorder == "little":
            for column in columns:
                column.byteswap()
        return zip(*columns, strict=True)


@dataclass(frozen=True)
class KnownRow:
    """Everything that a target knows of one key."""

    row: Row | None
    """The visible row, with the references that the ledger keeps."""
    present: bool | None
    """What the ledger says; None where it does not know the key."""
    epoch: int
    fence: int
    """How fresh the newest read was that the ledger knows of; epoch and fence 0 without one."""
    edited: bool
    """Somebody else wrote the visible row after the mirror did."""
    expired: bool
    """The column that the mapping declares as `expires` is in the past."""
    outdated: bool
    """Last written before the model's latest migration."""


UNKNOWN: Final = KnownRow(
    row=None, present=None, epoch=0, fence=0, edited=False, expired=False, outdated=False
)
"""What is known of a key that a target never heard of."""


def digest_request(
    mapping: Mapping, hashing: Hashing, ranges: Sequence[KeyRange], limit: int, *, each: bool
) -> dict[str, Any]:
    """Return the JSON value that `mirror_digest` takes."""
    return {
        "mapping": mapping.name,
        "digest": mapping.digest,
        "seed": hashing.seed,
        "md5": hashing.md5,
        "limit": limit,
        "each": each,
        "ranges": [[range_.start, range_.end] for range_ in ranges],
    }


def digest_answer(
    ranges: Sequence[KeyRange], answer: dict[str, Any]
) -> tuple[list[Digest], list[Listing], int]:
    """Return the ranges' digests, their rows if those were asked for, and the probe's hash."""
    digests = []
    listings = []
    for asked, part in zip(ranges, answer["ranges"], strict=True):
        end = None if part["until"] is None else tuple(part["until"])
        answered = KeyRange(asked.start, end)
        digests.append(Digest(answered, part["rows"], int(part["sum"]), part["strays"]))
        if "each" in part:
            hashes = {
                tuple(key): None if hashed is None else int(hashed) for *key, hashed in part["each"]
            }
            listings.append(Listing(answered, hashes))
    return digests, listings, int(answer["probe"])


def survey_request(
    mapping: Mapping, hashing: Hashing, look: SurveyRequest, *, each: bool
) -> dict[str, Any]:
    """Return the JSON value that `mirror_survey` takes."""
    return {
        "mapping": mapping.name,
        "digest": mapping.digest,
        "seed": hashing.seed,
        "md5": hashing.md5,
        "bits": look.bits,
        "wanted": look.wanted and base64.b64encode(look.wanted).decode(),
        "part": look.part,
        "parts": look.parts,
        "each": each,
    }


def buckets_answer(answer: dict[str, Any]) -> Buckets:
    """Return what `mirror_survey` answered by bucket."""
    return Buckets(*(base64.b64decode(answer[name]) for name in ("buckets", "rows", "sums")))


def members_answer(answer: list[list[str]]) -> dict[Key, int]:
    """Return what `mirror_survey` answered by key."""
    return {tuple(key): int(hashed) for *key, hashed in answer}


def width(*keys: Key) -> int:
    """Return about how long a line of JSON is that has these keys and a hash."""
    return 30 + sum(len(part) + 3 for key in keys for part in key)


def rows_request(mapping: Mapping, keys: Sequence[Key]) -> dict[str, Any]:
    """Return the JSON value that `mirror_rows` takes."""
    return {"mapping": mapping.name, "digest": mapping.digest, "keys": keys}


def rows_answer(answer: list[dict[str, Any]]) -> dict[Key, KnownRow]:
    """Return what `mirror_rows` answered."""
    return {
        tuple(part["key"]): KnownRow(
            row=None if part["row"] is None else tuple(part["row"]),
            present=part["present"],
            epoch=part["epoch"] or 0,
            fence=part["fence"] or 0,
            edited=part["edited"],
            expired=part["expired"],
            outdated=part["outdated"],
        )
        for part in answer
    }
