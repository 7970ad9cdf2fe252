"""Before a resync: the delete limit, asked of the numbers of rows on both sides.

A resync makes workers write every row again, and delete those that the primary does not have. So an
emptied primary must not pass for the truth here either.
"""

import secrets
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Final

from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.reconcile.clauses import lowest_key
from mirror.reconcile.delete_limit import refuse_deletes
from mirror.reconcile.primary_reader import PrimaryReader
from mirror.reconcile.report import MappingReport
from mirror.reconcile.run import Progress
from mirror.sync.snapshot import Source
from mirror.sync.targets.base import Target
from mirror.sync.targets.reading import Digest, Hashing, KeyRange

_ROWS: Final = 50_000
"""The number of rows that one statement counts."""


def refuse_resync(
    registry: Registry,
    source: Source,
    target: Target,
    names: Collection[str],
    confirmed: Collection[str],
    progress: Progress = lambda *_: None,
) -> Iterator[str]:
    """Yield why mappings of `names` (empty: all) must not be resynced.

    Those that are `confirmed` are not looked at. The rows that only the target has are at least as
    many as it has more than the primary.

    Raises:
        MirrorError: a side does not answer, or cannot read a mapping's rows.
    """
    primary = PrimaryReader(registry, source)
    # Counts need no particular hash, only one that all servers have.
    hashing = Hashing(secrets.randbits(62), md5=True)
    for mapping in registry:
        if mapping.name in confirmed or (names and mapping.name not in names):
            continue
        start = lowest_key(mapping)
        estimate = 2 * primary.estimate(mapping)
        count = partial(_count, lambda rows: progress("count", mapping.name, rows, estimate))  # noqa: B023 - called at once
        target_rows = count(partial(_chunk, target, mapping, hashing), start)
        if not target_rows:
            continue
        rows = count(partial(primary.chunk, mapping, hashing, rows=_ROWS), start)
        part = MappingReport(
            mapping.name, rows=rows, target_rows=target_rows, extra=max(0, target_rows - rows)
        )
        reason = refuse_deletes(part, max_deletes=None, confirmed=False, command="resync")
        if reason is not None:
            yield reason


def _chunk(target: Target, mapping: Mapping, hashing: Hashing, start: Key) -> Digest:
    return target.digest(mapping, hashing, [KeyRange(start)], limit=_ROWS)[0]


def _count(counted: Callable[[int], object], read: Callable[[Key], Digest], start: Key) -> int:
    """Return the number of rows from key `start` on; `read` counts some of them from a key on.

    `counted` is called with each of these numbers.
    """
    rows = 0
    following: Key | None = start
    while following is not None:
        digest = read(following)
        rows += digest.rows
        counted(digest.rows)
        following = digest.range.end
    return rows
