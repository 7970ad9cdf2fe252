"""Migrations: numbered SQL, each database with its own history in schema `mirror`.

The primary has `migrations/primary/*.sql`. The target has `migrations/supabase/0001_engine.sql`
and one migration printed from the declarations. Every statement can run again, so a file that
also reaches the database another way (`supabase db push`, the SQL editor) does no harm.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, text

from mirror.ddl import model_sql
from mirror.errors import NotMigrated
from mirror.registry import Registry
from mirror.sql import literal

Side = Literal["primary", "supabase"]


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


def migrations(side: Side, registry: Registry | None = None) -> list[Migration]:
    """Return every migration of one side, in order; the target's need the registry."""
    if side == "primary":
        return [Migration(p.stem, p.read_text()) for p in sorted(directory().glob("primary/*.sql"))]
    if registry is None:
        raise TypeError("the target's migrations need the registry")
    engine = (directory() / "supabase" / "0001_engine.sql").read_text()
    return [
        Migration("0001_engine", engine),
        Migration(f"model_{registry.name}", model_sql(registry)),
    ]


def pending(connection: Connection, steps: list[Migration]) -> list[Migration]:
    """Return the steps that this database has not had, or had with another text.

    Raises:
        NotMigrated: the database is ahead: it has numbered migrations that we do not know.
    """
    if connection.scalar(text("select to_regclass('mirror.migrations')")) is None:
        return steps
    rows = connection.execute(text("select name, checksum from mirror.migrations"))
    applied = {row.name: row.checksum for row in rows}
    known = {step.name for step in steps}
    unknown = sorted(name for name in applied if re.match(r"\d", name) and name not in known)
    if unknown:
        raise NotMigrated(
            f"this database has migrations that this version does not know "
            f"({', '.join(unknown)}); install the newer permission-mirror."
        )
    return [step for step in steps if applied.get(step.name) != step.checksum]


def upgrade(
    connection: Connection, side: Side = "primary", registry: Registry | None = None
) -> list[str]:
    """Bring a database up to date, in the caller's transaction; return what was applied.

    Call it from an Alembic revision as `upgrade(op.get_bind())`.
    """
    # One migrator at a time; a second one waits, then finds nothing to do.
    connection.execute(text("select pg_advisory_xact_lock(1835627122, 2)"))
    steps = pending(connection, migrations(side, registry))
    for step in steps:
        for statement in statements(step.script):
            _run(connection, statement)
    return [step.name for step in steps]


def downgrade(connection: Connection) -> None:
    """Remove everything ours from the primary, in the caller's transaction; events are lost."""
    _run(connection, "drop schema if exists mirror cascade")


def write_files(into: Path, steps: list[Migration], *, now: datetime | None = None) -> list[Path]:
    """Write steps as `<14 digits>_mirror_<name>.sql` for the Supabase CLI; return what is new.

    A step that lies there already with the same text is left alone. New files are stamped later
    than everything in the directory, because the CLI refuses to push out of order.
    """
    into.mkdir(parents=True, exist_ok=True)
    existing = sorted(into.glob("*.sql"))
    stamp = (now or datetime.now(UTC)).replace(microsecond=0, tzinfo=None)
    for path in existing:
        found = re.match(r"(\d{14})_", path.name)
        if found:
            newest = datetime.strptime(found.group(1), "%Y%m%d%H%M%S")  # noqa: DTZ007 - all UTC
            stamp = max(stamp, newest + timedelta(seconds=1))
    written = []
    for step in steps:
        ours = [path for path in existing if path.name.endswith(f"_mirror_{step.name}.sql")]
        if ours and ours[-1].read_text() == step.script:
            continue
        path = into / f"{stamp:%Y%m%d%H%M%S}_mirror_{step.name}.sql"
        path.write_text(step.script)
        written.append(path)
        stamp += timedelta(seconds=1)
    return written


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
