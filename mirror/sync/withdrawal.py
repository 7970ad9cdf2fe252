"""Withdrawal: removes a parent that has too many children for one statement, page by page.

The target deletes a parent's row and those of all its children in one call. If that takes longer
than a statement may, the children go first, a page at a time, and the parent last. So access ends
within seconds, and each call is short.
"""

from collections.abc import Callable

from mirror.errors import TooSlow
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.sync.snapshot import Source, Stamp
from mirror.sync.targets.base import Target
from mirror.sync.targets.writing import ScopePage, Section


def withdraw_in_pages(
    registry: Registry,
    source: Source,
    target: Target,
    parent: tuple[Mapping, Key],
    *,
    limit: int,
    keep_alive: Callable[[], object],
) -> bool:
    """Withdraw a parent without a row in the primary; return whether it has none.

    `limit` is the number of children in one call. `keep_alive` is called after each page.

    Raises:
        TooSlow: also a page is too slow.
        TooOld: the read is older than the target's horizon.
    """
    mapping, key = parent
    with source.snapshot() as snapshot:
        if snapshot.rows(mapping, [key]):
            return False
        stamp = snapshot.stamp
    _withdraw(registry, target, stamp, parent, limit=limit, keep_alive=keep_alive)
    return True


def _withdraw(
    registry: Registry,
    target: Target,
    stamp: Stamp,
    parent: tuple[Mapping, Key],
    *,
    limit: int,
    keep_alive: Callable[[], object],
) -> None:
    mapping, key = parent
    for child, link in registry.children(mapping):
        after: Key = ()
        while True:
            page = ScopePage(child, link.column, (key[0],), after)
            # The first page closes the scope: no hung write brings a child back.
            (keys,) = target.open_scopes(stamp, [page], limit=limit)
            if keys:
                try:
                    target.apply(stamp, [Section(child, deleted=keys)])
                except TooSlow:
                    if not registry.children(child):
                        raise
                    # A child has too many children of its own.
                    for each in keys:
                        below = (child, each)
                        _withdraw(
                            registry, target, stamp, below, limit=limit, keep_alive=keep_alive
                        )
            keep_alive()
            if len(keys) < limit:
                break
            after = keys[-1]
    target.apply(stamp, [Section(mapping, deleted=[key])])
