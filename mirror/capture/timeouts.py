"""Timeouts: limits how long a function is waited for that has no limit itself."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import TypeVar

Result = TypeVar("Result")


def call_within(seconds: float, function: Callable[[], Result]) -> Result:
    """Return what a function returns, or raise what it raises; it runs in a thread of its own.

    If it takes longer, the thread is left to itself, and its outcome is dropped.

    Raises:
        TimeoutError: the function takes longer.
    """
    outcome: Future[Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # noqa: BLE001 - raised again where the outcome is awaited
            outcome.set_exception(error)

    # A daemon: at exit, Python waits for other threads.
    threading.Thread(
        target=copy_context().run, args=(run,), name="mirror-waiting", daemon=True
    ).start()
    return outcome.result(seconds)
