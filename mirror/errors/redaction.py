"""Redaction: removes credentials from texts for logs and messages."""

import re

# The password in a libpq or query string, and the two kinds of Supabase keys. A JWT is three parts
# in base64, of which the first is JSON: its `{` is printed as `e` and one of three letters.
_SECRET = re.compile(
    r"""(?<=\bpassword=)[^\s&"'<>]+|\bsb_(?:secret|publishable)_[^\s"'<>]+"""
    r"""|(?<![\w-])e[wy3][\w-]+\.[\w-]+\.[\w-]*"""
)
# What follows `://`, and a quoted word with an @, such as a host in which libpq left a part of a
# password. Each is taken as a whole, so that the time stays linear.
_ADDRESS = re.compile(r"""(?<=://)[^\s"'<>]+|(?<=['"])[^\s"'<>]+(?=['"])""")


def redact(text: str) -> str:
    """Return `text` with each API key and the credentials of each URL replaced by `…`.

    The credentials of a URL end at its last @, because a password may contain one.
    """
    return _SECRET.sub("…", _ADDRESS.sub(_without_credentials, text))


def _without_credentials(found: re.Match[str]) -> str:
    _, at, address = found[0].rpartition("@")
    return f"…{at}{address}" if at else found[0]
