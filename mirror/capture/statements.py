"""Statements: the library's SQL on the primary's schema `mirror`, by title.

The text, its comments and the kinds of placeholders are in `statements.sql`.
"""

import re
from functools import cache
from pathlib import Path

_TITLE = re.compile(r"^-- (\w+) --\n", re.MULTILINE)
_COMMENT = re.compile(r"^ *--.*\n?", re.MULTILINE)


def statement(title: str) -> str:
    """Return one statement, without its comments and without a semicolon at the end.

    Raises:
        LookupError: the file has no statement of this title.
    """
    text = _statements().get(title)
    if text is None:
        raise LookupError(f"statements.sql has no statement titled {title!r}.")
    return text


@cache
def _statements() -> dict[str, str]:
    """Return the file's statements by title; it is read once per process."""
    text = Path(__file__).with_name("statements.sql").read_text(encoding="utf-8")
    _, *parts = _TITLE.split(text)
    return {
        title: _COMMENT.sub("", body).strip()
        for title, body in zip(parts[::2], parts[1::2], strict=True)
    }
