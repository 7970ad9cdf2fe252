"""Redaction: prepares texts for logs, messages and terminals.

A writer of the outbox, or a user who names a table, decides on some of them.
"""

import re
from typing import Final

# The password in a libpq or query string, and the two kinds of Supabase keys. A JWT is three parts
# in base64, of which the first is JSON: its `{` is printed as `e` and one of three letters.
_SECRET = re.compile(
    r"""(?<=\bpassword=)(?:'(?:[^'\\]|\\.)*'|[^\s&"'<>]+)|\bsb_(?:secret|publishable)_[^\s"'<>]+"""
    r"""|(?<![\w-])(?:eyJ[\w-]+|e[wy3][\w-]{14,})\.[\w-]+\.[\w-]*"""
)
# The text behind `://`, and a quoted word with an @, such as a host in which libpq left a part of a
# password. Each is taken as a whole, so that the time stays linear.
_ADDRESS = re.compile(r"""(?<=://)[^\s"'<>]+|(?<=['"])[^\s"'<>]+(?=['"])""")

# How much is kept of a longer text: its beginning, and its end, where messages name a remedy.
_HEAD: Final = 1500
_TAIL: Final = 500


def redact(text: str) -> str:
    """Return `text` with each API key and the credentials of each URL replaced by `…`.

    The credentials of a URL end at its last @, because a password may contain one.
    """
    # Mostly there is nothing to look for, and to see that takes a fraction of a search.
    if "@" in text:
        text = _ADDRESS.sub(_without_credentials, text)
    if "password=" in text or "sb_" in text or "." in text:
        text = _SECRET.sub("…", text)
    return text


def _without_credentials(found: re.Match[str]) -> str:
    _, at, address = found[0].rpartition("@")
    return f"…{at}{address}" if at else found[0]


def one_line(text: str) -> str:
    """Return `text` for one line of a log or of a terminal.

    It has no credentials. Each character that cannot be printed, or that changes how others are
    printed (newlines, escape sequences, bidirectional controls), is replaced by its escape. If it
    is longer than a long message, its middle is left out.
    """
    text = redact(text)
    if len(text) > _HEAD + _TAIL:
        text = f"{text[:_HEAD]} … {len(text) - _HEAD - _TAIL} characters … {text[-_TAIL:]}"
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
