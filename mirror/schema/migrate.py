"""Migrate: brings each database up to date, with a history of its own in schema `mirror`.

| side | name | source |
| --- | --- | --- |
| primary | `0001_outbox`, … | `migrations/primary/` |
| primary | `triggers_<registry>`, optional | printed from the declarations |
| target | `0001_engine` | `migrations/supabase/0001_engine/`, topical files in name order |
| target | `model_<registry>` | printed from the declarations |
| target | `guards_<registry>`, optional | printed; needs the tables that the guards name |

A database that once got triggers or guards keeps getting their updates. Every statement can run
again, so a file may also reach the database another way (`supabase db push`, the SQL editor). An
upgrade runs in the caller's transaction: it applies everything or nothing.

`migrations/supabase/0002_trips.sql` is the printed model of `mappings.trips`, for readers and
reviews. A test compares it with the printer; the runner and the wheel do not need it.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

from mirror.errors import NotInTransaction, NotMigrated, ServerTooOld
from mirror.model.registry import Registry
from mirror.schema.guard_policies import guards_sql
from mirror.schema.model_tables import model_sql
from mirror.schema.quoting import literal
from mirror.schema.running import run, statements, translated
from mirror.schema.sides import OTHER, ROLE, VARIABLE, Side
from mirror.schema.trigger_state import has_triggers, missing_triggers
from mirror.schema.triggers import lock_sources_sql, quoted_table, triggers_sql

OLDEST: dict[Side, int] = {"primary": 14, "supabase": 15}
"""The oldest major version of PostgreSQL that each side may run on; docs/versions.md says why."""

_VERSION = (
    "select current_setting('server_version_num')::integer, current_setting('server_version')"
)

# A relation in a schema `mirror` that another program made; NULL if there is none.
_NOT_OURS = """
    select c.relname from pg_class as c
    where c.relnamespace = to_regnamespace('mirror') order by c.relname limit 1
"""
# False in AUTOCOMMIT mode, where a transaction's lock is gone at once. We ask the server because
# each driver has another name for that mode.
_EXISTS = text("select to_regclass(:name) is not null")
_STILL_LOCKED = """
    select exists (
      select from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()
        and classid = 1835627122 and objid = 2 and granted
    )
"""


@dataclass(frozen=True)
class Migration:
    """One step in the history of one database."""

    name: str
    """`0001_outbox`; `model_trips` if it is printed from declarations."""
    sql: str
    """The whole text; every statement can run again."""

    @property
    def checksum(self) -> str:
        """Sixteen hex digits of the text's SHA-256; a database's history stores them."""
        return hashlib.sha256(self.sql.encode()).hexdigest()[:16]

    @property
    def script(self) -> str:
        """The text, and the statement that records the step in the database's history."""
        return (
            f"{self.sql.rstrip()}\n\n\n"
            f"insert into mirror.migrations (name, checksum)\n"
            f"values ({literal(self.name)}, {literal(self.checksum)})\n"
            f"on conflict (name) do update set checksum = excluded.checksum, applied_at = now();\n"
        )


def directory() -> Path:
    """Return the directory `migrations`: inside the installed package, or in the checkout."""
    package = Path(__file__).parent.parent
    packaged = package / "_migrations"
    return packaged if packaged.is_dir() else package.parent / "migrations"


def migrations(
    side: Side,
    registry: Registry | None = None,
    *,
    triggers: bool = False,
    guards: bool = False,
) -> list[Migration]:
    """Return every migration of one side, in the order in which they run.

    `triggers` adds the primary's triggers, `guards` the target's guards.

    Raises:
        TypeError: the target's migrations or the triggers are wanted without a registry.
    """
    if side == "primary":
        steps = [_written(path) for path in sorted(directory().glob("primary/*.sql"))]
        if triggers:
            if registry is None:
                raise TypeError("the triggers need the registry")
            steps.append(Migration(f"triggers_{registry.name}", triggers_sql(registry)))
        return steps
    if registry is None:
        raise TypeError("the target's migrations need the registry")
    steps = [
        _written(directory() / "supabase" / "0001_engine"),
        Migration(f"model_{registry.name}", model_sql(registry)),
    ]
    if guards:
        steps.append(Migration(f"guards_{registry.name}", guards_sql(registry)))
    return steps


