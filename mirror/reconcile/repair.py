"""Repair: brings rows up to date as a drain does, by a fresh read and a fenced write.

The rows that a comparison has read are never written, so a repair never undoes a live change.
"""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import structlog

from mirror.errors import Halted, MirrorError, TooSlow
from mirror.model.keys import Key
from mirror.reconcile.primary_reader import PrimaryReader
from mirror.sync.drain import Drain
from mirror.sync.sync_pass import MappingKey, PendingKeys
from mirror.sync.syncer import ISOLATED
from mirror.sync.targets.writing import TooOld

log = structlog.stdlib.get_logger(__name__)

RepairItem = list[MappingKey]
"""The mapping and key of a row to repair. If the row is wrong because parents are missing, they
follow."""

_NARROW: Final = 10


class Repairer:
    """Brings the target's rows up to date."""

    def __init__(self, drain: Drain, primary: PrimaryReader) -> None:
        self.drain = drain
        self.primary = primary

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
        if not alone:
            columns = [
                (self.drain.registry[name], [list(column) for column in zip(*some, strict=True)])
                for name, some in keys.items()
            ]
            # After a failure, the sync pass below finds its cause.
            with suppress(*ISOLATED, TooOld, Halted):
                self.drain.queue.announce(self.drain.pass_on(columns))
                return
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


def _log_failure(item: RepairItem, error: MirrorError) -> None:
    log.warning("not repaired", mapping=item[0][0], error=str(error))
