"""`mirror relay`: wakes workers for events of writers that cannot do so, such as triggers."""

import signal
from contextlib import closing

import typer

from mirror.cli.signals import interrupt_once
from mirror.settings import load_settings
from mirror.settings.logs import configure_logging
from mirror.sync.wiring import build_relay


def relay() -> None:
    """Watch the outbox and wake the workers when events arrive, until stopped."""
    settings = load_settings()
    # The relay is a service like the worker, so it logs as its settings say.
    configure_logging(style=settings.log_format, level=settings.log_level)
    received = interrupt_once()
    try:
        with closing(build_relay(settings)) as watcher:
            watcher.run()
    except KeyboardInterrupt:
        # Process managers stop a service with SIGTERM and expect 0 after an orderly end.
        raise typer.Exit(130 if signal.SIGINT in received else 0) from None
