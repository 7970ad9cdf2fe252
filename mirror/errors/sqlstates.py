"""SQLSTATEs: translates PostgreSQL's error codes into this library's errors.

It does so for every driver and for REST; no other module has the codes. A caller that treats some
codes in its own way gets the code from `server_error`, and compares it with the names below.
"""

import re
from dataclasses import dataclass
from typing import Final

from mirror.errors import (
    ConfigError,
    Halted,
    LostParent,
    MirrorError,
    NotMigrated,
    NotPaired,
    Rejected,
    TooSlow,
    Transient,
    Unexplained,
    Unreachable,
    UsageError,
    WentBack,
    WrongKey,
    WrongMapping,
    WrongSource,
)
from mirror.errors.redaction import redact

# Raised on purpose by our SQL functions.
_OURS: Final[dict[str, type[MirrorError]]] = {
    "MR001": WrongMapping,
    "MR002": WrongSource,
    "MR003": WentBack,
    "MR010": NotMigrated,
    "MR011": UsageError,
    "MR012": WrongKey,
    "MR013": NotPaired,
    # A fail-over may be under way.
    "MR014": Transient,
    # A migration may be under way.
    "MR015": Transient,
    "MR021": Rejected,
}
MIGRATION_REFUSED: Final = "MR010"
"""Our SQL found a schema that it cannot work with."""
NO_PRIVILEGE: Final = "42501"
"""The role lacks a privilege."""
IN_USE: Final = "2BP01"
"""Other objects depend on the one that a statement drops."""
LOCK_TIMEOUT: Final = "55P03"
"""A statement waited for a lock longer than `lock_timeout`."""
CANNOT_REPLACE: Final = "42P13"
"""A function exists and returns another type."""
UNKNOWN_ROLE: Final = "22023"
"""A setting has an invalid value; one case is a REST token with a role that does not exist."""

_MISSING_OBJECT: Final = frozenset({"3F000", "42P01", "42883"})
OUTDATED: Final = _MISSING_OBJECT | {"42703"}
"""A schema, table, function or column is missing. If the statement names only our own objects, the
database was not migrated, or it was migrated by another version."""

_OUR_OBJECTS = re.compile(
    r"schema \"mirror\"|mirror_\w+|mirror\.(outbox|claims|retries|state|runs|leases|heartbeats"
    r"|migrations|mappings|scopes|claim_\w+|transaction_status|delays|revocations|structures|read_\w+|propose_step|look|pairing|step|ledger_|apply|scope_|withdraw_|open_scopes|purge|rebase|describe"
    r"|admit|examine|flush\w*)"
)
# By SQLSTATE prefix; the first match wins. Each has our error, and a text that replaces
# PostgreSQL's own message where that could contain values of rows.
_MEANINGS: Final[tuple[tuple[tuple[str, ...], type[MirrorError], str | None], ...]] = (
    # One row that somebody has locked may be the cause, as it may be of a statement's time limit.
    (
        ("57014", "53200", "53400", "55P03"),
        TooSlow,
        "a statement ran into a limit of time or memory",
    ),
    # Authentication failed, or the database does not exist.
    (("28", "3D"), Unreachable, None),
    # Connection, resources, operator, system; deadlock, serialization failure, idle timeouts; a
    # server that is read-only during a failover; a session or pooler in a wrong state.
    (("08", "53", "57P", "58", "40001", "40P01", "25", "XX"), Transient, None),
    # Caused by a row's own values: data, integrity, an exception in a user's trigger, a limit.
    (("22",), Rejected, "a value does not fit its type"),
    (("23503",), LostParent, "a row was refused"),
    (("23", "21", "P0", "54"), Rejected, "a row was refused"),
    # A cast that does not support a value (NaN as an integer), or a query that the server refuses.
    (("0A",), Unexplained, None),
    # Missing objects and privileges, syntax: the rows are not the cause.
    (("42", "3F", "MR"), Halted, None),
)
# If the connection goes on, these are a statement's own errors: a foreign table whose server is
# away, a damaged file.
_OF_A_STATEMENT: Final = ("08", "58", "XX")
# Connections, resources, rollbacks by the server, operators. Wider than Transient above: a query
# that only reads may also be repeated after it was cancelled.
_PASSING_CLASSES: Final = ("08", "53", "40", "57")


