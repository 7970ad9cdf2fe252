"""Compare: find the keys about which the two sides seem to differ, without reading their rows.

Chunks of keys cover the whole key space, however far one side's keys reach beyond the other's.
Each side answers with a count and a sum of hashes; where those differ, the chunk is split, and
only pieces of a few dozen rows are listed key by key. What is found here is a suspicion: the sides
are read one after the other, and live traffic passes in between.
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
from mirror.reconcile.clauses import lowest
from mirror.reconcile.pieces import Spool, pieces
from mirror.reconcile.primary import PrimaryReader
from mirror.reconcile.survey import BITS, FEWEST, LISTED, Survey
from mirror.sync.targets.base import Target
from mirror.sync.targets.reading import Digest, Hashing, KeyRange, width

LEAF: Final = 64
"""Pieces of so many rows are not split but listed."""
BULK: Final = 1000
"""From so many rows on, a piece of which the target has nothing is loaded, not judged by key."""

_FEWEST, _MOST = 500, 100_000
_AIM_SECONDS = 1.0
_RANGES = 500
_PAGE = 256
_SUSPECTS = 1000


@dataclass(frozen=True)
class Missing:
    """A range in which the primary has many rows and the target none."""

    range: KeyRange
    rows: int


class Comparison:
    """Compares one mapping's rows on both sides."""

    def __init__(
        self,
        primary: PrimaryReader,
        target: Target,
        mapping: Mapping,
        hashing: Hashing,
        *,
        chunk_rows: int = 10_000,
        leaf: int = LEAF,
        bulk: int = BULK,
        survey_from: int = FEWEST,
        bits: Sequence[int] = BITS,
        listed: int = LISTED,
        tick: Callable[[float], object] = lambda _: None,
    ) -> None:
        self.primary = primary
        self.target = target
        self.mapping = mapping
        self.hashing = hashing
        self.chunk_rows = chunk_rows
        self.leaf = leaf
        self.bulk = bulk
        self.rows = 0
        """Rows of the primary that were compared."""
        self.theirs = 0
        """Rows of the target, likewise."""
        self.moved = 0
        """Characters that went to the target and came back."""
        self._survey_from = survey_from
        self._bits = bits
        self._listed = listed
        self._tick = tick

    def suspects(self, start: Key | None = None) -> Iterator[set[Key] | Missing]:
        """Yield what differs, in key order, from `start` on.

        `tick` is called between chunks, with the seconds that the target took for one.
        """
        if start is None and (rows := self.primary.estimate(self.mapping)) >= self._survey_from:
            found = self._survey(rows)
            if found is not None:
                yield from found
                return
        yield from self._through(start or lowest(self.mapping))

    def _survey(self, rows: int) -> Iterator[set[Key] | Missing] | None:
        """Return what differs by a survey of about so many rows; None where that does not help."""
        survey = Survey(
            self.primary,
            self.target,
            self.mapping,
            self.hashing,
            bits=self._bits,
            listed=self._listed,
            tick=self._tick,
        )
        found = survey.suspects(rows)
        self.moved += survey.moved
        if found is None and not survey.nothing_there:
            return None
        self.rows, self.theirs = survey.rows, survey.theirs
        if found is None:
            return iter([Missing(KeyRange(lowest(self.mapping)), survey.rows)])
        return _told(found)

    def _through(self, start: Key) -> Iterator[set[Key] | Missing]:
        """Yield what differs, chunk by chunk."""
        with ThreadPoolExecutor(1, "mirror-target") as beside:
            at: Key | None = start
            mine = self._chunk(at) if at else None
            while mine is not None:
                began = time.monotonic()
                answer = beside.submit(self._target_digests, [mine.range], self._limit)
                at = mine.range.end
                following = None
                try:
                    # While the target reads this chunk, the primary reads the next.
                    following = self._chunk(at) if at is not None else None
                    (theirs,) = answer.result()
                    seconds = time.monotonic() - began
                except TooSlow:
                    mine = self._smaller(mine.range.start)
                    continue
                yield from self._whole(mine, theirs)
                self._adapt(seconds)
                self._tick(seconds)
                mine = following

    # Chunks

    @property
    def _limit(self) -> int:
        """How many rows the target may read for one range."""
        return 2 * self.chunk_rows

    def _chunk(self, start: Key) -> Digest:
        while True:
            try:
                return self.primary.chunk(self.mapping, self.hashing, start, self.chunk_rows)
            except TooSlow:
                self._halve()

    def _smaller(self, start: Key) -> Digest:
        self._halve()
        return self._chunk(start)

    def _halve(self) -> None:
        if self.chunk_rows <= _FEWEST:
            raise TooSlow(
                f"mapping {self.mapping.name!r}: even {self.chunk_rows} rows take too long; "
                f'index the key on the primary (text keys: collate "C").'
            )
        self.chunk_rows = max(_FEWEST, self.chunk_rows // 4)

    def _adapt(self, seconds: float) -> None:
        """Let chunks take about a second, far below any server's limit on a statement."""
        factor = min(2.0, max(0.5, _AIM_SECONDS / max(seconds, 0.001)))
        self.chunk_rows = int(min(_MOST, max(_FEWEST, self.chunk_rows * factor)))

    def _whole(self, mine: Digest, theirs: Digest) -> Iterator[set[Key] | Missing]:
        """Yield what differs in a chunk of which the target may have answered only a part."""
        while theirs.range.end != mine.range.end:
            rest = KeyRange(_end(theirs), mine.range.end)
            part = self.primary.digest(self.mapping, self.hashing, theirs.range)
            yield from self._settle(part, theirs)
            mine = self.primary.digest(self.mapping, self.hashing, rest)
            (theirs,) = self._target_digests([rest], self._limit)
        yield from self._settle(mine, theirs)

    def _settle(self, mine: Digest, theirs: Digest) -> Iterator[set[Key] | Missing]:
        self.rows += mine.rows
        self.theirs += theirs.rows
        if _differ(mine, theirs):
            yield from self._narrow([(mine, theirs)])

    # Inside a chunk

    def _narrow(self, found: list[tuple[Digest, Digest]]) -> Iterator[set[Key] | Missing]:
        """Split pieces that differ until they are small, then list those."""
        small: list[KeyRange] = []
        while found:
            large = []
            for mine, theirs in found:
                if not theirs.rows and not theirs.strays and mine.rows >= self.bulk:
                    yield Missing(mine.range, mine.rows)
                elif mine.rows <= self.leaf:
                    # Nothing to split by, however much the target has; that is listed in pages.
                    small.append(mine.range)
                else:
                    large.append(mine)
            size = self._size(max((digest.rows for digest in large), default=0))
            parts = [
                part
                for span in _joined([digest.range for digest in large])
                for part in self.primary.split(self.mapping, self.hashing, span, size)
            ]
            answers = self._target_digests([part.range for part in parts], self._limit)
            found = [
                (mine, theirs)
                for mine, theirs in zip(parts, answers, strict=True)
                if _differ(mine, theirs)
            ]
        for ranges in pieces(small, 64):
            yield from self._list(ranges)

    def _size(self, rows: int) -> int:
        """Return how small to split pieces of so many rows: once more to what is then listed."""
        return self.leaf if rows <= 64 * self.leaf else rows // 32

    def _list(self, ranges: Sequence[KeyRange]) -> Iterator[set[Key]]:
        mine = self.primary.listing(self.mapping, self.hashing, _joined(ranges))
        left = list(ranges)
        while left:
            cut = []
            suspects = set()
            for asked, page in zip(
                left,
                self.target.listing(self.mapping, self.hashing, left, limit=_PAGE),
                strict=True,
            ):
                self.moved += sum(width(key) for key in page.hashes)
                for key, hashed in page.hashes.items():
                    if mine.pop(key, None) != hashed or hashed is None:
                        suspects.add(key)
                if page.range.end != asked.end:
                    cut.append(KeyRange(page.range.end or (), asked.end))
            left = cut
            if not left:
                suspects.update(mine)
            if suspects:
                yield suspects

    def _target_digests(self, ranges: Sequence[KeyRange], limit: int) -> list[Digest]:
        self.moved += sum(width(each.start, each.end or ()) for each in ranges)
        return [
            digest
            for some in pieces(ranges, _RANGES)
            for digest in self.target.digest(self.mapping, self.hashing, some, limit=limit)
        ]


def _told(found: Spool[Key]) -> Iterator[set[Key] | Missing]:
    with closing(found):
        for keys in found.batches(_SUSPECTS):
            yield set(keys)


def _differ(mine: Digest, theirs: Digest) -> bool:
    return (
        mine.rows != theirs.rows
        or mine.sum != theirs.sum
        or theirs.strays > 0
        or mine.range.end != theirs.range.end
    )


def _end(digest: Digest) -> Key:
    assert digest.range.end is not None  # noqa: S101 - an answer that was cut says where
    return digest.range.end


def _joined(ranges: Sequence[KeyRange]) -> list[KeyRange]:
    """Return ranges in key order with those joined that touch."""
    joined: list[KeyRange] = []
    for each in ranges:
        if joined and joined[-1].end == each.start:
            joined[-1] = KeyRange(joined[-1].start, each.end)
        else:
            joined.append(each)
    return joined
