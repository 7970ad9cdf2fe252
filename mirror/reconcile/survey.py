"""Survey: a look at all rows at once, which says in what ranges of keys the sides differ.

Each side reads its rows once, in the order in which they lie, which is several times as fast as
reading them range by range in the order of their keys. Where traffic passes or little has drifted,
few ranges differ; those are then compared as if there had been no survey.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from mirror.errors import TooSlow
from mirror.mapping import Mapping
from mirror.reconcile.clauses import hashed, lowest, ordered, row
from mirror.reconcile.pieces import pieces
from mirror.reconcile.primary import Primary
from mirror.targets.base import Target
from mirror.targets.reading import Digest, Hashing, KeyRange

FEWEST: Final = 20_000
"""Fewer rows are compared as quickly without."""
MOST: Final = 5_000_000
"""More rows take one statement longer than a server may let it run."""
RANGES: Final = 64
"""How many ranges."""
_SAMPLES: Final = 20
# Rows of the target that one call reads.
_CALL_ROWS: Final = 500_000


@dataclass(frozen=True)
class Surveyed:
    """What a survey found."""

    rows: int
    """Rows of the primary in the ranges that agree."""
    theirs: int
    """Rows of the target in them."""
    differing: list[KeyRange]
    seconds: float
    """How long a call to the target took at most."""


def survey(
    primary: Primary,
    target: Target,
    mapping: Mapping,
    hashing: Hashing,
    rows: int,
    *,
    size: int = RANGES,
) -> Surveyed | None:
    """Compare about `rows` rows, in `size` ranges; None where that does not help.

    They are too many, their keys begin alike, they take too long, or most of the
    ranges differ.
    """
    if rows > MOST:
        return None
    try:
        bounds = _bounds(primary, mapping, rows, size)
        if len(bounds) < size // 4:
            return None
        ranges = _ranges(mapping, bounds)
        with ThreadPoolExecutor(1, "mirror-survey") as beside:
            # Each side has a processor of its own, usually.
            answer = beside.submit(_theirs, target, mapping, hashing, ranges, rows)
            try:
                mine = _mine(primary, mapping, hashing, bounds)
            finally:
                # The target's connection is one: whoever asks it next must wait.
                answer.exception()
            theirs, seconds = answer.result()
    except TooSlow:
        return None
    agree = [
        (one, other)
        for number, (within, other) in enumerate(zip(ranges, theirs, strict=True))
        if (one := mine.get(number, (0, 0))) == (other.rows, other.sum)
        and not other.strays
        and other.range == within
    ]
    if len(agree) < len(ranges) / 2:
        return None
    agreeing = {other.range for _, other in agree}
    return Surveyed(
        rows=sum(one[0] for one, _ in agree),
        theirs=sum(other.rows for _, other in agree),
        differing=[within for within in ranges if within not in agreeing],
        seconds=seconds,
    )


def _bounds(primary: Primary, mapping: Mapping, rows: int, size: int) -> list[str]:
    """Return first values of keys that divide the rows about evenly."""
    first = mapping.key_columns[0]
    statement = sql.SQL(
        "select q.{first}::{type}::text from ({query}) as q where random() < %s order by {order}"
    ).format(
        first=sql.Identifier(first.name),
        type=sql.SQL(first.type),
        query=sql.SQL(mapping.sql),
        order=ordered(first),
    )
    sample = [found[0] for found in primary.read(mapping, statement, [_SAMPLES * size / rows])]
    step = max(1, len(sample) // size)
    return list(dict.fromkeys(sample[step::step]))


def _ranges(mapping: Mapping, bounds: Sequence[str]) -> list[KeyRange]:
    rest = lowest(mapping)[1:]
    starts = [lowest(mapping), *((bound, *rest) for bound in bounds)]
    return [KeyRange(*pair) for pair in zip(starts, [*starts[1:], None], strict=True)]


def _mine(
    primary: Primary, mapping: Mapping, hashing: Hashing, bounds: Sequence[str]
) -> dict[int, tuple[int, int]]:
    """Return count and sum of each range that has rows."""
    first = mapping.key_columns[0]
    statement = sql.SQL(
        "select width_bucket({key}, %s::text[]::{type}[]), count(*), sum({hash})::text"
        " from ({query}) as q group by 1"
    ).format(
        key=sql.SQL("q.{}::{}{}").format(
            sql.Identifier(first.name),
            sql.SQL(first.type),
            sql.SQL(' collate "C"' if first.type == "text" else ""),
        ),
        type=sql.SQL(first.type),
        hash=hashed(hashing, row(mapping)),
        query=primary.desired(mapping),
    )
    found = primary.read(mapping, statement, [list(bounds)])
    return {number: (count, int(total)) for number, count, total in found}


def _theirs(
    target: Target, mapping: Mapping, hashing: Hashing, ranges: Sequence[KeyRange], rows: int
) -> tuple[list[Digest], float]:
    """Return the target's digests, and how long a call took at most."""
    digests: list[Digest] = []
    slowest = 0.0
    each = max(1, len(ranges) * _CALL_ROWS // rows)
    for some in pieces(ranges, each):
        began = time.monotonic()
        # A range that holds far more than its share differs anyway.
        digests += target.digest(mapping, hashing, some, limit=8 * rows // len(ranges))
        slowest = max(slowest, time.monotonic() - began)
    return digests, slowest
