"""Signals: lets SIGTERM and Ctrl-C stop a long-running command in order."""

import signal
from types import FrameType


def interrupt_once() -> list[int]:
    """Make the first SIGTERM or Ctrl-C raise KeyboardInterrupt; ignore later ones.

    Returns a list that is empty until the first signal, then holds its number. Later signals are
    ignored: a second exception would interrupt the cleanup that the first one has started, while
    other threads still use its objects.
    """
    received: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        if not received:
            received.append(number)
            raise KeyboardInterrupt

    # SIGINT is set, too, because a shell starts background programs with SIGINT ignored.
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    return received