@dataclass(frozen=True)
class ServerError:
    """An error of PostgreSQL, as a driver reports it."""

    state: str
    """The SQLSTATE; empty if the server sent none (the connection failed, for example)."""
    message: str = ""
    """The primary message; empty if the driver does not have it."""
    hint: str | None = None
    culprit: str | None = None
    """The constraint or table at fault."""
    detail: str | None = None
    """May contain values of rows, except where a statement is refused for the sake of objects."""
    fatal: bool = True
    """The error may have ended the connection. False: the server goes on after this statement."""


def server_error(error: BaseException | None) -> ServerError:
    """Return the fields that PostgreSQL sent with an error, from any driver's exception.

    A field that the exception does not have is empty or None, as ServerError says.
    """
    # psycopg and asyncpg call it sqlstate, psycopg2 pgcode.
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or ""
    # psycopg and psycopg2 keep the rest in `diag`. SQLAlchemy wraps asyncpg's own error, which has
    # it as attributes.
    details = getattr(error, "diag", None) or getattr(error, "__cause__", None)
    return ServerError(
        state,
        getattr(details, "message_primary", None) or getattr(details, "message", None) or "",
        getattr(details, "message_hint", None) or getattr(details, "hint", None),
        getattr(details, "constraint_name", None) or getattr(details, "table_name", None),
        getattr(details, "message_detail", None) or getattr(details, "detail", None),
        getattr(details, "severity_nonlocalized", None) != "ERROR",
    )


def may_be_repeated(state: str) -> bool:
    """Return whether a query that only reads may succeed if it is repeated after this SQLSTATE."""
    return state.startswith(_PASSING_CLASSES)


def classify(
    state: str, message: str, *, role: str, hint: str | None = None, culprit: str | None = None
) -> MirrorError:
    """Return, without raising it, our error for one of PostgreSQL's.

    Its message contains no values of rows. PostgreSQL puts those into DETAIL and CONTEXT, which are
    not passed here, and into the primary messages of classes 22 and 23, which are replaced.

    Args:
        state: the SQLSTATE.
        message: PostgreSQL's primary message.
        role: the database that raised it (`primary`, `target`).
        hint: PostgreSQL's hint; shown with errors that our functions raise.
        culprit: the constraint or table at fault, if it is known.
    """
    if state in _OURS:
        return _OURS[state](redact(f"{role}: {message}" + (f". {hint}" if hint else "")))
    if state in _MISSING_OBJECT and _OUR_OBJECTS.search(message):
        command = "primary" if role == "primary" else "supabase"
        return NotMigrated(f"{role}: {message} [{state}]; run `mirror migrate {command}`")
    for prefixes, error, replacement in _MEANINGS:
        if state.startswith(prefixes):
            where = f" ({culprit})" if culprit and issubclass(error, Rejected) else ""
            return error(f"{role}: {replacement or redact(message)} [{state}]{where}")
    return Unexplained(f"{role}: an error that we do not know [{state}]")


def translate(error: BaseException, role: str) -> MirrorError:
    """Return, without raising it, our error for one of psycopg's.

    `role` names the database in the message, which contains no values of rows.
    """
    found = server_error(error)
    if found.state.startswith(_OF_A_STATEMENT) and not found.fatal:
        return Unexplained(f"{role}: {redact(found.message)} [{found.state}]")
    if found.state:
        return classify(
            found.state, found.message, role=role, hint=found.hint, culprit=found.culprit
        )
    # Compared by name, because a backend may not have psycopg.
    if type(error).__name__ == "DataError":
        # For example a timestamp after the year 9999. The message contains the value.
        return Rejected(f"{role}: the driver cannot read or write a value")
    if {kind.__name__ for kind in type(error).__mro__} & {"OperationalError", "InterfaceError"}:
        reason = (str(error).strip() or "no answer").splitlines()[0]
        return Unreachable(f"{role}: the database cannot be reached ({redact(reason)})")
    return ConfigError(
        f"{role}: the database's URL is malformed; percent-encode special characters in its parts"
    )
