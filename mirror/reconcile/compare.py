"""Compare: finds the keys whose rows seem to differ, without transferring the rows.

Large mappings are compared by a survey (`survey.py`) where that helps, all others in chunks, which
are consecutive ranges of keys. The first chunk begins with the smallest possible key and the last
one has no end, so a key that only one side has is always in a chunk. For each chunk, each side
returns the number of its rows and the sum of their hashes. If these differ, the chunk is split into
smaller and smaller pieces; for pieces of a few dozen rows, each side lists its keys and hashes. A
key that is found here is only a suspect: the two sides are read one after the other, and rows may
change in between.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from mirror.errors import TooSlow
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.reconcile.clauses import lowest_key
from mirror.reconcile.primary_reader import PrimaryReader
from mirror.reconcile.spool import Spool, batched
from mirror.reconcile.survey import BUCKET_BITS, LISTED_KEYS, SURVEY_ROWS, Survey
from mirror.sync.targets.base import Target
from mirror.sync.targets.reading import Digest, Hashing, KeyRange, width

LEAF_ROWS: Final = 64
"""A piece of a chunk with at most this many rows is listed key by key, not split further."""
BULK_ROWS: Final = 1000
"""If a piece of a chunk has at least this many rows in the primary and none in the target, it is
loaded as a whole."""

_FEWEST_CHUNK_ROWS, _MOST_CHUNK_ROWS = 500, 100_000
_CHUNK_SECONDS = 1.0
_RANGES_PER_CALL = 500
_LISTED_RANGES = 64
_PAGE_ROWS = 256
_SUSPECTS_PER_BATCH = 1000


@dataclass(frozen=True)
class MissingRange:
    """A range of keys in which the primary has `rows` rows, many of them, and the target none."""

    range: KeyRange
    rows: int


class Comparison:
    """Compares the rows of one mapping in the primary with those in the target."""

    def __init__(
        self,
        primary: PrimaryReader,
        target: Target,
        mapping: Mapping,
        hashing: Hashing,
        *,
        chunk_rows: int = 10_000,
        leaf_rows: int = LEAF_ROWS,
        bulk_rows: int = BULK_ROWS,
        survey_rows: int = SURVEY_ROWS,
        bits: Sequence[int] = BUCKET_BITS,
        listed_keys: int = LISTED_KEYS,
        tick: Callable[[float], object] = lambda _: None,
    ) -> None:
        self.primary = primary
        self.target = target
        self.mapping = mapping
        self.hashing = hashing
        self.chunk_rows = chunk_rows
        self.leaf_rows = leaf_rows
        self.bulk_rows = bulk_rows
        self.rows = 0
        """Rows of the primary that were compared."""
        self.target_rows = 0
        """Rows of the target that were compared."""
        self.transferred = 0
        """Characters that were sent to the target and received from it."""
        self._survey_rows = survey_rows
        self._bits = bits
        self._listed_keys = listed_keys
        self._tick = tick

    def suspects(self, start: Key | None = None) -> Iterator[set[Key] | MissingRange]:
        """Yield sets of keys whose rows seem to differ, and ranges that the target lacks.

        Only keys from `start` on are compared; None: all keys. `tick` is called after each read of
        the target, with the seconds that the read took, and now and then during a long read of the
        primary, with 0.

        Raises:
            Unreadable: the primary cannot return the mapping's rows.
            TooSlow: even a small chunk takes too long.
            Transient: a database does not answer.
        """
        if start is None and (rows := self.primary.estimate(self.mapping)) >= self._survey_rows:
            found = self._survey(rows)
            if found is not None:
                yield from found
                return
        yield from self._compare_chunks(start or lowest_key(self.mapping))

    def _survey(self, rows: int) -> Iterator[set[Key] | MissingRange] | None:
        """Return the suspects that a survey of about `rows` rows finds.

        None: a survey takes too long, or the two sides differ too much; compare in chunks.
        """
        survey = Survey(
            self.primary,
            self.target,
            self.mapping,
            self.hashing,
            bits=self._bits,
            listed_keys=self._listed_keys,
            tick=self._tick,
        )
        found = survey.suspects(rows)
        self.transferred += survey.transferred
        if found is None and not survey.target_is_empty:
            return None
        self.rows, self.target_rows = survey.rows, survey.target_rows
        if found is None:
            return iter([MissingRange(KeyRange(lowest_key(self.mapping)), survey.rows)])
        return _in_batches(found)

    # Chunks

    def _compare_chunks(self, start: Key) -> Iterator[set[Key] | MissingRange]:
        with ThreadPoolExecutor(1, "mirror-target") as executor:
            chunk: Digest | None = self._read_chunk(start)
            while chunk is not None:
                began = time.monotonic()
                answer = executor.submit(self._target_digests, [chunk.range])
                end = chunk.range.end
                try:
                    # While the target reads this chunk, the primary reads the next one.
                    next_chunk = self._read_chunk(end) if end is not None else None
                    (target,) = answer.result()
                    seconds = time.monotonic() - began
                except TooSlow:
                    self._shrink_chunks()
                    chunk = self._read_chunk(chunk.range.start)
                    continue
                yield from self._compare_chunk(chunk, target)
                self._adapt_chunks(seconds)
                self._tick(seconds)
                chunk = next_chunk

    def _read_chunk(self, start: Key) -> Digest:
        while True:
            try:
                return self.primary.chunk(self.mapping, self.hashing, start, self.chunk_rows)
            except TooSlow:
                self._shrink_chunks()

    def _shrink_chunks(self) -> None:
        if self.chunk_rows <= _FEWEST_CHUNK_ROWS:
            raise TooSlow(
                f"mapping {self.mapping.name!r}: even {self.chunk_rows} rows take too long; "
                f'index the key on the primary (text keys: collate "C").'
            )
        self.chunk_rows = max(_FEWEST_CHUNK_ROWS, self.chunk_rows // 4)

    def _adapt_chunks(self, seconds: float) -> None:
        """Set the size of the next chunk by the seconds that the last one took.

        A chunk is to take about a second, far below any server's limit on a statement.
        """
        factor = min(2.0, max(0.5, _CHUNK_SECONDS / max(seconds, 0.001)))
        rows = max(_FEWEST_CHUNK_ROWS, self.chunk_rows * factor)
        self.chunk_rows = int(min(_MOST_CHUNK_ROWS, rows))

    def _compare_chunk(self, primary: Digest, target: Digest) -> Iterator[set[Key] | MissingRange]:
        """Yield the suspects in a chunk.

        If the target has too many rows there, its answer covers only the beginning of the chunk;
        then the rest is compared, too.
        """
        while (covered := target.range.end) != primary.range.end:
            assert covered is not None  # noqa: S101 - an incomplete answer says where it ends
            rest = KeyRange(covered, primary.range.end)
            beginning = self.primary.digest(self.mapping, self.hashing, target.range)
            yield from self._compare_digests(beginning, target)
            primary = self.primary.digest(self.mapping, self.hashing, rest)
            (target,) = self._target_digests([rest])
        yield from self._compare_digests(primary, target)

    def _compare_digests(
        self, primary: Digest, target: Digest
    ) -> Iterator[set[Key] | MissingRange]:
        self.rows += primary.rows
        self.target_rows += target.rows
        if _differ(primary, target):
            yield from self._split([(primary, target)])

    # Inside a chunk

    def _split(self, differing: list[tuple[Digest, Digest]]) -> Iterator[set[Key] | MissingRange]:
        """Yield the suspects in pieces of a chunk that differ, given as (primary, target).

        Large pieces are split until they are small; small ones are compared key by key.
        """
        small: list[KeyRange] = []
        while differing:
            large = []
            for primary, target in differing:
                if not target.rows and not target.strays and primary.rows >= self.bulk_rows:
                    yield MissingRange(primary.range, primary.rows)
                elif primary.rows <= self.leaf_rows:
                    # The primary has too few keys to split by. If the target has many, they are
                    # listed in pages.
                    small.append(primary.range)
                else:
                    large.append(primary)
            size = self._piece_rows(max((digest.rows for digest in large), default=0))
            pieces = [
                piece
                for span in _joined([digest.range for digest in large])
                for piece in self.primary.split(self.mapping, self.hashing, span, size)
            ]
            answers = self._target_digests([piece.range for piece in pieces])
            differing = [
                (primary, target)
                for primary, target in zip(pieces, answers, strict=True)
                if _differ(primary, target)
            ]
        for ranges in batched(small, _LISTED_RANGES):
            yield from self._list(ranges)

    def _piece_rows(self, rows: int) -> int:
        """Return how many rows each new piece has when a piece of `rows` rows is split.

        After two splits, the pieces are small enough to be listed key by key.
        """
        return self.leaf_rows if rows <= 64 * self.leaf_rows else rows // 32

    def _list(self, ranges: Sequence[KeyRange]) -> Iterator[set[Key]]:
        primary_hashes = self.primary.listing(self.mapping, self.hashing, _joined(ranges))
        left = list(ranges)
        while left:
            incomplete = []
            suspects = set()
            pages = self.target.listing(self.mapping, self.hashing, left, limit=_PAGE_ROWS)
            for requested, page in zip(left, pages, strict=True):
                self.transferred += sum(width(key) for key in page.hashes)
                for key, target_hash in page.hashes.items():
                    if primary_hashes.pop(key, None) != target_hash or target_hash is None:
                        suspects.add(key)
                if page.range.end != requested.end:
                    incomplete.append(KeyRange(page.range.end or (), requested.end))
            left = incomplete
            if not left:
                # The target has none of the remaining keys.
                suspects.update(primary_hashes)
            if suspects:
                yield suspects

    def _target_digests(self, ranges: Sequence[KeyRange]) -> list[Digest]:
        self.transferred += sum(width(each.start, each.end or ()) for each in ranges)
        # The number of rows that the target may read for one range.
        limit = 2 * self.chunk_rows
        return [
            digest
            for some in batched(ranges, _RANGES_PER_CALL)
            for digest in self.target.digest(self.mapping, self.hashing, some, limit=limit)
        ]


def _in_batches(found: Spool[Key]) -> Iterator[set[Key] | MissingRange]:
    with closing(found):
        for keys in found.batches(_SUSPECTS_PER_BATCH):
            yield set(keys)


def _differ(primary: Digest, target: Digest) -> bool:
    return (
        primary.rows != target.rows
        or primary.sum != target.sum
        or target.strays > 0
        or primary.range.end != target.range.end
    )


def _joined(ranges: Sequence[KeyRange]) -> list[KeyRange]:
    """Return the same ranges, with adjacent ones joined; `ranges` are in key order."""
    joined: list[KeyRange] = []
    for each in ranges:
        if joined and joined[-1].end == each.start:
            joined[-1] = KeyRange(joined[-1].start, each.end)
        else:
            joined.append(each)
    return joined
