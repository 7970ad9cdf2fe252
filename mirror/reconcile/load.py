"""Load: writes whole ranges of rows that the target lacks.

One thread reads pages ahead. Two connections to the target write them side by side. Two pages have
no key in common, and parents that rows of both have are only locked in share mode.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Final

from mirror.errors import MirrorError, WentBack
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.reconcile.repair import Repairer
from mirror.reconcile.spool import batched
from mirror.sync.row_queries import Row
from mirror.sync.snapshot import Stamp
from mirror.sync.syncer import ISOLATED
from mirror.sync.targets.base import Target
from mirror.sync.targets.reading import KeyRange
from mirror.sync.targets.writing import Section, TooOld

_PAGE_ROWS: Final = 2000
_PAGES_AHEAD: Final = 2


@dataclass(frozen=True)
class Page:
    """Rows of the primary, in key order, as one snapshot has them."""

    stamp: Stamp
    keys: list[Key]
    rows: list[Row]


class Loader:
    """Writes the rows of ranges."""

    def __init__(self, repairer: Repairer) -> None:
        self.transferred = 0
        """Characters of the rows that were read."""
        self._repairer = repairer
        self._drain = repairer.drain
        self._source = threading.Lock()
        """Held while the connection to the primary is in use: a repair uses it, too."""

    def load(self, mapping: Mapping, within: KeyRange, tick: Callable[[int], object]) -> int:
        """Write all rows of the primary in a range; return the number of rows that failed.

        If other mappings are children of this one, its rows are written without theirs; the caller
        loads those, too. `tick` is called after each page, with the number of its rows.
        """
        second = self._drain.target.twin()
        if second is None:
            with self._reading(mapping, within) as pages:
                return sum(self._finish(mapping, page, tick) for page in pages)
        failed = 0
        with (
            closing(second),
            ThreadPoolExecutor(1, "mirror-target") as pool,
            self._reading(mapping, within) as pages,
        ):
            # The page that the second connection writes.
            under_way: tuple[Page, Future[list[Key]]] | None = None
            for page in pages:
                if under_way is not None and not under_way[1].done():
                    failed += self._finish(mapping, page, tick)
                    continue
                if under_way is not None:
                    failed += self._finish(mapping, under_way[0], tick, under_way[1])
                under_way = page, pool.submit(_write, second, mapping, page)
            if under_way is not None:
                failed += self._finish(mapping, under_way[0], tick, under_way[1])
        return failed

    def _finish(
        self,
        mapping: Mapping,
        page: Page,
        tick: Callable[[int], object],
        written: "Future[list[Key]] | None" = None,
    ) -> int:
        """Write a page, unless another thread has; repair what was refused.

        Returns the number of rows that failed.
        """
        if written is None or isinstance(written.exception(), MirrorError):
            # Only this thread may look for the primary's present step, which an error can be about.
            refused = self._write_alone(mapping, page)
        else:
            refused = written.result()
        failed = 0
        if refused:
            with self._source:
                failed = sum(
                    self._repairer.repair([[(mapping.name, key)] for key in some])
                    for some in batched(refused, self._drain.batch_size)
                )
        tick(len(page.rows))
        return failed

    def _write_alone(self, mapping: Mapping, page: Page) -> list[Key]:
        """Write a page; return the keys that were not written, for a repair to write."""
        try:
            return _write(self._drain.target, mapping, page)
        except (TooOld, WentBack, *ISOLATED):
            return page.keys

    @contextmanager
    def _reading(self, mapping: Mapping, within: KeyRange) -> Iterator[Iterator[Page]]:
        """Yield the pages of a range, which a thread reads a little ahead."""
        ahead: queue.Queue[Page | BaseException | None] = queue.Queue(_PAGES_AHEAD)
        stop = threading.Event()

        def read() -> None:
            try:
                for page in self._read(mapping, within):
                    ahead.put(page)
                    if stop.is_set():
                        return
                ahead.put(None)
            except BaseException as error:  # noqa: BLE001 - the thread that writes raises it
                ahead.put(error)

        def pages() -> Iterator[Page]:
            while (page := ahead.get()) is not None:
                if isinstance(page, BaseException):
                    raise page
                yield page

        reader = threading.Thread(target=read, name="mirror-source")
        reader.start()
        try:
            yield pages()
        finally:
            stop.set()
            while reader.is_alive():
                # The thread may wait for a place.
                while not ahead.empty():
                    ahead.get()
                reader.join(0.01)

    def _read(self, mapping: Mapping, within: KeyRange) -> Iterator[Page]:
        names = [column.name for column in mapping.columns]
        places = [names.index(name) for name in mapping.key]
        start: Key | None = within.start
        while start is not None:
            with self._source, self._drain.source.snapshot() as snapshot:
                rows = self._repairer.primary.page(
                    mapping, KeyRange(start, within.end), _PAGE_ROWS + 1
                )
            keys: list[Key] = [tuple(str(row[i]) for i in places) for row in rows]
            # One more row is read than is written: its key is the start of the next page.
            start = keys.pop() if len(rows) > _PAGE_ROWS else None
            rows = rows[: len(keys)]
            # Counted in the thread that reads, because those that write are the bottleneck.
            self.transferred += sum(len(value or "") for row in rows for value in row)
            yield Page(snapshot.stamp, keys, rows)


def _write(target: Target, mapping: Mapping, page: Page) -> list[Key]:
    """Write a page in one call; return the keys that the target did not write."""
    is_parent = bool(mapping.children)
    section = Section(mapping, [] if is_parent else page.rows, page.rows if is_parent else [])
    answer = target.apply(page.stamp, [section])[mapping.name]
    return [*answer.stale, *answer.orphans, *answer.new_parents, *answer.large]
