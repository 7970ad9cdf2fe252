"""Shape: the only way to Electric, which gives each client the rights of its own user.

Electric does not authenticate users, so it must not be reachable except through this proxy. The
proxy decides the table, rows and columns of a shape; the client says only how far it has read.
"""

from collections.abc import Iterable
from urllib.parse import urlencode
from uuid import UUID

_POSITION_PARAMETERS = {"offset", "handle", "live", "live_sse", "cursor", "expired_handle", "log"}


def shape_url(electric: str, secret: str, caller: UUID, asked: Iterable[tuple[str, str]]) -> str:
    """Return the URL that answers a client's request for `user_permissions`.

    `electric` is the server's URL, `caller` the subject of a verified token, `asked` the parameters
    of the client's query. Pass on body, status and headers of the answer, except content-encoding
    and content-length.
    """
    position = [(name, value) for name, value in asked if name in _POSITION_PARAMETERS]
    pinned = [
        ("table", "user_permissions"),
        ("where", "user_id = $1"),
        ("params[1]", str(caller)),
        ("secret", secret),
    ]
    return f"{electric}/v1/shape?{urlencode(position + pinned)}"
