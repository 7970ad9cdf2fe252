"""Survey: a look at all rows at once, which finds the keys about which the sides differ.

Each side reads its rows in the order in which they lie, which is several times as fast as in the
order of their keys, and sorts them into buckets by the hash of their key. Where many buckets
differ, further looks take smaller ones; the last ones list the keys in those that differ.
"""

import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Final, TypeVar

from mirror.errors import TooSlow
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.reconcile.buckets import buckets, members
from mirror.reconcile.pieces import Spool, pieces
from mirror.reconcile.primary import PrimaryReader
from mirror.sync.targets.base import Target
from mirror.sync.targets.reading import Hashing, SurveyRequest, width

T = TypeVar("T")

FEWEST: Final = 20_000
"""Fewer rows are compared as quickly without."""
BITS: Final = (12, 17, 20, 23, 26)
"""How many bits of its hash are a key's bucket, at the first look, the second, and so on."""
LISTED: Final = 10_000
"""How many keys one look lists on either side."""
# How many such looks there may be.
_LISTINGS: Final = 25
# How often to say that the survey goes on, while the primary reads.
_TICK_SECONDS: Final = 5.0
# Rows of the target that one call reads.
_CALL_ROWS: Final = 500_000


class Survey:
    """One survey of a mapping."""

    def __init__(
        self,
        primary: PrimaryReader,
        target: Target,
        mapping: Mapping,
        hashing: Hashing,
        *,
        bits: Sequence[int] = BITS,
        listed: int = LISTED,
        tick: Callable[[float], object] = lambda _: None,
    ) -> None:
        self.rows = 0
        """Rows of the primary."""
        self.theirs = 0
        """Rows of the target."""
        self.nothing_there = False
        """The target has no row, and remembers none, of those that the primary has."""
        self.moved = 0
        """Characters that went to the target and came back."""
        self._primary = primary
        self._target = target
        self._mapping = mapping
        self._hashing = hashing
        self._bits = bits
        self._listed = listed
        self._tick = tick
        self._parts = 1

    def suspects(self, rows: int) -> Spool[Key] | None:
        """Return the keys that differ; the caller closes it. There are about `rows` rows.

        None where that does not help: it takes too long, or too much differs.
        """
        self._parts = max(1, round(rows / _CALL_ROWS))
        found: Spool[Key] = Spool(tuple)
        try:
            if self._fill(found):
                return found
        except TooSlow:
            pass
        except BaseException:
            found.close()
            raise
        found.close()
        return None

    def _fill(self, found: Spool[Key]) -> bool:
        # One bucket of no bits is all rows.
        bits, differing = 0, [0]
        for finer in self._bits:
            differing = self._differing(bits, differing, finer)
            bits = finer
            if self.theirs < self.rows / 2:
                # To load what is missing takes less.
                return False
            share = max(1.0, max(self.rows, self.theirs) / (1 << bits))
            if len(differing) * share <= self._listed or share == 1.0:
                break
        if len(differing) * share > self._listed * _LISTINGS:
            return False
        for some in pieces(differing, max(1, int(self._listed / share))):
            found.add(self._list(SurveyRequest(bits, _bitmap(some, bits))))
        return True

    def _differing(self, bits: int, wanted: list[int], finer: int) -> list[int]:
        """Return the numbers of the `finer` buckets that differ within some larger ones."""
        step = finer - bits
        # A larger one's number is the lower bits of those within it. They are kept side by side.
        first = {number: place << step for place, number in enumerate(wanted)}
        low = (1 << bits) - 1
        # What is equal on both sides leaves nothing.
        sums = array("q", [0]) * (len(wanted) << step)
        counts = array("i", [0]) * (len(wanted) << step)
        mine = theirs = 0
        blank = True
        look = SurveyRequest(finer, _bitmap(wanted, bits) if bits else None)
        for found, ours in self._answers(look, buckets, self._target.buckets):
            sign = 1 if ours else -1
            visible = 0
            for number, rows, total in found:
                place = first[number & low] + (number >> bits)
                sums[place] ^= total
                counts[place] += sign * rows
                visible += rows
            if ours:
                mine += visible
            else:
                theirs += visible
                blank = blank and not found.numbers
                self.moved += found.size
        if not bits:
            self.rows, self.theirs = mine, theirs
            self.nothing_there = blank and mine > 0
        # A row that is there twice leaves no hash, but counts.
        left = (n for n, rest in enumerate(zip(sums, counts, strict=True)) if rest != (0, 0))
        last = (1 << step) - 1
        return [wanted[place >> step] | (place & last) << bits for place in left]

    def _list(self, look: SurveyRequest) -> list[Key]:
        """Return the keys in some buckets that differ."""
        left: dict[Key, int] = {}
        for found, ours in self._answers(look, members, self._target.members):
            self.moved += 0 if ours else sum(map(width, found))
            for key, total in found.items():
                if rest := left.pop(key, 0) ^ total:
                    left[key] = rest
        return list(left)

    def _answers(
        self,
        look: SurveyRequest,
        ours: Callable[[PrimaryReader, Mapping, Hashing, SurveyRequest], T],
        theirs: Callable[[Mapping, Hashing, SurveyRequest], T],
    ) -> Iterator[tuple[T, bool]]:
        """Yield what the target says of each part, then what the primary says: True."""
        with ThreadPoolExecutor(1, "mirror-primary") as beside:
            # Each side has a processor of its own, usually.
            answer = beside.submit(ours, self._primary, self._mapping, self._hashing, look)
            try:
                for part in range(self._parts):
                    if answer.done() and answer.exception() is not None:
                        break
                    began = time.monotonic()
                    of = replace(look, part=part, parts=self._parts)
                    found = theirs(self._mapping, self._hashing, of)
                    self._tick(time.monotonic() - began)
                    yield found, False
                while not wait([answer], timeout=_TICK_SECONDS).done:
                    self._tick(0.0)
            except BaseException:
                self._primary.source.database.cancel()
                raise
            yield answer.result(), True


def _bitmap(numbers: Iterable[int], bits: int) -> bytes:
    """Return a bit for each of so many buckets: those of these numbers are set."""
    bitmap = bytearray(1 << max(0, bits - 3))
    for number in numbers:
        bitmap[number >> 3] |= 1 << (number & 7)
    return bytes(bitmap)
