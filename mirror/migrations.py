"""Migrations: numbered SQL, each database with its own history in schema `mirror`.

The primary has `migrations/primary/*.sql` and, for who wants them, the triggers of a registry, as
`triggers_<registry>`. The target has `migrations/supabase/0001_engine.sql` and one migration
printed from the declarations of a registry, as `model_<registry>`; and, once the tables that they
are about exist, its guards, as `guards_<registry>`. Triggers and guards are asked for once; from
then on they are kept up to date. Every statement can run again, so a file that also reaches the
database another way (`supabase db push`, the SQL editor) does no harm.

`migrations/supabase/0002_trips.sql` is the model of `mappings.trips` as it prints, for people who
read or paste SQL. The runner never reads it: it prints the model from the registry that it is
given, and a test holds the file equal to that.

An upgrade runs in the caller's transaction: all of it is applied or nothing.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from mirror.ddl import guards_sql, model_sql, triggers_sql
from mirror.errors import MirrorError, NotInTransaction, NotMigrated, ServerTooOld
from mirror.registry import Registry
from mirror.sql import literal

Side = Literal["primary", "supabase"]

OLDEST: dict[Side, int] = {"primary": 14, "supabase": 15}
"""The oldest major version of PostgreSQL that each side may run on; docs/versions.md says why."""

_VERSION = (
    "select current_setting('server_version_num')::integer, current_setting('server_version')"
)
# A relation of somebody else's schema of our name, if there is one.
_NOT_OURS = """
    select c.relname from pg_class as c
    where c.relnamespace = to_regnamespace('mirror') order by c.relname limit 1
"""
# In AUTOCOMMIT mode the lock is gone as soon as it was taken. Asked of the server, because each
# driver spells that mode differently.
_STILL_LOCKED = """
    select exists (
      select from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()
        and classid = 1835627122 and objid = 2 and granted
    )
"""


@dataclass(frozen=True)
class Migration:
    """One step of one database's history."""

    name: str
    """`0001_outbox`; `model_trips` for what is printed from declarations."""
    sql: str

    @property
    def checksum(self) -> str:
        """Sixteen hex digits of the text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()[:16]

    @property
    def script(self) -> str:
        """The text and the statement that enters it into the history."""
        return (
            f"{self.sql.rstrip()}\n\n\n"
            f"insert into mirror.migrations (name, checksum)\n"
            f"values ({literal(self.name)}, {literal(self.checksum)})\n"
            f"on conflict (name) do update set checksum = excluded.checksum, applied_at = now();\n"
        )


def directory() -> Path:
    """Return where the SQL files lie: in the wheel beside this module, else in the checkout."""
    packaged = Path(__file__).parent / "_migrations"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "migrations"


def migrations(
    side: Side,
    registry: Registry | None = None,
    *,
    triggers: bool = False,
    guards: bool = False,
) -> list[Migration]:
    """Return every migration of one side, in order; the target's and the triggers' need a registry.

    `triggers` adds those of the primary, `guards` those of the target.
    """
    if side == "primary":
        files = sorted(directory().glob("primary/*.sql"))
        steps = [Migration(path.stem, path.read_text(encoding="utf-8")) for path in files]
        if triggers:
            if registry is None:
                raise TypeError("the triggers need the registry")
            steps.append(Migration(f"triggers_{registry.name}", triggers_sql(registry)))
        return steps
    if registry is None:
        raise TypeError("the target's migrations need the registry")
    engine = (directory() / "supabase" / "0001_engine.sql").read_text(encoding="utf-8")
    steps = [
        Migration("0001_engine", engine),
        Migration(f"model_{registry.name}", model_sql(registry)),
    ]
    if guards:
        steps.append(Migration(f"guards_{registry.name}", guards_sql(registry)))
    return steps


def pending(connection: Connection, steps: list[Migration]) -> list[Migration]:
    """Return the steps that this database has not had, or had with another text.

    Raises:
        NotMigrated: the database is ahead: it has numbered migrations that we do not know; or
            its schema `mirror` is somebody else's.
    """
    if connection.scalar(text("select to_regclass('mirror.migrations')")) is None:
        other = connection.scalar(text(_NOT_OURS))
        if other is not None:
            raise NotMigrated(
                f"schema mirror exists and is not ours: it holds {other}. Rename that schema; "
                f"ours has no other name."
            )
        return steps
    rows = connection.execute(text("select name, checksum from mirror.migrations"))
    late, unknown = compare({row.name: row.checksum for row in rows}, steps)
    if unknown:
        raise NotMigrated(
            f"this database has migrations that this version does not know "
            f"({', '.join(unknown)}); install the newer permission-mirror."
        )
    return late


def compare(
    applied: Mapping[str, str], steps: list[Migration]
) -> tuple[list[Migration], list[str]]:
    """Return the steps that a history lacks or has with another text, and names it is ahead by.

    `applied` are checksums by name, as in mirror.migrations.
    """
    known = {step.name for step in steps}
    unknown = sorted(name for name in applied if re.match(r"\d", name) and name not in known)
    return [step for step in steps if applied.get(step.name) != step.checksum], unknown


def wanted(
    connection: Connection,
    side: Side,
    registry: Registry | None = None,
    *,
    triggers: bool = False,
    guards: bool = False,
) -> list[Migration]:
    """Return the migrations of a database: with triggers or guards, too, if it has had them."""
    if registry is not None and side == "primary":
        triggers = triggers or _has_had(connection, f"triggers_{registry.name}")
    if registry is not None and side == "supabase":
        guards = guards or _has_had(connection, f"guards_{registry.name}")
    return migrations(side, registry, triggers=triggers, guards=guards)


def _has_had(connection: Connection, name: str) -> bool:
    if connection.scalar(text("select to_regclass('mirror.migrations')")) is None:
        return False
    asked = text("select exists (select from mirror.migrations where name = :name)")
    return bool(connection.scalar(asked, {"name": name}))


def check_version(connection: Connection, side: Side) -> None:
    """Refuse a server that is too old, before its errors are about details.

    Raises:
        ServerTooOld: its PostgreSQL is older than `OLDEST` says.
    """
    number, version = connection.execute(text(_VERSION)).one()
    if number < OLDEST[side] * 10_000:
        raise ServerTooOld(
            f"{_role(side)}: this is PostgreSQL {version}, and permission-mirror needs "
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
    """Return what `upgrade` would apply.

    Guards that are asked for are due in any case: Realtime's tables may have come since, and what
    somebody has changed by hand is put right.

    Raises:
        ServerTooOld: the database's PostgreSQL is older than `OLDEST` says.
        NotMigrated: as `pending`.
    """
    check_version(connection, side)
    steps = wanted(connection, side, registry, triggers=triggers, guards=guards)
    late = pending(connection, steps)
    return [step for step in steps if step in late or (guards and step is steps[-1])]


def upgrade(
    connection: Connection,
    side: Side = "primary",
    registry: Registry | None = None,
    *,
    triggers: bool = False,
    guards: bool = False,
) -> list[str]:
    """Bring a database up to date, in the caller's transaction; return what was applied.

    `triggers` installs those of `registry` in the primary, `guards` those in the target.

    Call it from an Alembic revision as `upgrade(op.get_bind())`, and over an async driver as
    `await connection.run_sync(upgrade)`.

    Raises:
        ServerTooOld: the database's PostgreSQL is older than `OLDEST` says.
        NotMigrated: the database is ahead, is no Supabase project, holds a table of ours in
            another shape or of another owner, or lacks what a guard is about; names it.
        NotInTransaction: the connection is in AUTOCOMMIT mode.
    """
    with _translated(side):
        # One migrator at a time; a second one waits, then finds nothing to do.
        connection.execute(text("select pg_advisory_xact_lock(1835627122, 2)"))
        if not connection.scalar(text(_STILL_LOCKED)):
            raise NotInTransaction(
                "migrations run in one transaction, but this connection is in AUTOCOMMIT mode; "
                "use engine.begin()."
            )
        steps = due(connection, side, registry, triggers=triggers, guards=guards)
        for step in steps:
            for statement in statements(step.script):
                _run(connection, statement)
    return [step.name for step in steps]


def downgrade(connection: Connection) -> None:
    """Remove everything ours from the primary, in the caller's transaction; events are lost."""
    with _translated("primary"):
        _run(connection, "drop schema if exists mirror cascade")


