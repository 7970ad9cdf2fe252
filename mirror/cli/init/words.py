"""Words: the names by which `mirror init` recognises tables and columns."""

import re
from collections.abc import Sequence
from typing import Final

USERS: Final = ("users", "user", "accounts", "account", "profiles", "profile", "people")
MEMBERS: Final = re.compile(r"member|participant|collaborat|enrol|access|share|role|grant|guest")
USER_COLUMNS: Final = (
    "user_id",
    "member_id",
    "participant_id",
    "account_id",
    "profile_id",
    "person_id",
)
# Such a column says which user did something to the row, not which user the row is about.
BY: Final = re.compile(r"_by(_id)?$|^(creator|inviter|author|granter)(_id)?$")
OWNERS: Final = ("owner_id", "user_id", "owner", "creator_id", "created_by", "author_id")
SENDERS: Final = ("sender_id", "author_id", "user_id", "owner_id", "created_by", "creator_id")
ROLES: Final = ("role", "level", "permission", "access_level", "permission_level", "access", "rank")
STATUSES: Final = ("status", "state", "membership_status")
ACTIVE: Final = ("active", "accepted", "confirmed", "approved", "joined", "enabled")
# NULL, or false: the row counts.
GONE: Final = re.compile(
    r"(is_)?(deleted|removed|revoked|disabled|deactivated|banned|suspended|blocked|left|ended)"
    r"(_at|_on)?"
)
# True: the row counts.
ENABLED: Final = re.compile(r"(is_)?(active|enabled|accepted)")
EXPIRES: Final = ("expires_at", "expires", "expires_on", "valid_until", "expiry", "ends_at")
NAMES: Final = ("name", "title", "username", "display_name", "full_name", "nickname", "handle")
# The id of a user in Supabase Auth, and in other services that issue tokens.
AUTH_IDS: Final = (
    "supabase_id",
    "supabase_user_id",
    "supabase_uid",
    "supabase_auth_id",
    "auth_id",
    "auth_user_id",
    "auth_uid",
    "auth_uuid",
)
SUBJECTS: Final = (
    "clerk_id",
    "clerk_user_id",
    "auth0_id",
    "auth0_sub",
    "firebase_uid",
    "firebase_id",
    "workos_id",
    "sub",
    "subject",
    "external_id",
    "external_auth_id",
)
# From weakest to strongest; those in one place are as strong as each other.
_RANKS: Final = (
    ("guest", "anonymous"),
    ("viewer", "reader", "read", "read_only", "readonly", "spectator", "observer"),
    ("commenter", "comment"),
    ("member", "user", "client", "participant", "player", "student", "follower"),
    ("contributor", "editor", "write", "writer", "author", "collaborator"),
    ("moderator", "lawyer", "teacher", "instructor", "dm"),
    ("manager", "maintainer", "lead"),
    ("admin", "administrator", "organizer", "organiser"),
    ("owner", "creator", "superadmin", "super_admin"),
)
_READING: Final = 2
"""The number of places in it whose roles only read."""


def snake(name: str) -> str:
    """Return a name in lower case, its words separated by underscores: `client_id`."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"\W+", "_", parted).strip("_").lower()


def singular(name: str) -> str:
    """Return the singular of an English noun in snake case; guessed, so a flag can correct it."""
    for ending, instead in (
        ("ies", "y"),
        ("sses", "ss"),
        ("xes", "x"),
        ("ches", "ch"),
        ("shes", "sh"),
    ):
        if name.endswith(ending):
            return name.removesuffix(ending) + instead
    return name.removesuffix("s") if not name.endswith("ss") else name


def weakest_writer(levels: Sequence[str]) -> str:
    """Return the weakest role that is no reader's by its name; if all are, the strongest."""
    reading = {name for names in _RANKS[:_READING] for name in names}
    return next((level for level in levels if snake(level) not in reading), levels[-1])


def by_strength(values: Sequence[str]) -> tuple[str, ...] | None:
    """Return roles from weakest to strongest; None: one of them is unknown, or two are equal."""
    ranks: dict[str, int] = {}
    for value in values:
        rank = next((n for n, names in enumerate(_RANKS) if snake(value) in names), None)
        if rank is None or rank in ranks.values():
            return None
        ranks[value] = rank
    return tuple(sorted(ranks, key=ranks.__getitem__))
