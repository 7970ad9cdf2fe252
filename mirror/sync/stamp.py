"""Stamp: how fresh a read of the primary was, and which primary it was."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stamp:
    """What every write to the target carries."""

    identity: str
    """Which primary was read; the target refuses any but its own."""
    epoch: int
    """Counts rebases. Fences of different epochs do not compare."""
    fence: int
    """Of two reads of one primary in one epoch, the later never has the smaller fence; equal
    fences saw the same data."""