def write_files(into: Path, steps: list[Migration], *, now: datetime | None = None) -> list[Path]:
    """Write steps as `<14 digits>_mirror_<name>.sql` for the Supabase CLI; return what is new.

    A step that lies there already with the same text is left alone. New files are stamped later
    than everything in the directory, because the CLI refuses to push out of order.
    """
    into.mkdir(parents=True, exist_ok=True)
    existing = sorted(into.glob("*.sql"))
    # Versions are numbers: not everybody's are times, and one second more may be no time.
    version = int(f"{(now or datetime.now(UTC)).astimezone(UTC):%Y%m%d%H%M%S}")
    for path in existing:
        found = re.match(r"\d+(?=_)", path.name)
        if found:
            version = max(version, int(found.group()) + 1)
    written = []
    for step in steps:
        ours = [path for path in existing if path.name.endswith(f"_mirror_{step.name}.sql")]
        if ours and ours[-1].read_text(encoding="utf-8") == step.script:
            continue
        path = into / f"{version:014}_mirror_{step.name}.sql"
        path.write_text(step.script, encoding="utf-8")
        written.append(path)
        version += 1
    return written


def _role(side: Side) -> str:
    return "primary" if side == "primary" else "target"


_TOKEN = re.compile(
    r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|(\$\w*\$).*?\1|;", re.DOTALL
)


def statements(script: str) -> Iterator[str]:
    """Split a script of ours at the semicolons that end statements.

    Some drivers (asyncpg) take one statement at a time.
    """
    start = 0
    for found in _TOKEN.finditer(script):
        if found.group() == ";":
            yield script[start : found.end()].strip()
            start = found.end()
    if script[start:].strip():
        yield script[start:].strip()


def _run(connection: Connection, statement: str) -> None:
    """Run SQL as it stands: no parameters, so that `%` and `:` mean themselves."""
    connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


@contextmanager
def _translated(side: Side) -> Iterator[None]:
    """Turn the driver's errors into ours: all of psycopg's, and ours under any driver."""
    try:
        yield
    except DBAPIError as error:
        ours = _meaning(error.orig, _role(side))
        if ours is None:
            raise
        raise ours from error


def _meaning(error: BaseException | None, role: str) -> MirrorError | None:
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    # psycopg and psycopg2 tell more in .diag; asyncpg's own error is the cause of SQLAlchemy's.
    told = getattr(error, "diag", None) or getattr(error, "__cause__", None)
    message = getattr(told, "message_primary", None) or getattr(told, "message", None) or str(error)
    hint = getattr(told, "message_hint", None) or getattr(told, "hint", None)
    if state == "42501":
        hint = "Migrate as the role that owns the database; on Supabase, as postgres."
    if state in {"MR010", "42501"}:
        return NotMigrated(f"{role}: {message}" + (f". {hint}" if hint else ""))
    if type(error).__module__.partition(".")[0] == "psycopg":
        # Imported late: who migrates with another driver need not have psycopg.
        from mirror.postgres import translate  # noqa: PLC0415

        return translate(error, role)  # type: ignore[arg-type]
    return None
