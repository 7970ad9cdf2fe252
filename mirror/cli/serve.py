"""`mirror serve`: the page, the metrics and the probes, on the loopback address."""

import signal
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mirror.cli.signals import interrupt_once
from mirror.errors import ConfigError
from mirror.settings import Settings, load_settings
from mirror.settings.logs import configure_logging

if TYPE_CHECKING:
    from mirror.serve.server import PageServer


Host = Annotated[str, typer.Option(help="The address on which the page listens.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="The page's port; 0: any free one.")]
Authorize = Annotated[
    str | None,
    typer.Option(help="MODULE:FUNCTION that admits requests, instead of a one-time link."),
]
HOST: Final = "127.0.0.1"
PORT: Final = 8710


def page_server(settings: Settings, host: str, port: int, authorize: str | None) -> "PageServer":
    """Return the server of the page, which listens, and print its link.

    Raises:
        ConfigError: the extra `serve` is not installed, or as PageServer.
        UsageError: as PageServer.
    """
    try:
        # Imported late: only the page needs the extra.
        from mirror.serve.server import PageServer  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is missing; install permission-mirror[serve].") from None
    return PageServer(
        settings,
        host=host,
        port=port,
        authorize=authorize,
        announce=lambda url: print(f"open {url}", flush=True),
    )


def serve(host: Host = HOST, port: Port = PORT, authorize: Authorize = None) -> None:
    """Serve the page, /metrics, /healthz and /readyz until stopped."""
    settings = load_settings()
    configure_logging(style=settings.log_format, level=settings.log_level)
    server = page_server(settings, host, port, authorize)
    received = interrupt_once()
    try:
        server.run()
    except KeyboardInterrupt:
        # Process managers stop a service with SIGTERM and expect 0 after an orderly end.
        raise typer.Exit(130 if signal.SIGINT in received else 0) from None
