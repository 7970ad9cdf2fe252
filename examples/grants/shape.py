"""The only door to Electric: every client gets the rights of its own user, whatever it asks for.

Electric itself asks nobody who they are, so it must not be reachable but from here. What a shape is
(its table, its rows, its columns) is decided here; the client says only how far it has read.
"""

from collections.abc import Iterable
from urllib.parse import urlencode
from uuid import UUID

_HOW_FAR = {"offset", "handle", "live", "live_sse", "cursor", "expired_handle", "log"}


def shape_url(electric: str, secret: str, caller: UUID, asked: Iterable[tuple[str, str]]) -> str:
    """Return where to fetch the answer to a client's request for `user_permissions`.

    `electric` is the server's address, `caller` the subject of a token that was verified, `asked`
    the names and values of the client's query. Hand body and status on, and the headers but
    content-encoding and content-length.
    """
    pinned = [
        ("table", "user_permissions"),
        ("where", "user_id = $1"),
        ("params[1]", str(caller)),
        ("secret", secret),
    ]
    return f"{electric}/v1/shape?{urlencode([(n, v) for n, v in asked if n in _HOW_FAR] + pinned)}"
