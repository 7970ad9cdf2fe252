"""Signals: how SIGTERM and Ctrl-C stop a command."""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Final

INTERRUPTED: Final = 130
"""The exit code after Ctrl-C."""


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


def leave_at_interrupt() -> None:
    """Make Ctrl-C end the process at once with code 130, without an exception.

    For the time in which modules are imported and for the end of the process: there, nothing has
    to be cleaned up, and an exception would print a traceback, or get lost in other code.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _leave)


def raise_at_interrupt() -> None:
    """Undo `leave_at_interrupt`: from now on, Ctrl-C raises KeyboardInterrupt as usual."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(_number: int, _frame: FrameType | None) -> None:
    with suppress(Exception):
        sys.stdout.flush()
    os._exit(INTERRUPTED)
