"""Withdrawal: removes a parent that has too many children for one statement, page by page.

The target deletes a parent's row and those of all its children in one call. If they are too many,
it marks the parent instead: from then on, helpers ignore the parent and its children. The children
are then removed a page at a time, and the parent last.
"""

import time
from dataclasses import dataclass

from mirror.errors import TooSlow
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.sync.claims import Queue
from mirror.sync.snapshot import Stamp
from mirror.sync.targets.base import Target
from mirror.sync.targets.catalog import WITHDRAWING
from mirror.sync.targets.writing import Outcome, ScopePage, Section, TooOld


def withdraw_in_pages(
    registry: Registry,
    target: Target,
    queue: Queue,
    mapping: Mapping,
    key: Key,
    *,
    stamp: Stamp,
    limit: int,
    seconds: float,
) -> bool:
    """Withdraw a parent with its children, `limit` of them in each call, as of the read `stamp`.

    Returns whether nothing is left to do. If it is False, `seconds` have passed, or the read is too
    old: call it again with a new one.

    Raises:
        TooSlow: also a page is too slow.
    """
    until = time.monotonic() + seconds
    withdrawal = _Withdrawal(registry, target, queue, stamp, limit, until)
    try:
        return withdrawal.close(mapping, key) and withdrawal.withdraw(mapping, key)
    except TooOld:
        return False


@dataclass(frozen=True)
class _Withdrawal:
    registry: Registry
    target: Target
    queue: Queue
    stamp: Stamp
    limit: int
    until: float

    def close(self, mapping: Mapping, key: Key) -> bool:
        """Mark a parent, also one whose deletion was only slow; return whether that was done.

        It is not if the target has a read of it that is as fresh or newer.
        """
        outcome = self.target.withhold(self.stamp, mapping, key, WITHDRAWING)
        return outcome is Outcome.WITHHELD

    def withdraw(self, mapping: Mapping, key: Key) -> bool:
        """Withdraw the children of a parent, page by page, and then the parent.

        Returns False if the time is over first.
        """
        for child, link in self.registry.children(mapping):
            after: Key | None = ()
            while after is not None:
                page = ScopePage(child, link.column, (key[0],), after)
                # The first page closes the scope: no hung write brings a child back.
                (keys,) = self.target.open_scopes(self.stamp, [page], limit=self.limit)
                if keys and not self._withdraw_page(child, keys):
                    return False
                # A claim's transaction must not end as idle meanwhile.
                self.queue.keep_alive()
                after = keys[-1] if len(keys) == self.limit else None
                if after is not None and time.monotonic() > self.until:
                    return False
        return self._withdraw_page(mapping, [key])

    def _withdraw_page(self, mapping: Mapping, keys: list[Key]) -> bool:
        try:
            answer = self.target.apply(self.stamp, [Section(mapping, deleted=keys)])[mapping.name]
            large = answer.large
        except TooSlow:
            if len(keys) == 1:
                raise
            if not self.registry.children(mapping):
                # Triggers of the guards, or of a user, make each row slow.
                self.queue.keep_alive()
                middle = len(keys) // 2
                halves = keys[:middle], keys[middle:]
                return all(self._withdraw_page(mapping, half) for half in halves)
            large = keys
        # These have too many children of their own.
        return all(not self.close(mapping, key) or self.withdraw(mapping, key) for key in large)
