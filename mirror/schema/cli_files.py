"""CLI files: writes migrations as files for the Supabase CLI."""

import re
from datetime import UTC, datetime
from pathlib import Path

from mirror.schema.migrate import Migration


def write_files(into: Path, steps: list[Migration], *, now: datetime | None = None) -> list[Path]:
    """Write steps as `<14 digits>_mirror_<name>.sql` for the Supabase CLI; return the new files.

    A step whose newest file has the same text gets no new one. The digits, its version, are the
    time `now` (default: the present), but higher than all versions in the directory: the CLI
    refuses to push a file with a lower version than the last one.
    """
    into.mkdir(parents=True, exist_ok=True)
    existing = sorted(into.glob("*.sql"))
    # Count up from the newest version as a number: it need not be a valid time.
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
