"""Stopping: how a command that runs for long is told to end."""

import signal
from types import FrameType


def interrupt_once() -> list[int]:
    """Let SIGTERM unwind like Ctrl-C; return a list that will hold the signal that came.

    Only the first one raises KeyboardInterrupt: a second one would tear up what the first one has
    begun to put in order, while other threads still use it.
    """
    received: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        if not received:
            received.append(number)
            raise KeyboardInterrupt

    # SIGINT too is set here: a shell starts what it puts into the background with it ignored.
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    return received
