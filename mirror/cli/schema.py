"""`mirror migrate`: bring the databases' own side of the mirror up to date."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mirror.assembly import migrating
from mirror.config import load_settings
from mirror.errors import UsageError
from mirror.migrations import Side, migrations, pending, upgrade, write_files
from mirror.registry import load_registry


class Sides(StrEnum):
    """Which database."""

    BOTH = "both"
    PRIMARY = "primary"
    SUPABASE = "supabase"


def migrate(
    side: Annotated[Sides, typer.Argument(help="Which database to migrate.")] = Sides.BOTH,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL instead; connects to nothing.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be applied.")] = False,
    into: Annotated[
        Path | None,
        typer.Option(help="Write files for the Supabase CLI here (supabase/migrations) instead."),
    ] = None,
) -> None:
    """Install or update schema `mirror`, and the mirrored tables in Supabase."""
    settings = load_settings()
    registry = load_registry(settings.mappings)
    choice: dict[Sides, list[Side]] = {
        Sides.BOTH: ["primary", "supabase"],
        Sides.PRIMARY: ["primary"],
        Sides.SUPABASE: ["supabase"],
    }
    if into is not None:
        if side is not Sides.SUPABASE or sql or dry_run:
            raise UsageError("--into goes with `mirror migrate supabase`, and with no other flag.")
        try:
            written = write_files(into, migrations("supabase", registry))
        except OSError as error:
            raise UsageError(f"--into: {into} cannot be written ({error.strerror}).") from None
        for path in written:
            print(f"wrote {path}")
        if not written:
            print(f"{into}: up to date")
        return
    for each in choice[side]:
        if sql:
            print("\n\n".join(step.script for step in migrations(each, registry)))
            continue
        with migrating(settings, each) as connection:
            if dry_run:
                names = [step.name for step in pending(connection, migrations(each, registry))]
            else:
                names = upgrade(connection, each, registry)
        what = "would apply" if dry_run else "applied"
        print(f"{each}: {what} {', '.join(names)}" if names else f"{each}: up to date")
        if each == "supabase" and f"model_{registry.name}" in names and not dry_run:
            print("supabase: deploy the workers with these declarations, then run `mirror resync`")
