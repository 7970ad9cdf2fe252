"""Freshness: computes for each mapping how old the target's state is at most.

The result is a moment of the target's own clock before which every recorded revocation is in force.
No clock of the primary takes part, and no time that a backend recorded:

- A mark is a pair of the target's clock, from an answer that arrived before a look at the primary,
  and the horizon of that look: each transaction that had committed by then has a lower id.
- A change that had committed before the clock's moment is visible to the look. If its event still
  waits, or an event that continues it, then the lowest waiting id is below the horizon of that
  mark. If none waits, the change is in the target.

So a mark counts if its horizon is not above the lowest waiting id, and the newest one is the
result.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

# So many marks are kept. An event that waits for longer than they reach back stops freshness.
_MARKS: Final = 64

# In seconds. A report may be so far in the future.
_AHEAD: Final = 1.0


def is_stale(age: float | None, bound: float) -> bool:
    """Return whether a mapping that was fresh `age` seconds ago is older than the bound.

    It is the rule of `mirror.is_fresh` in the target. None: no worker has reported. A negative age
    is left from a clock that was set back.
    """
    return age is None or not -_AHEAD <= age < bound


@dataclass(frozen=True)
class Look:
    """Which recorded revocations may not be in force yet, by one look at the primary."""

    horizon: int
    """Each transaction that had committed before the look has a lower id."""
    outbox: int | None
    """The lowest transaction id of those that wait; None: none waits."""
    retries: Mapping[str, int]
    """By mapping: likewise of those that were set apart. Not those whose key is withheld."""

    def lowest(self, mapping: str) -> int | None:
        """Return the lowest id of a mapping's changes that may not be in force; None: none."""
        waiting = [one for one in (self.outbox, self.retries.get(mapping)) if one is not None]
        return min(waiting, default=None)


class Marks:
    """The last marks of one worker."""

    def __init__(self) -> None:
        self._marks: deque[tuple[str, int]] = deque(maxlen=_MARKS)

    def clear(self) -> None:
        """Forget all marks: primary or target may be another."""
        self._marks.clear()

    def fresh(self, clock: str, look: Look, mappings: Iterable[str]) -> dict[str, str]:
        """Add a mark; return for each mapping the moment before which all is in force.

        `clock` is the target's, from an answer that arrived before the look. A mapping for which no
        mark counts is not in the result.
        """
        self._marks.append((clock, look.horizon))
        found = {}
        for name in mappings:
            lowest = look.lowest(name)
            if lowest is None:
                found[name] = clock
            # An id that no transaction can have yet is from a dump of another server.
            elif lowest < look.horizon:
                counting = [moment for moment, horizon in self._marks if horizon <= lowest]
                if counting:
                    found[name] = counting[-1]
        return found
