"""Headers: what every answer carries, and the check of the host that every request names."""

from collections.abc import Callable
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECURITY: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Nothing comes from elsewhere, nothing is framed, and no address of a page leaks."""


class Headers:
    """Adds the headers, and refuses requests that `admits` does not admit; None: it admits all."""

    def __init__(self, app: ASGIApp, admits: Callable[[Request], bool] | None) -> None:
        self._app = app
        self._admits = admits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY)
                # A file of ours may be kept, if the browser asks whether it has changed.
                kept = "etag" in headers
                headers["Cache-Control"] = "no-cache" if kept else "no-store"
            await send(message)

        if self._admits is not None and not self._admits(Request(scope)):
            refused = PlainTextResponse("Use the address that `mirror serve` has printed.", 421)
            await refused(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)
