"""Admission: decides for each request whether it may see the page, or also act.

An app that mounts the page answers by its own sign-in. On the loopback address, a link that works
once opens the page, and the request has to name the loopback address as its host: otherwise a web
site could make its own name lead here, and read the page in a visitor's browser.
"""

import inspect
import secrets
import threading
from collections.abc import Awaitable, Callable
from typing import Final, Literal
from urllib.parse import urlsplit

from starlette.requests import Request

Level = Literal["view", "operate"]
"""The level of access to the page: `operate` includes `view`."""

Authorize = Callable[[Request], Level | Awaitable[Level | None] | None]
"""Returns the level of a request; None: none. It may set `request.state.operator`, the id that
records of actions name."""

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


async def level_of(authorize: Authorize, request: Request) -> Level | None:
    """Return the level of a request; any answer that is no level counts as None."""
    answer = authorize(request)
    level = await answer if inspect.isawaitable(answer) else answer
    return level if level in ("view", "operate") else None


def names_loopback(request: Request) -> bool:
    """Return whether the host that a request names is the loopback address."""
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname in LOOPBACK
    except ValueError:
        return False


class OneTimeLink:
    """The link that `mirror serve` prints: it opens the page once, then the next one is printed.

    `announce` is called with the path of each new link.
    """

    def __init__(self, announce: Callable[[str], object]) -> None:
        self._announce = announce
        self._lock = threading.Lock()
        self._token = ""
        self._sessions: set[str] = set()

    def renew(self) -> None:
        """Make a new link and announce it; the link before it no longer works."""
        self._token = secrets.token_urlsafe(32)
        self._announce(f"/open?token={self._token}")

    def open(self, token: str) -> str | None:
        """Return a new session for the link's token; None: the token is wrong, or was used."""
        with self._lock:
            if not secrets.compare_digest(token.encode(), self._token.encode()):
                return None
            session = secrets.token_urlsafe(32)
            self._sessions.add(session)
            self.renew()
            return session

    def authorize(self, request: Request) -> Level | None:
        """Return `operate` for a browser that has opened the page with a link."""
        request.state.operator = "loopback"
        known = request.cookies.get(session_cookie(request), "") in self._sessions
        return "operate" if known else None


def session_cookie(request: Request) -> str:
    """Return the name of the session's cookie, which browsers share between ports."""
    return f"mirror_session_{request.url.port or 80}"
