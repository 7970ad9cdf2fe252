"""Quoting for the SQL that declarations turn into (DDL takes no parameters)."""

import re
from collections.abc import Iterable

from sqlalchemy.dialects.postgresql.base import RESERVED_WORDS

from mirror.errors import MappingError

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
# What SQLAlchemy's list lacks of the words that cannot name a column.
_RESERVED = RESERVED_WORDS | {"collation", "concurrently", "lateral", "system_user", "tablesample"}
_LONGEST = 63


def identifier(*parts: str) -> str:
    """Return a dotted name, quoted where PostgreSQL needs it: `public."order"`.

    Raises:
        MappingError: a part is longer than PostgreSQL keeps; it would be cut to what may be the
            name of something else.
    """
    for part in parts:
        if len(part.encode()) > _LONGEST:
            raise MappingError(
                f"the name {part!r} is longer than the {_LONGEST} bytes that PostgreSQL keeps; "
                f"shorten the names it is made of."
            )
    return ".".join(_quoted(part) for part in parts)


def _quoted(name: str) -> str:
    if _PLAIN.fullmatch(name) and name not in _RESERVED:
        return name
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """Return a string literal, whatever standard_conforming_strings says."""
    quoted = "'" + value.replace("'", "''") + "'"
    return f" E{quoted}".replace("\\", "\\\\") if "\\" in value else quoted


def comma(names: Iterable[str]) -> str:
    """Return names quoted and joined."""
    return ", ".join(identifier(name) for name in names)
