"""Redaction: removes credentials from texts for logs and messages."""

import re

# user:password@ in a URL (up to the last @, because a password may contain one), a password in a
# libpq or query string, and the two kinds of Supabase keys.
_SECRET = re.compile(
    r"""(?<=://)[^\s"'<>]*@|(?<=\bpassword=)[^\s&"'<>]+"""
    r"""|\bsb_(?:secret|publishable)_[\w-]+|\beyJ[\w-]+\.[\w-]+\.[\w-]*"""
)


def redact(text: str) -> str:
    """Return `text` with each API key and the credentials of each URL replaced by `…`."""
    return _SECRET.sub("…", text)
