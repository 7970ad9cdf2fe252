"""Server: runs the app of `mirror serve` until it is stopped."""

import socket
from collections.abc import Callable
from importlib import import_module
from typing import Final

import uvicorn
from starlette.applications import Starlette

from mirror.errors import ConfigError, UsageError
from mirror.serve.admission import LOOPBACK, Authorize, OneTimeLink
from mirror.serve.application import app, loopback_app
from mirror.settings import Settings

_STOP_SECONDS: Final = 5


class PageServer:
    """Serves the app until `stop` is called or, in the main thread, a signal ends it.

    It listens at once; requests wait until `run`.

    Args:
        settings: those of the mirror.
        host: the address to listen on.
        port: the port; 0 is any free one.
        authorize: names the function that admits requests, as `module:function`; None: a link that
            works once does.
        announce: is called with this link, or else with the address.

    Raises:
        UsageError: another machine could reach the page, and no function admits its requests; or
            the address is in use.
        ConfigError: the function cannot be imported, or a setting is missing or malformed.
    """

    name: Final = "page"

    def __init__(
        self,
        settings: Settings,
        *,
        host: str,
        port: int,
        authorize: str | None,
        announce: Callable[[str], object],
    ) -> None:
        if authorize is None and host not in LOOPBACK:
            raise UsageError(
                f"--host {host} lets other machines reach the page: name the function that admits "
                f"requests with --authorize MODULE:FUNCTION, or use 127.0.0.1."
            )
        admits = None if authorize is None else _import(authorize)
        self._listening = _listen(host, port)
        place = f"[{host}]" if ":" in host else host
        url = f"http://{place}:{self._listening.getsockname()[1]}"
        if admits is None:
            link = OneTimeLink(lambda path: announce(f"{url}{path}"))
            served: Starlette = loopback_app(link, settings=settings)
            link.renew()
        else:
            served = app(admits, settings=settings)
            announce(url)
        config = uvicorn.Config(
            served,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
        self._server = uvicorn.Server(config)

    def run(self) -> None:
        """Serve until stopped."""
        with self._listening:
            self._server.run(sockets=[self._listening])

    def stop(self) -> None:
        """Make `run` return once the requests under way are answered; safe in other threads."""
        self._server.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        # From now on a connection waits until the server is ready for it.
        listening.listen()
    except OSError as error:
        listening.close()
        raise UsageError(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another --port."
        ) from None
    return listening


def _import(name: str) -> Authorize:
    """Return the function that `module:function` names.

    Raises:
        ConfigError: there is none.
    """
    module, _, function = name.partition(":")
    try:
        found: Authorize = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"--authorize: cannot import {name!r} ({error}).") from None
    if not callable(found):
        raise ConfigError(f"--authorize: {name!r} is no function.")
    return found
