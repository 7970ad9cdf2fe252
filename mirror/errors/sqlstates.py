"""What PostgreSQL's error codes mean to us, however they reach us: by driver or by REST."""

import re
from typing import TYPE_CHECKING

from mirror.errors import (
    ConfigError,
    Halted,
    MirrorError,
    NotMigrated,
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

if TYPE_CHECKING:
    import psycopg

# Raised on purpose by our SQL functions.
_OURS: dict[str, type[MirrorError]] = {
    "MR001": WrongMapping,
    "MR002": WrongSource,
    "MR003": WentBack,
    "MR010": NotMigrated,
    "MR011": UsageError,
    "MR012": WrongKey,
}
_OUR_OBJECTS = re.compile(
    r"schema \"mirror\"|mirror_\w+|mirror\.(outbox|claims|retries|state|runs|leases|heartbeats"
    r"|migrations|mappings|scopes|ledger_|apply|scope_|withdraw_|open_scopes|purge|rebase|describe"
    r"|admit|examine)"
)
# By SQLSTATE prefix, first match wins: our error, and what to say where PostgreSQL's own message
# could hold a row's values.
_MEANINGS: tuple[tuple[tuple[str, ...], type[MirrorError], str | None], ...] = (
    (("57014", "53200", "53400"), TooSlow, "a statement ran into a limit of time or memory"),
    # Authentication, no such database.
    (("28", "3D"), Unreachable, None),
    # Connection, resources, operator, system; deadlock, serialization, lock and idle timeouts;
    # a server that is read-only while it fails over; a session or a pooler that lost its way.
    (("08", "53", "57P", "58", "40001", "40P01", "55P03", "25", "XX"), Transient, None),
    # What a row's own values can cause: data, integrity, a raise in somebody's trigger, a limit.
    (("22",), Rejected, "a value does not fit its type"),
    (("23", "21", "P0", "54"), Rejected, "a row was refused"),
    # Missing objects and rights, syntax: no row's fault.
    (("42", "3F", "0A", "MR"), Halted, None),
)


def explain(
    state: str, told: str, *, role: str, hint: str | None = None, culprit: str | None = None
) -> MirrorError:
    """Return our error for one of PostgreSQL's.

    The message holds no values of rows: PostgreSQL puts those into DETAIL and CONTEXT, which
    never come here, and into the primary message of class 22, which is replaced.

    Args:
        state: the SQLSTATE.
        told: PostgreSQL's primary message.
        role: the database that said it (`primary`, `target`).
        hint: PostgreSQL's hint; shown with errors that our functions raise.
        culprit: the constraint or table at fault, if it was named.
    """
    if state in _OURS:
        return _OURS[state](f"{role}: {told}" + (f". {hint}" if hint else ""))
    if state in {"3F000", "42P01", "42883"} and _OUR_OBJECTS.search(told):
        command = "primary" if role == "primary" else "supabase"
        return NotMigrated(f"{role}: {told} [{state}]; run `mirror migrate {command}`")
    for states, kind, what in _MEANINGS:
        if state.startswith(states):
            where = f" ({culprit})" if culprit and kind is Rejected else ""
            return kind(f"{role}: {what or redact(told)} [{state}]{where}")
    return Unexplained(f"{role}: an error that we do not know [{state}]")


def translate(error: "psycopg.Error", role: str) -> MirrorError:
    """Return our error for psycopg's, without values of rows; `role` names the database."""
    state = error.sqlstate or ""
    # Told by name: a backend that migrates with another driver need not have psycopg.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if not state and kinds & {"OperationalError", "InterfaceError"}:
        reason = (str(error).strip() or "no answer").splitlines()[0]
        return Unreachable(f"{role}: the database cannot be reached ({redact(reason)})")
    if not state:
        return ConfigError(f"{role}: the database's URL is malformed; percent-encode what it holds")
    said = error.diag
    return explain(
        state,
        said.message_primary or "",
        role=role,
        hint=said.message_hint,
        culprit=said.constraint_name or said.table_name,
    )
