"""Quoting for the SQL that declarations turn into (DDL takes no parameters)."""

from collections.abc import Iterable

from sqlalchemy.dialects import postgresql

_preparer = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]


def identifier(*parts: str) -> str:
    """Return a quoted, dotted name: `public."order"`."""
    return ".".join(_preparer.quote(part) for part in parts)


def literal(value: str) -> str:
    """Return a string literal, whatever standard_conforming_strings says."""
    quoted = "'" + value.replace("'", "''") + "'"
    return f" E{quoted}".replace("\\", "\\\\") if "\\" in value else quoted


def comma(names: Iterable[str]) -> str:
    """Return names quoted and joined."""
    return ", ".join(identifier(name) for name in names)
