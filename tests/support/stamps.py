"""Stamps of reads that no primary made."""

from mirror.sync.pairing import Pair
from mirror.sync.snapshot import Stamp

NEVER_PAIRED = Pair(0, "b1a5c0de-0000-4000-8000-000000000000", None, acked=False)
"""The pair of a primary that has taken no step with a target."""


def stamp(fence: int, epoch: int = 0, *, pair: Pair = NEVER_PAIRED) -> Stamp:
    """Return the stamp of a read of a primary that has taken no step."""
    return Stamp("a primary", epoch, fence, pair)
