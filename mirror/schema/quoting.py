"""Quoting: quotes identifiers and literals in SQL that is printed.

Statements that psycopg runs are composed with `psycopg.sql` instead: the driver quotes their
identifiers, and text and values cannot be mixed up. Printed SQL needs functions of its own:

- A backend prints SQL in Alembic revisions, and it may have another driver than psycopg.
- People read and review the text, so a name has quotes only where it needs them. Deployed
  databases know the text by its checksum, so this rule cannot change.
- A name that PostgreSQL would shorten must be refused.
"""

import re
from collections.abc import Iterable

from sqlalchemy.dialects.postgresql.base import RESERVED_WORDS

from mirror.errors import MappingError

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
# Further words that cannot name a column; SQLAlchemy's list lacks them.
_RESERVED = RESERVED_WORDS | {"collation", "concurrently", "lateral", "system_user", "tablesample"}
LONGEST = 63
"""How many bytes of an identifier PostgreSQL keeps."""


def identifier(*parts: str) -> str:
    """Return the parts as a dotted name, quoted where PostgreSQL needs it: `public."order"`.

    Raises:
        MappingError: a part is longer than PostgreSQL's limit. PostgreSQL would cut it, and the
            result could be the name of something else.
    """
    for part in parts:
        if len(part.encode()) > LONGEST:
            raise MappingError(
                f"the name {part!r} is longer than the {LONGEST} bytes that PostgreSQL keeps; "
                f"shorten the names it is made of."
            )
    return ".".join(_quoted(part) for part in parts)


def _quoted(name: str) -> str:
    if _PLAIN.fullmatch(name) and name not in _RESERVED:
        return name
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """Return a string literal that is correct with either value of standard_conforming_strings."""
    quoted = "'" + value.replace("'", "''") + "'"
    return f" E{quoted}".replace("\\", "\\\\") if "\\" in value else quoted


def comma(names: Iterable[str], before: str = "", after: str = "") -> str:
    """Return names quoted where needed and joined by commas: `t.a::text, t.b::text`.

    `before` and `after` are put before and after every name; here, `t.` and `::text`.
    """
    return ", ".join(f"{before}{identifier(name)}{after}" for name in names)
