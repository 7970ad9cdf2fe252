"""`mirror run`: does in one process what worker, beat and relay do, without Redis."""

import signal
from typing import Annotated

import typer

from mirror.cli.serve import HOST, PORT, Authorize, Host, Port, page_server
from mirror.cli.signals import interrupt_once
from mirror.settings import load_settings
from mirror.settings.logs import configure_logging


def run(
    serve: Annotated[
        bool, typer.Option("--serve", help="Also serve what `mirror serve` does.")
    ] = False,
    host: Host = HOST,
    port: Port = PORT,
    authorize: Authorize = None,
) -> None:
    """Mirror changes as they come, sweep, purge and reconcile, until stopped; needs no Redis."""
    # Imported here because it loads Celery, whose schedule it uses.
    from mirror.worker.single import SingleProcess  # noqa: PLC0415

    settings = load_settings()
    configure_logging(style=settings.log_format, level=settings.log_level)
    received = interrupt_once()
    parts = [page_server(settings, host, port, authorize)] if serve else []
    try:
        SingleProcess(settings, parts).run()
    except KeyboardInterrupt:
        # Process managers stop a service with SIGTERM and expect 0 after an orderly end.
        raise typer.Exit(130 if signal.SIGINT in received else 0) from None
