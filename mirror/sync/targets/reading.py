"""Reading: the values of a reconcile's questions to a target, and of the answers."""

import base64
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

from mirror.model.keys import Key
from mirror.sync.row_queries import Row


@dataclass(frozen=True)
class Hashing:
    """How rows are hashed; the same on both sides of a comparison."""

    seed: int
    """Different in each run, so that two rows whose hashes collide do not collide every night."""
    md5: bool = False
    """Use md5, because PostgreSQL's own hashes differ between the two servers."""


@dataclass(frozen=True)
class KeyRange:
    """The keys from `start` (included) to `end` (not included); None: no end."""

    start: Key
    end: Key | None = None


@dataclass(frozen=True)
class Digest:
    """The rows of a key range as one sum."""

    range: KeyRange
    """The range that was counted: smaller than requested if that had too many rows."""
    rows: int
    sum: int
    """Sum of the rows' 64-bit hashes."""
    strays: int = 0
    """Rows about which the target's table and its ledger disagree."""

    @classmethod
    def from_json(cls, requested: KeyRange, part: dict[str, Any]) -> Self:
        """Return a digest from its part of the answer of `mirror_digest`."""
        return cls(_counted(requested, part), part["rows"], int(part["sum"]), part["strays"])


@dataclass(frozen=True)
class Listing:
    """The rows of a key range, one by one."""

    range: KeyRange
    """As in Digest."""
    hashes: dict[Key, int | None]
    """None: a stray."""

    @classmethod
    def from_json(cls, requested: KeyRange, part: dict[str, Any]) -> Self:
        """Return a listing from its part of the answer of `mirror_digest`."""
        hashes = {
            tuple(key): None if hashed is None else int(hashed) for *key, hashed in part["each"]
        }
        return cls(_counted(requested, part), hashes)


def _counted(requested: KeyRange, part: dict[str, Any]) -> KeyRange:
    end = part["until"]
    return KeyRange(requested.start, None if end is None else tuple(end))


@dataclass(frozen=True)
class SurveyRequest:
    """A request for rows by bucket. A key's bucket is the lowest `bits` bits of its hash."""

    bits: int
    wanted: bytes | None = None
    """A bitmap with a 1 for each wanted bucket; None: all buckets. It may have fewer bits than
    there are buckets; each bit then stands for several buckets."""
    part: int = 0
    parts: int = 1
    """Read only part number `part` of `parts` of the target's rows."""


@dataclass(frozen=True)
class Buckets:
    """For each bucket of a side that is not empty: how many rows it has, and their hashes' XOR.

    Three packed arrays of the same length; integers are big-endian.
    """

    numbers: bytes
    """32 bits each: the buckets that are not empty."""
    rows: bytes
    """32 bits each: the number of visible rows in that bucket."""
    sums: bytes
    """64 bits each: the bucket's row hashes, XORed."""

    @classmethod
    def from_json(cls, answer: dict[str, str]) -> Self:
        """Return the buckets from the answer of `mirror_survey`."""
        return cls(*(base64.b64decode(answer[name]) for name in ("buckets", "rows", "sums")))

    @property
    def size(self) -> int:
        """The approximate number of characters in JSON."""
        return (len(self.numbers) + len(self.rows) + len(self.sums)) * 4 // 3

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        columns = array("i", self.numbers), array("i", self.rows), array("q", self.sums)
        if sys.byteorder == "little":
            for column in columns:
                column.byteswap()
        return zip(*columns, strict=True)


@dataclass(frozen=True)
class KnownRow:
    """All that a target knows about one key."""

    row: Row | None
    """The visible row, with the references that only the ledger has."""
    present: bool | None
    """Whether the ledger has a row for the key; None if the ledger does not have the key."""
    epoch: int
    fence: int
    """Of the newest read in the ledger; both 0 if the ledger does not have the key."""
    edited: bool
    """Another writer changed the visible row after the mirror wrote it."""
    expired: bool
    """The time in the `expires` column of the row, or of one of its ancestors, is in the past."""
    outdated: bool
    """Last written before the model's latest migration."""
    applied_at: datetime | None = None
    """The time of the target's clock at which the mirror last wrote the key, changed or not. None:
    never, or the target is of an older version."""
    withheld: str | None = None
    """Why the key is withheld, so that it grants nothing; None: it is not."""

    @classmethod
    def from_json(cls, part: dict[str, Any]) -> Self:
        """Return the facts from their part of the answer of `mirror_rows`."""
        return cls(
            row=None if part["row"] is None else tuple(part["row"]),
            present=part["present"],
            epoch=part["epoch"] or 0,
            fence=part["fence"] or 0,
            edited=part["edited"],
            expired=part["expired"],
            outdated=part["outdated"],
            applied_at=datetime.fromisoformat(part["applied_at"])
            if part.get("applied_at")
            else None,
            withheld=part.get("withheld"),
        )


UNKNOWN: Final = KnownRow(
    row=None, present=None, epoch=0, fence=0, edited=False, expired=False, outdated=False
)
"""For a key that the target does not know."""


def width(*keys: Key) -> int:
    """Return the approximate length in JSON of a line with these keys and a hash."""
    return 30 + sum(len(part) + 3 for key in keys for part in key)
