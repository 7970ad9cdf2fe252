"""Examination: looks at both databases before `mirror migrate` changes either of them.

A migration that notices too late that it is in the wrong database has changed it by then. So the
command asks both first: is each a Supabase project, whose history of migrations does it hold, and
are the two one and the same database?
"""

import secrets
from collections.abc import Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from mirror.errors import ConfigError, MirrorError, NotMigrated
from mirror.schema.connecting import FIELD, migrating
from mirror.schema.migrate import check_history, check_version, history, names_of
from mirror.schema.running import translated
from mirror.schema.sides import ROLE, VARIABLE, Side
from mirror.settings import Settings

_SIDES: tuple[Side, Side] = ("primary", "supabase")
_QUICK_SECONDS = 3
"""How long a side may take to connect, and to answer, that is only looked at."""

# Not to_regprocedure(): it fails where the role may not use a schema `auth` of another program.
_PROJECT = """
    select (
      select count(*) = 3 from pg_roles
      where rolname in ('anon', 'authenticated', 'service_role')
    ) and exists (
      select from pg_proc as p
      join pg_namespace as n on n.oid = p.pronamespace
      where n.nspname = 'auth' and p.proname = 'uid' and p.pronargs = 0
    )
"""
_NO_PROJECT = "no Supabase project: auth.uid() or its roles are missing"


@dataclass(frozen=True)
class _Look:
    """The answers of one database."""

    connection: Connection
    project: bool
    """It has what a Supabase project has."""
    names: Collection[str]
    """The names in its history of migrations."""


def examine(settings: Settings, touched: Collection[Side]) -> None:
    """Look at the databases, and refuse them if they cannot be the two sides; change nothing.

    `touched` are the sides that are to be migrated. The other one is looked at if its URL is set;
    if it does not answer soon, that is no error.

    Raises:
        ConfigError: the URLs are swapped, or lead to one database; or one of `touched` is not set.
        ServerTooOld: a touched side's PostgreSQL is too old.
        NotMigrated: a touched side holds the other side of the mirror, or the target is no project.
        MirrorError: a touched side does not answer, or reports another error.
    """
    with ExitStack() as opened:
        found = {
            side: look
            for side in _SIDES
            if (look := _look(opened, settings, side, needed=side in touched)) is not None
        }
        if len(found) == len(_SIDES):
            _check_pair(found["primary"], found["supabase"])
        for side in touched:
            check_version(found[side].connection, side)
            check_history(found[side].names, side)
        if "supabase" in touched and not found["supabase"].project:
            raise NotMigrated(
                f"{ROLE['supabase']}: this database is {_NO_PROJECT}. Point {VARIABLE['supabase']} "
                f"at the project's own database, as role postgres; nothing was changed."
            )


def _look(opened: ExitStack, settings: Settings, side: Side, *, needed: bool) -> _Look | None:
    """Look at one database; None if it is not needed, and has no URL or no quick answer.

    The connection stays open, in a transaction, until `opened` closes.
    """
    if needed:
        connection = opened.enter_context(migrating(settings, side))
        with translated(side):
            return _read(connection)
    if getattr(settings, FIELD[side]) is None:
        return None
    with suppress(MirrorError, DBAPIError), ExitStack() as own:
        look = _read(own.enter_context(migrating(settings, side, seconds=_QUICK_SECONDS)))
        opened.enter_context(own.pop_all())
        return look
    return None


def _read(connection: Connection) -> _Look:
    project = bool(connection.scalar(text(_PROJECT)))
    return _Look(connection, project, history(connection) or {})


def _check_pair(primary: _Look, target: _Look) -> None:
    """Refuse two databases that are one, or that look swapped.

    The primary may be a Supabase project, too. But then the target has to be one as well.
    """
    both = f"{VARIABLE['primary']} and {VARIABLE['supabase']}"
    if _are_one(primary.connection, target.connection):
        raise ConfigError(
            f"{both} lead to the same database; the mirror needs two. Correct the one that is "
            f"wrong; nothing was changed."
        )
    wrong_primary, wrong_target = (
        names_of("supabase", primary.names),
        names_of("primary", target.names),
    )
    if wrong_primary and wrong_target:
        raise ConfigError(
            f"{both} are swapped: {VARIABLE['primary']} leads to a database that holds the "
            f"target's side of the mirror ({', '.join(wrong_primary)}), {VARIABLE['supabase']} to "
            f"one that holds the primary's ({', '.join(wrong_target)}). Swap them; nothing was "
            f"changed."
        )
    if primary.project and not target.project:
        raise ConfigError(
            f"{both} look swapped: {VARIABLE['supabase']} leads to {_NO_PROJECT}; "
            f"{VARIABLE['primary']} leads to a Supabase project. Swap them, or correct "
            f"{VARIABLE['supabase']}; nothing was changed."
        )


def _are_one(one: Connection, other: Connection) -> bool:
    """Return whether two connections, each in a transaction, lead to the same database.

    No address or identifier decides that: one database has many addresses, and a copy has the
    original's identifiers. But an advisory lock is known to one database of one running server, and
    a lock of a transaction also holds behind a pooler. Its number is random, so no other session
    has it.
    """
    number = {"number": secrets.randbits(63)}
    one.execute(text("select pg_advisory_xact_lock(:number)"), number)
    return not other.scalar(text("select pg_try_advisory_xact_lock(:number)"), number)
