"""REST errors: translates an error answer of a project's API into one of our errors.

PostgREST sends a code. The gateway before it, and any proxy on the way, answer in their own
formats, often without a code; then the HTTP status decides.
"""

import re

from mirror.errors import (
    Halted,
    MirrorError,
    NotMigrated,
    TooLarge,
    Transient,
    Unexplained,
    Unreachable,
    WrongKey,
)
from mirror.errors.redaction import redact
from mirror.errors.sqlstates import NO_PRIVILEGE, UNKNOWN_ROLE, classify
from mirror.sync.targets.damage import DAMAGED

MISSING = "PGRST202"
"""PostgREST does not know the function: not migrated, or its schema cache is stale."""

_SQLSTATE = re.compile(r"[0-9A-Z]{5}")
_CONSTRAINT = re.compile(r'constraint "([^"]+)"')
_FOREIGN_KEY = (
    "is SUPABASE_SECRET_KEY a secret key (or service_role JWT) of the project in SUPABASE_URL?"
)
# By the start of PostgREST's code, first match wins: our error, and its text.
_CODES: tuple[tuple[tuple[str, ...], type[MirrorError], str], ...] = (
    # PostgREST cannot reach the database, gets no connection from it, or failed internally.
    (("PGRST00", "PGRSTX"), Transient, "its API cannot reach the database"),
    (("PGRST106",), Halted, "its API does not expose the schema public; expose it"),
    ((MISSING,), NotMigrated, "its API does not know our functions; run `mirror migrate supabase`"),
    (("PGRST203",), Halted, "another function has the name of one of ours; drop that one"),
    (("PGRST205",), Halted, "a table that one of its functions needs is missing"),
    (("PGRST300",), Halted, "its API has no JWT secret"),
    (("PGRST303",), WrongKey, "the token has expired, or its claims are wrong; sign another"),
    (("PGRST301", "PGRST302"), WrongKey, f"its API refuses the key; {_FOREIGN_KEY}"),
)
# By HTTP status, for answers without a known code.
_STATUSES: dict[int, tuple[type[MirrorError], str]] = {
    401: (WrongKey, f"its API refuses the key; {_FOREIGN_KEY}"),
    404: (Unreachable, "there is no Supabase API at SUPABASE_URL"),
    408: (Transient, "its API did not receive the request in time"),
    413: (TooLarge, "its API refuses a call of this size; set MIRROR_REST_BYTES lower"),
    425: (Transient, "its API is not ready"),
    429: (Transient, "its API is busy"),
    540: (Unreachable, "the project is paused; restore it in its dashboard"),
}
# By the first digit of other statuses.
_CLASSES: dict[int, tuple[type[MirrorError], str]] = {
    3: (Unreachable, "SUPABASE_URL redirects; it must be the project's own URL"),
    5: (Transient, "its API failed"),
}
# One row may be the cause: a firewall on the way may refuse its content.
_UNKNOWN: tuple[type[MirrorError], str] = (Unexplained, "its API gave an unknown answer")


def explain_answer(
    status: int, *, code: str | None = None, message: str | None = None, hint: str | None = None
) -> MirrorError:
    """Return our error for an error answer.

    Args:
        status: the HTTP status.
        code: the code of PostgREST or PostgreSQL, if the body had one.
        message: likewise. Shown only where it cannot contain a row's values.
        hint: likewise. Shown with errors that our own functions raise.
    """
    code, message = code or "", message or ""
    if _SQLSTATE.fullmatch(code):
        return _from_postgresql(code, message, hint)
    for codes, kind, text in _CODES:
        if code.startswith(codes):
            return kind(f"target: {text} [{code}]")
    kind, text = _STATUSES.get(status) or _CLASSES.get(status // 100, _UNKNOWN)
    # A code of the gateway's own; there is no list of them.
    suffix = f", {code}" if re.fullmatch(r"[A-Z]\w{0,30}", code) else ""
    return kind(f"target: {text} [HTTP {status}{suffix}]")


def _from_postgresql(state: str, message: str, hint: str | None) -> MirrorError:
    if state == NO_PRIVILEGE and "function mirror_" in message:
        return WrongKey(
            "target: the key may not call the mirror's functions: a publishable (anon) key or a "
            "user's token may not. Take a secret key, or a token of mirror_writer [42501]"
        )
    if state == UNKNOWN_ROLE and message.startswith('role "'):
        return NotMigrated(
            "target: the token's role does not exist there; run `mirror migrate supabase` [22023]"
        )
    if state.startswith(("58", "XX")):
        # PostgREST has an answer, so its connection goes on: a statement's own error.
        return Unexplained(f"target: {redact(message)} [{state}]")
    constraint = _CONSTRAINT.search(message)
    return classify(state, message, role="target", hint=hint, culprit=constraint and constraint[1])


def no_json(status: int, content_type: str) -> MirrorError:
    """Return our error for a successful answer whose body is not JSON, or only the start of it."""
    if "html" in content_type:
        return Unreachable(
            f"target: SUPABASE_URL leads to a web page; is SUPABASE_URL right? [HTTP {status}]"
        )
    return Transient(f"{DAMAGED} [HTTP {status}]")
