"""Survey: compares all rows of a mapping in a few statements, and finds the keys that differ.

Each side reads its rows in the order in which they are stored, which is several times as fast as in
key order, and groups them into buckets by the hash of their key. Where many buckets differ, further
rounds use smaller buckets; the last round lists the keys in the buckets that differ.
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
from mirror.reconcile.buckets import read_buckets, read_members
from mirror.reconcile.primary_reader import PrimaryReader
from mirror.reconcile.spool import Spool, batched
from mirror.sync.targets.base import Target
from mirror.sync.targets.reading import Hashing, SurveyRequest, width

T = TypeVar("T")

SURVEY_ROWS: Final = 20_000
"""From this many rows on, a survey is faster than a comparison in chunks."""
BUCKET_BITS: Final = (12, 17, 20, 23)
"""For each round: how many bits of the hash of a key are the number of its bucket.

Each request to the target contains a bit for each bucket, a megabyte with 23 bits, and this process
holds several copies of it."""
LISTED_KEYS: Final = 10_000
"""About how many keys one statement lists on either side, at most."""
# The most statements that list keys.
_LISTINGS: Final = 25
# If the target lacks more than this share of the rows, they are probably together, such as those
# of a load that was cut off.
_LOADED_SHARE: Final = 0.05
# How often `tick` is called while the primary reads.
_TICK_SECONDS: Final = 5.0
CALL_ROWS: Final = 500_000
"""The number of the target's rows that one call reads."""


class Survey:
    """One comparison of all rows of a mapping by buckets."""

    def __init__(
        self,
        primary: PrimaryReader,
        target: Target,
        mapping: Mapping,
        hashing: Hashing,
        *,
        bits: Sequence[int] = BUCKET_BITS,
        listed_keys: int = LISTED_KEYS,
        tick: Callable[[float], object] = lambda _: None,
    ) -> None:
        self.rows = 0
        """Rows of the primary."""
        self.target_rows = 0
        """Rows of the target."""
        self.target_is_empty = False
        """The primary has rows; the target has none, and its ledger knows none."""
        self.transferred = 0
        """Characters that were sent to the target and received from it."""
        self._primary = primary
        self._target = target
        self._mapping = mapping
        self._hashing = hashing
        self._bits = bits
        self._listed_keys = listed_keys
        self._tick = tick
        self._parts = 1

    def suspects(self, rows: int) -> Spool[Key] | None:
        """Return the keys whose rows differ; the caller closes the spool.

        `rows` is about the number of rows. None: a survey does not help, because it takes too long
        or the two sides differ too much.

        Raises:
            Unreadable: the primary cannot return the mapping's rows.
        """
        self._parts = max(1, round(rows / CALL_ROWS))
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
        """Add the keys that differ to `found`; return whether the survey helped.

        False: the target lacks a large share of the primary's rows, or too many buckets differ.
        """
        # A bucket number of no bits: one bucket holds all rows.
        bits, differing = 0, [0]
        for finer_bits in self._bits:
            differing = self._differing_buckets(bits, differing, finer_bits)
            bits = finer_bits
            if self.rows - self.target_rows > self.rows * _LOADED_SHARE:
                # Chunks find ranges to load as a whole, which is cheaper than row by row.
                return False
            bucket_rows = max(1.0, max(self.rows, self.target_rows) / (1 << bits))
            if len(differing) * bucket_rows <= self._listed_keys or bucket_rows == 1.0:
                break
        if len(differing) * bucket_rows > self._listed_keys * _LISTINGS:
            return False
        for numbers in batched(differing, max(1, int(self._listed_keys / bucket_rows))):
            found.add(self._differing_keys(SurveyRequest(bits, bitmap(numbers, bits))))
        return True

    def _differing_buckets(self, bits: int, wanted: list[int], finer_bits: int) -> list[int]:
        """Return the numbers of the buckets that differ, for buckets of `finer_bits` bits.

        Only those inside the `wanted` larger buckets, of `bits` bits, are compared.
        """
        step = finer_bits - bits
        # The number of a larger bucket is the lower bits of the numbers of the finer ones in it.
        # The finer buckets of one larger bucket have adjacent places in the arrays.
        first_place = {number: place << step for place, number in enumerate(wanted)}
        mask = (1 << bits) - 1
        # Both sides are combined by XOR and by subtraction, so equal buckets end at zero.
        sums = array("q", [0]) * (len(wanted) << step)
        counts = array("i", [0]) * (len(wanted) << step)
        rows = {True: 0, False: 0}
        request = SurveyRequest(finer_bits, bitmap(wanted, bits) if bits else None)
        target_is_empty = True
        answers = self._read_both(request, read_buckets, self._target.buckets)
        for buckets, of_primary in answers:
            sign = 1 if of_primary else -1
            found_rows = 0
            for number, count, total in buckets:
                place = first_place[number & mask] + (number >> bits)
                sums[place] ^= total
                counts[place] += sign * count
                found_rows += count
            rows[of_primary] += found_rows
            if not of_primary:
                target_is_empty = target_is_empty and not buckets.numbers
                self.transferred += buckets.size
        if not bits:
            self.rows, self.target_rows = rows[True], rows[False]
            self.target_is_empty = target_is_empty and self.rows > 0
        # A row that one side has twice leaves the XOR at zero, but not the count.
        left = (n for n, rest in enumerate(zip(sums, counts, strict=True)) if rest != (0, 0))
        last = (1 << step) - 1
        return [wanted[place >> step] | (place & last) << bits for place in left]

    def _differing_keys(self, request: SurveyRequest) -> list[Key]:
        """Return the keys in the requested buckets whose hashes differ."""
        left: dict[Key, int] = {}
        answers = self._read_both(request, read_members, self._target.members)
        for hashes, of_primary in answers:
            self.transferred += 0 if of_primary else sum(map(width, hashes))
            for key, value in hashes.items():
                if rest := left.pop(key, 0) ^ value:
                    left[key] = rest
        return list(left)

    def _read_both(
        self,
        request: SurveyRequest,
        read_primary: Callable[[PrimaryReader, Mapping, Hashing, SurveyRequest], T],
        read_target: Callable[[Mapping, Hashing, SurveyRequest], T],
    ) -> Iterator[tuple[T, bool]]:
        """Read both sides at the same time; yield each answer, and whether it is the primary's.

        The target answers for one part of its rows after the other; last comes the primary's answer
        for all of its rows.
        """
        # The two servers usually have processors of their own, so both read at the same time.
        with ThreadPoolExecutor(1, "mirror-primary") as executor:
            answer = executor.submit(
                read_primary, self._primary, self._mapping, self._hashing, request
            )
            try:
                for part in range(self._parts):
                    if answer.done() and answer.exception() is not None:
                        break
                    began = time.monotonic()
                    part_request = replace(request, part=part, parts=self._parts)
                    found = read_target(self._mapping, self._hashing, part_request)
                    self._tick(time.monotonic() - began)
                    yield found, False
                while not wait([answer], timeout=_TICK_SECONDS).done:
                    self._tick(0.0)
            except BaseException:
                self._primary.source.database.cancel()
                raise
            yield answer.result(), True


def bitmap(numbers: Iterable[int], bits: int) -> bytes:
    """Return a bitmap of 2 ** `bits` buckets, in which the bits of the given numbers are set."""
    bitmap = bytearray(1 << max(0, bits - 3))
    for number in numbers:
        bitmap[number >> 3] |= 1 << (number & 7)
    return bytes(bitmap)