def _written(path: Path) -> Migration:
    """Return a hand-written migration: one file, or a folder of files that are read in name order.

    Databases know a migration by the checksum of its text. So two blank lines stand between the
    files of a folder, as they did when `0001_engine` was one file.
    """
    files = [path] if path.is_file() else sorted(path.glob("*.sql"))
    return Migration(path.stem, "\n\n".join(file.read_text(encoding="utf-8") for file in files))


def history(connection: Connection) -> dict[str, str] | None:
    """Return the checksums of a database's migrations by name; None if it has no history of ours.

    Raises:
        NotMigrated: another program made its schema `mirror`.
    """
    if connection.scalar(text("select to_regclass('mirror.migrations')")) is None:
        other = connection.scalar(text(_NOT_OURS))
        if other is not None:
            raise NotMigrated(
                f"schema mirror exists and is not ours: it holds {other}. Rename that schema; "
                f"ours cannot have another name."
            )
        return None
    rows = connection.execute(text("select name, checksum from mirror.migrations"))
    return {row.name: row.checksum for row in rows}


def names_of(side: Side, names: Iterable[str]) -> list[str]:
    """Return those names of a history that are surely migrations of one side.

    A numbered name that this version does not know may be a newer migration of either side.
    """
    numbered, printed = {"0001_engine"}, r"(model|guards)_"
    if side == "primary":
        numbered, printed = {step.name for step in migrations("primary")}, "triggers_"
    return sorted(name for name in names if name in numbered or re.match(printed, name))


def check_history(names: Iterable[str], side: Side) -> None:
    """Refuse a database that holds the other side of the mirror, or both.

    Raises:
        NotMigrated: it does; the message has the command that removes the other side.
    """
    other = OTHER[side]
    found = names_of(other, names)
    if found:
        raise NotMigrated(
            f"{ROLE[side]}: the database of {VARIABLE[side]} holds the {ROLE[other]}'s side of a "
            f"mirror ({', '.join(found)}). Are {VARIABLE['primary']} and {VARIABLE['supabase']} "
            f"swapped? If they are right, that side is left from when they were not; remove it "
            f'with `{VARIABLE[other]}="${VARIABLE[side]}" mirror uninstall {other}`.'
        )


def pending(connection: Connection, steps: list[Migration]) -> list[Migration]:
    """Return those of the steps that this database lacks, or has with another text.

    Raises:
        NotMigrated: the database has numbered migrations that this version does not know, or
            another program made its schema `mirror`.
    """
    missing, unknown = compare(history(connection) or {}, steps)
    if unknown:
        raise NotMigrated(
            f"this database has migrations that this version does not know "
            f"({', '.join(unknown)}); install the newer permission-mirror."
        )
    return missing


def compare(
    applied: Mapping[str, str], steps: list[Migration]
) -> tuple[list[Migration], list[str]]:
    """Return the steps to apply, and the applied names that are unknown to this version.

    `applied` is a database's history: checksums by name. A step is to be applied if the history
    lacks it or has it with another checksum. Only numbered names can be unknown; a database with
    one of them was migrated by a newer version.
    """
    known = {step.name for step in steps}
    unknown = sorted(name for name in applied if re.match(r"\d", name) and name not in known)
    return [step for step in steps if applied.get(step.name) != step.checksum], unknown


def _selected(
    names: Iterable[str],
    side: Side,
    registry: Registry | None = None,
    *,
    triggers: bool = False,
    guards: bool = False,
) -> list[Migration]:
    """Return the migrations of one side, with triggers or guards if its history names them."""
    if registry is not None and side == "primary":
        triggers = triggers or f"triggers_{registry.name}" in names
    if registry is not None and side == "supabase":
        guards = guards or f"guards_{registry.name}" in names
    return migrations(side, registry, triggers=triggers, guards=guards)


def check_version(connection: Connection, side: Side) -> None:
    """Refuse a server that is too old, before a migration fails there with an obscure error.

    Raises:
        ServerTooOld: its PostgreSQL is older than `OLDEST` says.
    """
    number, version = connection.execute(text(_VERSION)).one()
    if number < OLDEST[side] * 10_000:
        raise ServerTooOld(
            f"{ROLE[side]}: this is PostgreSQL {version}, and permission-mirror needs "
            f"{OLDEST[side]} or newer there; nothing was changed."
        )


