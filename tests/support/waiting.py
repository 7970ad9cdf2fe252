"""Waiting for conditions instead of sleeping for a fixed time."""

import time
from collections.abc import Callable


def until(condition: Callable[[], object], *, seconds: float = 30.0, pause: float = 0.005) -> None:
    """Return when `condition` returns a true value; fail the test if that takes longer.

    A condition that costs much, such as the run of a command, wants a longer `pause` between looks.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(pause)
