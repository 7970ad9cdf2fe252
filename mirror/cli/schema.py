"""`mirror migrate` and `mirror ddl`: apply or print the SQL that the mirror needs."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from mirror.errors import UsageError
from mirror.errors.redaction import one_line
from mirror.model.registry import Registry, load_registry
from mirror.schema import guards_sql, model_sql, removal_sql, triggers_sql
from mirror.schema.cli_files import write_files
from mirror.schema.connecting import migrating
from mirror.schema.examination import examine
from mirror.schema.key_types import check_key_types
from mirror.schema.migrate import due, history, migrations, upgrade
from mirror.schema.running import translated
from mirror.schema.sides import Side
from mirror.settings import Settings, load_settings


class Sides(StrEnum):
    """The databases to migrate."""

    BOTH = "both"
    PRIMARY = "primary"
    SUPABASE = "supabase"


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
        bool, typer.Option("--dry-run", help="Print the migrations that would be applied.")
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
) -> None:
    """Install or update schema `mirror` on both sides, and the mirrored tables in the target."""
    settings = load_settings()
    registry = load_registry(settings.mappings)
    choice: dict[Sides, list[Side]] = {
        Sides.BOTH: ["primary", "supabase"],
        Sides.PRIMARY: ["primary"],
        Sides.SUPABASE: ["supabase"],
    }
    if into is not None:
        if side is not Sides.SUPABASE or sql or dry_run or triggers:
            raise UsageError(
                "--into works only with `mirror migrate supabase` and the option --guards."
            )
        _write(into, registry, guards=guards)
        return
    if guards and side is Sides.PRIMARY:
        raise UsageError(
            "--guards does not apply to the primary: guarded tables are in the target."
        )
    if triggers and side is Sides.SUPABASE:
        raise UsageError("--triggers does not apply to the target: triggers are in the primary.")
    if not sql:
        examine(settings, choice[side])
    for each in choice[side]:
        if sql:
            steps = migrations(each, registry, triggers=triggers, guards=guards)
            if len(choice[side]) > 1:
                print(_TITLES[each], end="\n\n\n")
            print("\n\n".join(step.script for step in steps))
        else:
            flags = {"triggers": triggers} if each == "primary" else {"guards": guards}
            _migrate(settings, each, registry, flags, dry_run=dry_run)


def _migrate(
    settings: Settings, side: Side, registry: Registry, flags: dict[str, bool], *, dry_run: bool
) -> None:
    """Migrate one database, or with `dry_run` only print the names of the migrations it needs.

    `flags` is `triggers` or `guards`, as `upgrade` takes them.
    """

    def warn(sentence: str) -> None:
        print(one_line(f"{side}: warning: {sentence}"), file=sys.stderr)

    with migrating(settings, side, warn=warn) as connection:
        if side == "primary":
            for sentence in check_key_types(connection, registry):
                warn(sentence)
        if dry_run:
            names = [step.name for step in due(connection, side, registry, **flags)]
        else:
            model = f"model_{registry.name}"
            with translated(side):
                loaded = model in (history(connection) or {})
            names = upgrade(connection, side, registry, **flags)
    verb = "would apply" if dry_run else "applied"
    print(f"{side}: {verb} {', '.join(names)}" if names else f"{side}: up to date")
    if side == "supabase" and f"model_{registry.name}" in names and not dry_run:
        command = "mirror resync" if loaded else "mirror reconcile"
        print(f"supabase: deploy the workers with these declarations, then run `{command}`")


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