def due(
    connection: Connection,
    side: Side,
    registry: Registry | None = None,
    *,
    triggers: bool = False,
    guards: bool = False,
) -> list[Migration]:
    """Return the steps that `upgrade` with the same arguments would apply.

    With `guards=True`, the guards are always among them: since the last time, Realtime may have
    created its tables, and policies that were changed by hand are replaced. The triggers are among
    them if one of them is not in the catalog as it is printed; a database that has some gets all.

    Raises:
        ServerTooOld: the database's PostgreSQL is older than `OLDEST` says.
        NotMigrated: as `pending`, or the database holds the other side of the mirror.
    """
    check_version(connection, side)
    names = history(connection) or {}
    check_history(names, side)
    spoiled = False
    if registry is not None and side == "primary" and names:

        def query(sql: str) -> Iterable[Any]:
            return run(connection, sql)

        triggers = triggers or has_triggers(registry, query)
        if triggers or f"triggers_{registry.name}" in names:
            spoiled = bool(missing_triggers(registry, query))
    steps = _selected(names, side, registry, triggers=triggers, guards=guards)
    missing = pending(connection, steps)
    again = guards or spoiled
    return [step for step in steps if step in missing or (again and step is steps[-1])]


def upgrade(
    connection: Connection,
    side: Side = "primary",
    registry: Registry | None = None,
    *,
    triggers: bool = False,
    guards: bool = False,
    progress: Callable[[str, int], object] = lambda _step, _statements: None,
) -> list[str]:
    """Bring a database up to date in the caller's transaction; return the names of applied steps.

    `triggers` installs those of `registry` in the primary, `guards` those in the target. `progress`
    is called before each statement with its step's name and how many statements are left.

    Call it from an Alembic revision as `upgrade(op.get_bind())`, and over an async driver as
    `await connection.run_sync(upgrade)`.

    Raises:
        ServerTooOld: the database's PostgreSQL is older than `OLDEST` says.
        NotMigrated: the database is of a newer version, holds the other side of the mirror, is no
            Supabase project, has a table of ours with another shape or owner, or lacks a table or
            column that a guard names; or the role lacks a privilege.
        NotInTransaction: the connection is in AUTOCOMMIT mode.
        MirrorError: with psycopg, any other error of the database.
        MappingError, TypeError: as `guards_sql` and `migrations`.
    """
    with translated(side):
        lock_migrations(connection)
        steps = due(connection, side, registry, triggers=triggers, guards=guards)
        if registry is not None and f"triggers_{registry.name}" in (history(connection) or {}):
            _lock_sources(connection, registry, steps)
        todo = [(step.name, statement) for step in steps for statement in statements(step.script)]
        for done, (name, statement) in enumerate(todo):
            progress(name, len(todo) - done)
            run(connection, statement)
    return [step.name for step in steps]


def _lock_sources(connection: Connection, registry: Registry, steps: list[Migration]) -> None:
    """Lock the tables that triggers watch before a step changes the outbox, if both are to come.

    A writer holds one of these tables when its trigger wants the outbox. To wait for the table
    while holding the outbox would be a deadlock.
    """
    names = [step.name for step in steps]
    if f"triggers_{registry.name}" not in names or len(names) == 1:
        return
    quoted = [quoted_table(table) for table in registry.effects]
    there = [name for name in quoted if connection.scalar(_EXISTS, {"name": name})]
    if there:
        run(connection, lock_sources_sql(there))


def lock_migrations(connection: Connection) -> None:
    """Let one migration run at a time; a second one waits, then finds nothing to do.

    Raises:
        NotInTransaction: the connection is in AUTOCOMMIT mode.
    """
    connection.execute(text("select pg_advisory_xact_lock(1835627122, 2)"))
    if not connection.scalar(text(_STILL_LOCKED)):
        raise NotInTransaction(
            "migrations run in one transaction, but this connection is in AUTOCOMMIT mode; "
            "use engine.begin()."
        )
