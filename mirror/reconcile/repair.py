"""Repair: bring rows up to date the drain's own way: a fresh read of the primary, a fenced write.

So what is written is never what a comparison saw, and a live change is never overwritten.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog

from mirror.errors import MirrorError, TooSlow, WentBack
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.reconcile.pieces import pieces
from mirror.reconcile.primary import PrimaryReader
from mirror.sync.drain import ISOLATED, Drain
from mirror.sync.row_queries import Row
from mirror.sync.snapshot import Stamp
from mirror.sync.sync_pass import MappingKey, PendingKeys
from mirror.sync.targets.reading import KeyRange
from mirror.sync.targets.writing import Section, TooOld

log = structlog.stdlib.get_logger(__name__)

Item = list[MappingKey]
"""A row to repair, followed by the parents whose absence is the reason."""

_LOAD_ROWS: Final = 2000
_NARROW: Final = 10


class Repair:
    """Writes what a reconcile found."""

    def __init__(self, drain: Drain, primary: PrimaryReader) -> None:
        self.drain = drain
        self.primary = primary
        self.moved = 0

    def rows(self, items: Sequence[Item]) -> int:
        """Bring rows up to date; return how many could not be."""
        work: dict[str, set[Key]] = defaultdict(set)
        for item in items:
            for name, key in item:
                work[name].add(key)
        try:
            self._queue_with_children(work, alone=len(items) == 1)
        except ISOLATED as error:
            if len(items) > 1:
                middle = len(items) // 2
                return self.rows(items[:middle]) + self.rows(items[middle:])
            self._tell(items[0], error)
            return 1
        return 0

    def _queue_with_children(self, work: dict[str, set[Key]], *, alone: bool) -> None:
        # One row may still bring too much: a parent its children, which then are announced.
        for size in (None, _NARROW, 1) if alone else (None,):
            try:
                self.drain.sync_keys(PendingKeys(keys=work), batch_size=size)
            except TooSlow:
                if size == 1 or not alone:
                    raise
            else:
                return

    def load(self, mapping: Mapping, within: KeyRange, tick: Callable[[int], object]) -> int:
        """Write everything the primary has in a range; return how many rows could not be.

        The next page is read while one is written. A parent's rows go without their children: the
        caller sees to those.
        """
        failed = 0
        with ThreadPoolExecutor(1, "mirror-source") as beside:
            ahead = beside.submit(self._page, mapping, within)
            while True:
                stamp, keys, rows = ahead.result()
                # A row more than a page holds says where the next one begins.
                more = len(rows) > _LOAD_ROWS
                if more:
                    rest = KeyRange(keys.pop(), within.end)
                    rows.pop()
                    ahead = beside.submit(self._page, mapping, rest)
                try:
                    refused = self._write(mapping, stamp, keys, rows)
                finally:
                    if more:
                        # The primary's connection is one: whoever reads it next must wait.
                        ahead.exception()
                failed += sum(
                    self.rows([[(mapping.name, key)] for key in some])
                    for some in pieces(refused, self.drain.batch_size)
                )
                tick(len(rows))
                if not more:
                    return failed

    def _page(self, mapping: Mapping, within: KeyRange) -> tuple[Stamp, list[Key], list[Row]]:
        with self.drain.source.snapshot() as snapshot:
            rows = self.primary.page(mapping, within, _LOAD_ROWS + 1)
        # Here rather than by whoever writes, because the target is what a load waits for.
        self.moved += sum(len(value or "") for row in rows for value in row)
        names = [column.name for column in mapping.columns]
        places = [names.index(name) for name in mapping.key]
        return snapshot.stamp, [tuple(str(row[i]) for i in places) for row in rows], rows

    def _write(self, mapping: Mapping, stamp: Stamp, keys: list[Key], rows: list[Row]) -> list[Key]:
        """Write rows; return the keys that have to go the long way."""
        whole = bool(mapping.children)
        section = Section(mapping, [] if whole else rows, rows if whole else [])
        try:
            answer = self.drain.target.apply(stamp, [section])[mapping.name]
        except (TooOld, WentBack, *ISOLATED):
            return keys
        return [*answer.stale, *answer.orphans, *answer.new_parents]

    @staticmethod
    def _tell(item: Item, error: MirrorError) -> None:
        log.warning("not repaired", mapping=item[0][0], error=str(error))
