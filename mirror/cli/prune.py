"""`mirror migrate --prune`: drops from the target what is no longer declared."""

import typer

from mirror.model.registry import Registry
from mirror.schema.connecting import migrating
from mirror.schema.prune import plan_pruning, run_pruning
from mirror.settings import Settings


def prune(settings: Settings, registry: Registry, *, dry_run: bool, yes: bool) -> bool:
    """Print what would be dropped, ask, and drop it; return whether anything is left.

    `dry_run` only prints. `yes` does not ask.
    """
    with migrating(settings, "supabase") as connection:
        drops, notes = plan_pruning(connection, registry)
        if not drops:
            print("supabase: nothing to prune")
            return False
        print("supabase: to be dropped", *notes, *drops, sep="\n")
        if dry_run:
            return True
        if not yes:
            typer.confirm("Values and rows are lost. Drop these?", abort=True)
        run_pruning(connection, drops)
    print("supabase: pruned")
    return False
