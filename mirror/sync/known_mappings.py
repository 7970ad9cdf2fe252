"""Known mappings: those whose events a worker takes.

During a deploy, workers of two versions run. Each leaves to the others the mappings that it does
not declare, or declares in another version than the target was migrated to.
"""

import time
from collections.abc import Callable, Iterable

from mirror.model.registry import Registry
from mirror.sync.targets.base import Target

# Until the next look at the target.
_SECONDS = 30.0


class KnownMappings:
    """The mappings of one worker's registry that the target has in the same version."""

    def __init__(
        self, registry: Registry, target: Target, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry = registry
        self._target = target
        self._clock = clock
        self._left: frozenset[str] = frozenset()
        """Those that the target has in another version …"""
        self._left_until = 0.0
        """… which counts until then."""

    def names(self) -> list[str]:
        """Return the mappings whose events this worker takes."""
        left = self._left if self._clock() < self._left_until else frozenset()
        return [mapping.name for mapping in self._registry if mapping.name not in left]

    def look(self) -> bool:
        """Look at the target, after it has refused a mapping; return whether that changes `names`.

        If no mapping would be left, none is left out: the events then wait in the outbox.

        Raises:
            MirrorError: the target does not answer.
        """
        before = self.names()
        digests = self._target.describe().digests
        self._left = _relatives(
            self._registry,
            {each.name for each in self._registry if digests.get(each.name) != each.digest},
        )
        self._left_until = self._clock() + _SECONDS
        if not self.names():
            self._left = frozenset()
        return self.names() != before


def _relatives(registry: Registry, names: Iterable[str]) -> frozenset[str]:
    """Return mappings with all of their ancestors and descendants, and so on.

    A mapping is written together with its parents and children.
    """
    found: set[str] = set()
    queue = list(names)
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            queue += [parent.mapping for parent in registry[name].parents]
            queue += [child.name for child, _ in registry.children(registry[name])]
    return frozenset(found)
