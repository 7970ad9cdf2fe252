"""What the answers of a project's API mean to us: PostgREST's codes, and HTTP's where it has none.

The gateway in front and anything in between answer in their own way, often without a code.
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
from mirror.errors.sqlstates import NO_PRIVILEGE, UNKNOWN_ROLE, classify

MISSING = "PGRST202"
"""PostgREST knows no such function: not migrated, or its schema cache is stale."""

_SQLSTATE = re.compile(r"[0-9A-Z]{5}")
_CONSTRAINT = re.compile(r'constraint "([^"]+)"')
_FOREIGN_KEY = (
    "is SUPABASE_SECRET_KEY a secret key (or service_role JWT) of the project in SUPABASE_URL?"
)
# By PostgREST's code, first match wins: our error, and what to say.
_CODES: tuple[tuple[tuple[str, ...], type[MirrorError], str], ...] = (
    # It cannot reach its database, or that has no connection to spare; it failed in itself.
    (("PGRST00", "PGRSTX"), Transient, "its API cannot reach the database"),
    (("PGRST106",), Halted, "its API does not expose the schema public; expose it"),
    ((MISSING,), NotMigrated, "its API does not know our functions; run `mirror migrate supabase`"),
    (("PGRST203",), Halted, "somebody made a function that is called like one of ours; drop it"),
    (("PGRST300",), Halted, "its API has no JWT secret"),
    (("PGRST303",), WrongKey, "the token has expired, or its claims are wrong; sign another"),
    (("PGRST301", "PGRST302"), WrongKey, f"its API refuses the key; {_FOREIGN_KEY}"),
)
# By HTTP status, where the answer has no code that we know.
_STATUSES: dict[int, tuple[type[MirrorError], str]] = {
    401: (WrongKey, f"its API refuses the key; {_FOREIGN_KEY}"),
    404: (Unreachable, "there is no Supabase API at SUPABASE_URL"),
    408: (Transient, "its API did not get the request in time"),
    413: (TooLarge, "its API refuses a call of this size; set MIRROR_REST_BYTES lower"),
    425: (Transient, "its API is not ready"),
    429: (Transient, "its API is busy"),
    540: (Unreachable, "the project is paused; restore it in its dashboard"),
}
# By the first digit of any other.
_CLASSES: dict[int, tuple[type[MirrorError], str]] = {
    3: (Unreachable, "SUPABASE_URL redirects; it must be the project's own URL"),
    5: (Transient, "its API failed"),
}
# One row may be the reason: something in between may dislike what it looks like.
_UNKNOWN: tuple[type[MirrorError], str] = (Unexplained, "an answer that we do not know")


def explain_answer(
    status: int, *, code: str | None = None, message: str | None = None, hint: str | None = None
) -> MirrorError:
    """Return our error for an answer that is none.

    Args:
        status: HTTP's.
        code: PostgREST's or PostgreSQL's, if the body had one.
        message: the same. It is shown only where it cannot hold a row's values.
        hint: the same; shown with errors that our own functions raise.
    """
    code, message = code or "", message or ""
    if _SQLSTATE.fullmatch(code):
        return _from_postgresql(code, message, hint)
    for codes, kind, what in _CODES:
        if code.startswith(codes):
            return kind(f"target: {what} [{code}]")
    kind, what = _STATUSES.get(status) or _CLASSES.get(status // 100, _UNKNOWN)
    # The gateway's own codes, of which there is no list.
    also = f", {code}" if re.fullmatch(r"[A-Z]\w{0,30}", code) else ""
    return kind(f"target: {what} [HTTP {status}{also}]")


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
    named = _CONSTRAINT.search(message)
    return classify(state, message, role="target", hint=hint, culprit=named and named[1])


def no_json(status: int, content_type: str) -> MirrorError:
    """Return our error for a successful answer that holds no JSON, or half of it."""
    if "html" in content_type:
        return Unreachable(
            f"target: a web page answers, no Supabase API; is SUPABASE_URL right? [HTTP {status}]"
        )
    return Transient(f"target: its API's answer is damaged [HTTP {status}]")
