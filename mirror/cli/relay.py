"""`mirror relay`: ring for writers that cannot reach Redis."""

import signal
from contextlib import closing

import typer

from mirror.cli.signals import interrupt_once
from mirror.settings import load_settings
from mirror.settings.logs import configure_logging
from mirror.sync.wiring import build_relay


def relay() -> None:
    """Watch the outbox, and wake the workers for what nobody rang for; until stopped."""
    settings = load_settings()
    # A service like the worker, and not a command that somebody watches.
    configure_logging(style=settings.log_format, level=settings.log_level)
    received = interrupt_once()
    try:
        with closing(build_relay(settings)) as here:
            here.run()
    except KeyboardInterrupt:
        # Process managers stop what they started with SIGTERM, and take 0 for an orderly end.
        raise typer.Exit(130 if signal.SIGINT in received else 0) from None
