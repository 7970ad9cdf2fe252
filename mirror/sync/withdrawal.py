"""Withdrawal: removes a parent that has too many children for one statement, page by page.

The target deletes a parent's row and those of all its children in one call. If that takes longer
than a statement may, the children go first, a page at a time, and the parent last. So access ends
within seconds, and each call is short.
"""

from dataclasses import dataclass

from mirror.capture.outbox import Event
from mirror.errors import TooSlow
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.sync.claims import Queue
from mirror.sync.snapshot import Source, Stamp
from mirror.sync.targets.base import Target
from mirror.sync.targets.writing import ScopePage, Section, TooOld


def withdraw_in_pages(
    registry: Registry, source: Source, target: Target, queue: Queue, event: Event, limit: int
) -> bool:
    """Withdraw the parent that an event names, with its children, `limit` of them in each call.

    Returns False, and withdraws nothing, if the event names no parent, if the primary has the row,
    or if the read is older than the target's horizon.

    Raises:
        TooSlow: also a page is too slow.
    """
    mapping = registry[event.mapping]
    if event.reference is not None or not registry.children(mapping):
        return False
    key = mapping.canonical(event.key)
    with source.snapshot() as snapshot:
        if snapshot.rows(mapping, [key]):
            return False
        stamp = snapshot.stamp
    try:
        _Withdrawal(registry, target, queue, stamp, limit).withdraw(mapping, key)
    except TooOld:
        return False
    return True


@dataclass(frozen=True)
class _Withdrawal:
    registry: Registry
    target: Target
    queue: Queue
    stamp: Stamp
    limit: int

    def withdraw(self, mapping: Mapping, key: Key) -> None:
        """Withdraw the children of a parent, page by page, and then the parent."""
        for child, link in self.registry.children(mapping):
            after: Key | None = ()
            while after is not None:
                page = ScopePage(child, link.column, (key[0],), after)
                # The first page closes the scope: no hung write brings a child back.
                (keys,) = self.target.open_scopes(self.stamp, [page], limit=self.limit)
                if keys:
                    self._withdraw_page(child, keys)
                # A claim's transaction must not end as idle meanwhile.
                self.queue.keep_alive()
                after = keys[-1] if len(keys) == self.limit else None
        self.target.apply(self.stamp, [Section(mapping, deleted=[key])])

    def _withdraw_page(self, child: Mapping, keys: list[Key]) -> None:
        try:
            self.target.apply(self.stamp, [Section(child, deleted=keys)])
        except TooSlow:
            if not self.registry.children(child):
                raise
            # One of these has too many children of its own.
            for key in keys:
                self.withdraw(child, key)
