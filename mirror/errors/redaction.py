"""Redaction: texts for logs and messages, without credentials."""

import re

# user:password@ in a URL (up to the last @: passwords may hold others), a libpq or query-string
# password, and Supabase's two kinds of keys.
_SECRET = re.compile(
    r"""(?<=://)[^\s"'<>]*@|(?<=\bpassword=)[^\s&"'<>]+"""
    r"""|\bsb_(?:secret|publishable)_[\w-]+|\beyJ[\w-]+\.[\w-]+\.[\w-]*"""
)


def redact(text: str) -> str:
    """Return `text` without URL credentials and API keys."""
    return _SECRET.sub("…", text)
