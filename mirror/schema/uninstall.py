"""Uninstall: removes one side of the mirror from a database.

The statements name each object that goes, and none has CASCADE: if an object of the user's uses one
of these, PostgreSQL refuses, even if the printed statements run much later. `plan_removal` finds
these objects before that.
"""

from dataclasses import dataclass
from textwrap import wrap

from sqlalchemy import Connection, text

from mirror.errors import NotMigrated, UsageError
from mirror.schema.installed import (
    Installed,
    Item,
    callers_of,
    read_installed,
    users_of,
    writer_stays,
)
from mirror.schema.migrate import lock_migrations
from mirror.schema.quoting import literal
from mirror.schema.running import run, statements, translated
from mirror.schema.sides import ROLE, Side
from mirror.schema.triggers import lock_sql

# Each process writes its heartbeat every half minute, and one of an earlier version once a minute.
_RUNNING = """
    select distinct split_part(name, '@', 1) as part from mirror.heartbeats
    where seen_at > now() - interval '2 minutes' order by part
"""
_PARTS = {
    "drain": "a worker",
    "sweep": "beat",
    "relay": "a relay",
    "run": "`mirror run`",
    "purge": "a purge",
}


@dataclass(frozen=True)
class Removal:
    """The statements that remove one side of the mirror, and what follows from them."""

    notes: list[str]
    """Sentences for the user."""
    statements: list[str]
    """To be run in one transaction, in this order; empty if nothing is installed. One text may hold
    several statements of one kind."""

    @property
    def script(self) -> str:
        """The statements, after the notes as comments."""
        lines = [line for note in self.notes for line in wrap(note, 96, break_on_hyphens=False)]
        header = "\n".join(f"-- {line}" for line in lines)
        return "\n\n\n".join([header, *self.statements]) + "\n"


def plan_removal(
    connection: Connection, side: Side, *, tables: bool = False, force: bool = False
) -> Removal:
    """Return the statements that remove one side of the mirror from this database; change nothing.

    `tables` also drops the mirrored tables, with their rows. `force` plans the removal even if
    events wait, processes of the mirror run, or functions of the user's call those that go.

    Raises:
        UsageError: without `force`, one of these is the case.
        NotMigrated: objects of the user's would break; the message names them. Or as
            `read_installed`.
    """
    found = read_installed(connection, side)
    leaving = found.items + (found.mirrored if tables else [])
    if not leaving:
        return Removal([], [])
    users = users_of(connection, leaving)
    if users:
        raise NotMigrated(
            f"{ROLE[side]}: objects of yours use what would go: {'; '.join(users)}. Drop or change "
            f"them first; nothing was changed."
        )
    faults = _in_use(connection, found) if side == "primary" else {}
    callers = callers_of(connection, leaving)
    if callers:
        fault = f"Functions of yours name what goes, and fail without it: {', '.join(callers)}."
        faults[fault] = "change these functions"
    if faults and not force:
        raise UsageError(
            f"{ROLE[side]}: {' '.join(faults)} First {', and '.join(faults.values())}; or add "
            f"--force. Nothing was changed."
        )
    notes = [f"Removes the {ROLE[side]}'s side of the mirror.", *faults]
    after: list[str] = []
    if side == "primary":
        notes.append(
            "A backend that records events, with hooks or ORM capture, fails from then on: remove "
            "them first."
        )
    else:
        notes += _lost_access(found, tables=tables)
        after, kept = _after_the_target(connection, leaving)
        notes += kept
    if found.shared:
        notes.append("Schema mirror stays, because it also holds the other side.")
    return Removal(notes, [*_locks(side, found), *_drops(found, leaving), *after])


def uninstall(
    connection: Connection, side: Side, *, tables: bool = False, force: bool = False
) -> Removal:
    """Remove one side of the mirror from a database, in the caller's transaction.

    Raises:
        NotInTransaction: the connection is in AUTOCOMMIT mode.
        UsageError, NotMigrated: as `plan_removal`.
        MirrorError: with psycopg, an error of the database.
    """
    with translated(side):
        lock_migrations(connection)
        removal = plan_removal(connection, side, tables=tables, force=force)
        # Once more when the tables are locked: an event may have come meanwhile.
        for lock in _locks(side, read_installed(connection, side)) if removal.statements else []:
            run(connection, lock)
        removal = plan_removal(connection, side, tables=tables, force=force)
        for statement in statements("\n".join(removal.statements)):
            run(connection, statement)
    return removal


