"""`mirror migrate` and `mirror ddl`: apply or print the SQL that the mirror needs."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from mirror.cli.progress import showing_steps
from mirror.cli.prune import prune
from mirror.errors import UsageError
from mirror.errors.redaction import one_line
from mirror.model.registry import Registry, load_registry
from mirror.schema import guards_sql, model_sql, removal_sql, triggers_sql
from mirror.schema.changes import find_changes
from mirror.schema.cli_files import write_files
from mirror.schema.connecting import migrating
from mirror.schema.examination import examine
from mirror.schema.key_types import check_key_types
from mirror.schema.migrate import migrations, upgrade
from mirror.schema.preview import preview
from mirror.schema.prune import read_leftovers
from mirror.schema.running import translated
from mirror.schema.sides import Side
from mirror.settings import Settings, load_settings

PENDING: Final = 5
"""The exit code of `--dry-run` if there is something to apply or to drop."""


class Sides(StrEnum):
    """The databases to migrate."""

    BOTH = "both"
    PRIMARY = "primary"
    SUPABASE = "supabase"


_SIDES: Final[dict[Sides, list[Side]]] = {
    Sides.BOTH: ["primary", "supabase"],
    Sides.PRIMARY: ["primary"],
    Sides.SUPABASE: ["supabase"],
}
_TITLES: Final[dict[Side, str]] = {
    "primary": "-- ======== The primary ========",
    "supabase": "-- ======== The target, a Supabase project ========",
}


def migrate(
    side: Annotated[Sides, typer.Argument(help="Which database to migrate.")] = Sides.BOTH,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL instead; connects to nothing.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Run it, print what it would change, and undo it."),
    ] = False,
    triggers: Annotated[
        bool,
        typer.Option(
            "--triggers", help="Also install triggers that record changes of your tables."
        ),
    ] = False,
    guards: Annotated[
        bool,
        typer.Option("--guards", help="Also install the declared policies on your own tables."),
    ] = False,
    into: Annotated[
        Path | None,
        typer.Option(
            help="Instead write Supabase CLI files into this directory (supabase/migrations)."
        ),
    ] = None,
    pruning: Annotated[
        bool,
        typer.Option("--prune", help="Instead drop from the target what is no longer declared."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --prune: do not ask.")] = False,
) -> None:
    """Install or update schema `mirror` on both sides, and the mirrored tables in the target."""
    _check_options(
        {
            "--into works only with `mirror migrate supabase` and the option --guards.": (
                into is not None
                and (side is not Sides.SUPABASE or sql or dry_run or triggers or pruning)
            ),
            "--prune works only on the target, with --dry-run or --yes.": (
                pruning and (side is Sides.PRIMARY or sql or triggers or guards)
            ),
            "--yes works only with --prune.": yes and not pruning,
            "--guards does not apply to the primary: guarded tables are in the target.": (
                guards and side is Sides.PRIMARY
            ),
            "--triggers does not apply to the target: triggers are in the primary.": (
                triggers and side is Sides.SUPABASE
            ),
        }
    )
    settings = load_settings()
    registry = load_registry(settings.mappings)
    sides = _SIDES[side]
    if into is not None:
        _write(into, registry, guards=guards)
    elif sql:
        _print(sides, registry, triggers=triggers, guards=guards)
    else:
        examine(settings, ["supabase"] if pruning else sides)
        if pruning:
            pending = prune(settings, registry, dry_run=dry_run, yes=yes)
        else:
            flags: dict[Side, dict[str, bool]] = {
                "primary": {"triggers": triggers},
                "supabase": {"guards": guards},
            }
            found = [
                _migrate(settings, each, registry, flags[each], dry_run=dry_run) for each in sides
            ]
            pending = dry_run and any(found)
        if pending:
            raise typer.Exit(PENDING)


def _check_options(refused: dict[str, bool]) -> None:
    """Raise UsageError with the first message whose combination of options is given."""
    for message, given in refused.items():
        if given:
            raise UsageError(message)


def _print(sides: list[Side], registry: Registry, *, triggers: bool, guards: bool) -> None:
    """Print the SQL of the migrations of these sides."""
    for side in sides:
        if len(sides) > 1:
            print(_TITLES[side], end="\n\n\n")
        steps = migrations(side, registry, triggers=triggers, guards=guards)
        print("\n\n".join(step.script for step in steps))


def _migrate(
    settings: Settings, side: Side, registry: Registry, flags: dict[str, bool], *, dry_run: bool
) -> bool:
    """Migrate one database, or with `dry_run` print what that would do; return whether it did.

    `flags` is `triggers` or `guards`, as `upgrade` takes them.
    """

    def warn(sentence: str) -> None:
        print(one_line(f"{side}: warning: {sentence}"), file=sys.stderr)

    lines: list[str] = []
    with migrating(settings, side, warn=warn) as connection:
        if side == "primary":
            for sentence in check_key_types(connection, registry):
                warn(sentence)
        if dry_run:
            found = preview(connection, side, registry, **flags)
            names, lines, then = found.steps, found.lines, found.next_steps
        elif side == "primary":
            with showing_steps(side) as progress:
                names, then = upgrade(connection, side, registry, progress=progress, **flags), []
        else:
            with translated(side):
                changes = find_changes(connection, registry)
            with showing_steps(side) as progress:
                names = upgrade(connection, side, registry, progress=progress, **flags)
            then = changes.next_steps(read_leftovers(connection, registry)) if names else []
    verb = "would apply" if dry_run else "applied"
    print(f"{side}: {verb} {', '.join(names)}" if names else f"{side}: up to date")
    for line in lines:
        print(one_line(f"  {line}"))
    for number, step in enumerate(then, 1):
        print(one_line(f"{side}: then {number}. {step}"))
    return bool(names)


def _write(into: Path, registry: Registry, *, guards: bool) -> None:
    """Write the target's migrations as files for the Supabase CLI, and print their paths."""
    # If guards were written once, their file is updated without the option, too.
    guards = guards or any(into.glob(f"*_mirror_guards_{registry.name}.sql"))
    try:
        written = write_files(into, migrations("supabase", registry, guards=guards))
    except OSError as error:
        raise UsageError(f"--into: {into} cannot be written ({error.strerror}).") from None
    for path in written:
        print(f"wrote {path}")
    if not written:
        print(f"{into}: up to date")


def ddl(
    side: Annotated[
        Side, typer.Argument(help="primary: the triggers; supabase: tables and policies.")
    ],
    remove: Annotated[
        bool, typer.Option("--remove", help="Print the SQL that removes the triggers instead.")
    ] = False,
    guards: Annotated[
        bool, typer.Option("--guards", help="Print the policies on your own tables instead.")
    ] = False,
) -> None:
    """Print the SQL that follows from the declarations; connect to no database."""
    registry = load_registry(load_settings().mappings)
    if side == "supabase":
        if remove:
            raise UsageError("--remove works only with `mirror ddl primary`.")
        sys.stdout.write(guards_sql(registry) if guards else model_sql(registry))
    elif guards:
        raise UsageError("--guards works only with `mirror ddl supabase`.")
    else:
        sys.stdout.write(removal_sql(registry) if remove else triggers_sql(registry))
