"""`mirror uninstall`: prints or runs the SQL that removes one side of the mirror."""

import sys
from typing import Annotated

import typer

from mirror.errors import UsageError
from mirror.errors.redaction import one_line
from mirror.schema.connecting import migrating
from mirror.schema.sides import Side
from mirror.schema.uninstall import plan_removal
from mirror.schema.uninstall import uninstall as remove
from mirror.settings import load_settings


def uninstall(
    side: Annotated[
        Side,
        typer.Argument(help="Which side to remove: from PRIMARY_DATABASE_URL or SUPABASE_DB_URL."),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Run the SQL instead of printing it.")] = False,
    tables: Annotated[
        bool, typer.Option("--tables", help="Also drop the mirrored tables, with their rows.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Also if events wait, which are lost, or processes run that need it."
        ),
    ] = False,
) -> None:
    """Print the SQL that removes one side of the mirror from its database, or run it."""
    if tables and side == "primary":
        raise UsageError(
            "--tables does not apply to the primary: mirrored tables are in the target."
        )
    with migrating(load_settings(), side) as connection:
        removal = (remove if yes else plan_removal)(connection, side, tables=tables, force=force)
    if not removal.statements:
        print(f"{side}: nothing is installed", file=sys.stdout if yes else sys.stderr)
    elif yes:
        print(f"{side}: uninstalled", *map(one_line, removal.notes), sep="\n")
    else:
        sys.stdout.write(removal.script)
