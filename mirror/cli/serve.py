"""`mirror serve`: the page, the metrics and the probes, on the loopback address."""

import signal
from typing import Annotated

import typer

from mirror.cli.signals import interrupt_once
from mirror.errors import ConfigError
from mirror.settings import load_settings
from mirror.settings.logs import configure_logging


def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8710,
    authorize: Annotated[
        str | None,
        typer.Option(help="MODULE:FUNCTION that admits requests, instead of a one-time link."),
    ] = None,
) -> None:
    """Serve the page, /metrics, /healthz and /readyz until stopped."""
    settings = load_settings()
    configure_logging(style=settings.log_format, level=settings.log_level)
    try:
        # Imported late: only this command needs the extra.
        from mirror.serve.server import run_server  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is missing; install permission-mirror[serve].") from None
    received = interrupt_once()
    try:
        run_server(
            settings,
            host=host,
            port=port,
            authorize=authorize,
            announce=lambda url: print(f"open {url}", flush=True),
        )
    except KeyboardInterrupt:
        # Process managers stop a service with SIGTERM and expect 0 after an orderly end.
        raise typer.Exit(130 if signal.SIGINT in received else 0) from None
