"""Repair: brings rows up to date as a drain does, by a fresh read and a fenced write.

The rows that a comparison has read are never written, so a repair never undoes a live change.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog

from mirror.errors import MirrorError, TooSlow, WentBack
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.reconcile.primary_reader import PrimaryReader
from mirror.reconcile.spool import batched
from mirror.sync.drain import Drain
from mirror.sync.row_queries import Row
from mirror.sync.snapshot import Stamp
from mirror.sync.sync_pass import MappingKey, PendingKeys
from mirror.sync.syncer import ISOLATED
from mirror.sync.targets.reading import KeyRange
from mirror.sync.targets.writing import Section, TooOld

log = structlog.stdlib.get_logger(__name__)

RepairItem = list[MappingKey]
"""The mapping and key of a row to repair. If the row is wrong because parents are missing, they
follow."""

_LOAD_ROWS: Final = 2000
_NARROW: Final = 10


class Repairer:
    """Brings the target's rows up to date."""

    def __init__(self, drain: Drain, primary: PrimaryReader) -> None:
        self.drain = drain
        self.primary = primary
        self.transferred = 0
        """Characters of the rows that were loaded."""

    def repair(self, items: Sequence[RepairItem]) -> int:
        """Bring rows up to date; return the number of items that failed.

        If the batch fails because of its data, it is halved again and again, so that only the items
        that cause the failure are left out; each is logged.

        Raises:
            Transient: a database does not answer, or other workers were faster every time.
            Halted: nothing may be written until a person acts.
            NotMigrated: a database is not migrated.
        """
        keys: dict[str, set[Key]] = defaultdict(set)
        for item in items:
            for name, key in item:
                keys[name].add(key)
        try:
            self._sync(keys, alone=len(items) == 1)
        except ISOLATED as error:
            if len(items) > 1:
                middle = len(items) // 2
                return self.repair(items[:middle]) + self.repair(items[middle:])
            _log_failure(items[0], error)
            return 1
        return 0

    def _sync(self, keys: dict[str, set[Key]], *, alone: bool) -> None:
        # Even one row may need too much work: a parent with many children. In smaller batches, the
        # children are recorded as events instead.
        for size in (None, _NARROW, 1) if alone else (None,):
            try:
                # The rest of a parent that is too large for one call is a worker's.
                self.drain.queue.announce(
                    self.drain.sync_keys(PendingKeys(keys=keys), batch_size=size)
                )
            except TooSlow:
                if size == 1 or not alone:
                    raise
            else:
                return

    def load(self, mapping: Mapping, within: KeyRange, tick: Callable[[int], object]) -> int:
        """Write all rows of the primary in a range; return the number of rows that failed.

        The next page is read while one is written. If other mappings are children of this one, its
        rows are written without theirs; the caller loads those, too. `tick` is called after each
        page, with the number of its rows.
        """
        failed = 0
        with ThreadPoolExecutor(1, "mirror-source") as executor:
            next_page = executor.submit(self._read_page, mapping, within)
            while True:
                stamp, keys, rows = next_page.result()
                # One more row is read than is written: its key is the start of the next page.
                more = len(rows) > _LOAD_ROWS
                if more:
                    rest = KeyRange(keys.pop(), within.end)
                    rows.pop()
                    next_page = executor.submit(self._read_page, mapping, rest)
                try:
                    refused = self._write(mapping, stamp, keys, rows)
                finally:
                    if more:
                        # Wait: `repair` uses the same connection to the primary.
                        next_page.exception()
                failed += sum(
                    self.repair([[(mapping.name, key)] for key in some])
                    for some in batched(refused, self.drain.batch_size)
                )
                tick(len(rows))
                if not more:
                    return failed

    def _read_page(self, mapping: Mapping, within: KeyRange) -> tuple[Stamp, list[Key], list[Row]]:
        with self.drain.source.snapshot() as snapshot:
            rows = self.primary.page(mapping, within, _LOAD_ROWS + 1)
        # Counted in the thread that reads, because the one that writes is the bottleneck.
        self.transferred += sum(len(value or "") for row in rows for value in row)
        names = [column.name for column in mapping.columns]
        places = [names.index(name) for name in mapping.key]
        return snapshot.stamp, [tuple(str(row[i]) for i in places) for row in rows], rows

    def _write(self, mapping: Mapping, stamp: Stamp, keys: list[Key], rows: list[Row]) -> list[Key]:
        """Write rows in one call; return the keys that were not written, for `repair` to write."""
        is_parent = bool(mapping.children)
        section = Section(mapping, [] if is_parent else rows, rows if is_parent else [])
        try:
            answer = self.drain.target.apply(stamp, [section])[mapping.name]
        except (TooOld, WentBack, *ISOLATED):
            return keys
        return [*answer.stale, *answer.orphans, *answer.new_parents, *answer.large]


def _log_failure(item: RepairItem, error: MirrorError) -> None:
    log.warning("not repaired", mapping=item[0][0], error=str(error))
