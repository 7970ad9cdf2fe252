"""Running: runs our SQL scripts over any driver of SQLAlchemy, with its errors translated."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, CursorResult
from sqlalchemy.exc import DBAPIError

from mirror.errors import MirrorError, NotMigrated, Transient
from mirror.errors.sqlstates import (
    CANNOT_REPLACE,
    LOCK_TIMEOUT,
    MIGRATION_REFUSED,
    NO_PRIVILEGE,
    server_error,
    translate,
)
from mirror.schema.sides import ROLE, Side

_TOKEN = re.compile(
    r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|(\$\w*\$).*?\1|;", re.DOTALL
)


def statements(script: str) -> Iterator[str]:
    """Yield the statements of one of our SQL scripts, split at the semicolons that end them.

    Some drivers (asyncpg) take one statement at a time.
    """
    start = 0
    for found in _TOKEN.finditer(script):
        if found.group() == ";":
            yield script[start : found.end()].strip()
            start = found.end()
    if script[start:].strip():
        yield script[start:].strip()


def run(connection: Connection, statement: str) -> CursorResult[Any]:
    """Run one statement without parameters, so that `%` and `:` have no special meaning in it."""
    return connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


@contextmanager
def translated(side: Side) -> Iterator[None]:
    """Raise our own error in place of a driver's.

    Of psycopg, every error is translated; of other drivers, only a migration that our SQL refuses,
    a function that cannot be replaced and a missing privilege.
    """
    try:
        yield
    except DBAPIError as error:
        ours = _translation(error.orig, ROLE[side])
        if ours is None:
            raise
        raise ours from error


def _translation(error: BaseException | None, role: str) -> MirrorError | None:
    """Return our error for a driver's; None if it is not one that is translated."""
    found = server_error(error)
    hint = found.hint
    if found.state == NO_PRIVILEGE:
        hint = "Migrate as the role that owns the database; on Supabase, as postgres."
    if found.state == CANNOT_REPLACE:
        hint = (
            "A helper of an earlier version returns another type, and policies may call it: give "
            "the access declaration another noun or name."
        )
    if found.state in {MIGRATION_REFUSED, NO_PRIVILEGE, CANNOT_REPLACE}:
        return NotMigrated(f"{role}: {found.message or error}" + (f". {hint}" if hint else ""))
    if found.state == LOCK_TIMEOUT:
        return Transient(f"{role}: another transaction uses a table [{LOCK_TIMEOUT}]; try again.")
    if error is not None and type(error).__module__.partition(".")[0] == "psycopg":
        return translate(error, role)
    return None
