"""`mirror relay`: ring for writers that cannot reach Redis."""

import signal
from contextlib import closing
from types import FrameType

import typer

from mirror.assembly import build_relay
from mirror.config import load_settings
from mirror.logs import configure_logging


def relay() -> None:
    """Watch the outbox, and wake the workers for what nobody rang for; until stopped."""
    settings = load_settings()
    # A service like the worker, and not a command that somebody watches.
    configure_logging(style=settings.log_format, level=settings.log_level)
    received: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        if not received:
            received.append(number)
            raise KeyboardInterrupt

    try:
        # SIGINT too is set here: a shell starts what it puts into the background with it ignored.
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        with closing(build_relay(settings)) as here:
            here.run()
    except KeyboardInterrupt:
        # Process managers stop what they started with SIGTERM, and take 0 for an orderly end.
        raise typer.Exit(130 if signal.SIGINT in received else 0) from None
