"""Shape: the proxy in front of Electric, which lets each client sync the rights of its own user.

Electric does not authenticate users, so clients must reach it only through this proxy. Electric
calls the data that a client syncs a shape. The proxy decides the table, rows and columns of a
shape; the client says only how far it has read.
"""

from collections.abc import Iterable
from urllib.parse import urlencode
from uuid import UUID

_POSITION_PARAMETERS = {"offset", "handle", "live", "live_sse", "cursor", "expired_handle", "log"}


def shape_url(electric: str, secret: str, caller: UUID, asked: Iterable[tuple[str, str]]) -> str:
    """Return the URL of Electric to fetch in order to answer a client's request.

    `electric` is the server's URL, `secret` its API secret, `caller` the subject of a verified
    token, `asked` the parameters of the client's query. Give the client body, status and headers of
    Electric's answer, except content-encoding and content-length.
    """
    position = [(name, value) for name, value in asked if name in _POSITION_PARAMETERS]
    pinned = [
        ("table", "user_permissions"),
        ("where", "user_id = $1"),
        ("params[1]", str(caller)),
        ("secret", secret),
    ]
    return f"{electric}/v1/shape?{urlencode(position + pinned)}"