def downgrade(connection: Connection) -> None:
    """Remove the primary's side in the caller's transaction; waiting events are lost.

    Call it from an Alembic revision as `downgrade(op.get_bind())`.

    Raises:
        NotMigrated, NotInTransaction, MirrorError: as `uninstall`.
    """
    uninstall(connection, "primary", force=True)


def _locks(side: Side, found: Installed) -> list[str]:
    """Return the statements that wait for workers and writers; they can run again.

    Without them, a writer and a statement that drops a trigger or policy could deadlock.
    """
    tables = {item.table for item in found.items if item.table is not None}
    queues = {"mirror.outbox", "mirror.retries"} & {item.name for item in found.of("table")}
    locks = ["select pg_advisory_xact_lock(1835627122, 1);"] if side == "supabase" else []
    if tables or queues:
        locks.append(
            lock_sql(
                [*sorted(tables), *sorted(queues)],
                "access exclusive",
                what="the tables",
                purpose="uninstall the mirror",
            )
        )
    return locks


def _drops(found: Installed, leaving: list[Item]) -> list[str]:
    """Return the statements that drop objects, then schema `mirror` or this side's history."""
    names = {
        kind: [item.name for item in leaving if item.kind == kind]
        for kind in ("policy", "trigger", "table", "function")
    }
    drops = [
        "\n".join(f"drop {kind} {name};" for name in names[kind])
        for kind in ("policy", "trigger")
        if names[kind]
    ]
    # Together, because they use each other.
    drops += [
        f"drop {kind}\n  " + ",\n  ".join(names[kind]) + ";"
        for kind in ("table", "function")
        if names[kind]
    ]
    if not found.shared:
        return [*drops, "drop schema if exists mirror;"]
    history = ", ".join(literal(name) for name in found.names)
    drops.append(f"delete from mirror.migrations where name in ({history});")
    if found.rebuild:
        drops.append(
            "-- The next `mirror migrate` runs every migration of the other side again.\n"
            "update mirror.migrations set checksum = '' where checksum <> '';"
        )
    return drops


def _in_use(connection: Connection, found: Installed) -> dict[str, str]:
    """Return a sentence on the events that wait in the primary, and one on processes that run.

    Each is mapped to what to do about it.
    """
    tables = {item.name for item in found.of("table")}
    waiting = sum(
        connection.scalar(text(f"select count(*) from {table}")) or 0
        for table in ("mirror.outbox", "mirror.retries")
        if table in tables
    )
    faults = {}
    if waiting:
        fault = f"{waiting} event(s) wait to be mirrored, and are lost with the outbox."
        faults[fault] = "let workers, or `mirror drain`, mirror what waits"
    if "mirror.heartbeats" in tables:
        running = [_PARTS.get(name, name) for name in connection.scalars(text(_RUNNING))]
        if running:
            fault = f"In the last two minutes, {' and '.join(running)} ran."
            faults[fault] = "stop them and wait two minutes"
    return faults


def _lost_access(found: Installed, *, tables: bool) -> list[str]:
    """Return sentences on the users that the target lets in afterwards, and on mirrored tables."""
    notes = []
    mirrored = [item.name for item in found.mirrored]
    guarded = sorted({item.table for item in found.of("policy") if item.table} - {*mirrored})
    if guarded:
        notes.append(
            f"The guards' policies go, and they are what lets users in: {', '.join(guarded)}. "
            f"Row-level security stays on there, so nobody gets in until these tables have "
            f"policies of yours."
        )
    if mirrored and tables:
        notes.append(f"These mirrored tables go, with all rows: {', '.join(mirrored)}.")
    elif mirrored:
        notes.append(
            f"These mirrored tables stay, with their rows, which are not updated any more and to "
            f"which no policy of the mirror lets users: {', '.join(mirrored)}. --tables drops them."
        )
    return notes


def _after_the_target(connection: Connection, leaving: list[Item]) -> tuple[list[str], list[str]]:
    """Return the last statements on the target, and a sentence why its role stays, if it does."""
    reload = "notify pgrst, 'reload schema';"
    stays = writer_stays(connection, leaving)
    if stays is None:
        return [reload], []
    revoke = "revoke usage on schema public from mirror_writer;"
    if stays:
        return [revoke, reload], [f"Role mirror_writer stays: {stays}."]
    return [revoke, "drop role mirror_writer;", reload], []
