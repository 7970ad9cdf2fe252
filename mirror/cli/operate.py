"""Commands for the person who runs the mirror."""

import json
import sys
from contextlib import closing
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from mirror.diagnostics.status import Status, read_status
from mirror.model.registry import load_registry
from mirror.reconcile import sweep
from mirror.settings import load_settings
from mirror.sync import orders
from mirror.sync.wiring import build_drain, build_queue, build_source, build_target


def drain(
    seconds: Annotated[float, typer.Option(min=1, help="Stop after this long.")] = 3600.0,
) -> None:
    """Mirror what waits, here and now, without Celery."""
    with closing(build_drain(load_settings())) as here:
        done = here.run(seconds=seconds)
        swept = sweep(here)
    left = "; more is waiting" if done.full else ""
    expired = f", {swept} expired row(s) swept" if swept else ""
    print(f"{done.events - done.failed} event(s) mirrored, {done.failed} set apart{expired}{left}")
    raise typer.Exit(1 if done.failed else 0)


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what waits, what failed, and whether the target is the one that we write."""
    settings = load_settings()
    registry = load_registry(settings.mappings)
    with closing(build_source(settings)) as source, closing(build_target(settings)) as target:
        found = read_status(registry, source, target)
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        _print_status(found)
    raise typer.Exit(0 if found.healthy else 1)


def _print_status(found: Status) -> None:
    console = Console()
    table = Table(show_header=False, box=None)
    oldest = "" if found.oldest_seconds is None else f", oldest {found.oldest_seconds:.1f} s"
    table.add_row("waiting", f"{found.revocations} revocations, {found.grants} grants{oldest}")
    table.add_row("set apart", f"{found.retrying} retrying, {found.buried} buried")
    table.add_row("source", f"{found.source}, epoch {found.epoch}")
    expected = found.target_source or "nothing written yet"
    table.add_row("target expects", f"{expected}, epoch {found.target_epoch}")
    if found.last_run is not None:
        run = found.last_run
        table.add_row(
            "reconciled",
            f"{run.age_seconds / 3600:.1f} h ago by {run.started_by}: {run.outcome}, "
            f"{run.over_grants} over-grants, {run.under_grants} under-grants",
        )
    table.add_row("mappings", ", ".join(f"{name} {state}" for name, state in found.digests.items()))
    console.print(table, highlight=False)
    for failure in found.failures:
        state = "buried" if failure.buried else "retrying"
        console.print(
            f"  event {failure.id} ({failure.mapping}) {state} after {failure.attempts} "
            f"attempt(s): {failure.error}",
            highlight=False,
            markup=False,
        )
    for remedy in found.remedies:
        console.print(remedy, style="bold", highlight=False, markup=False)


def retry(
    ids: Annotated[
        list[int] | None, typer.Argument(help="Events, by the number that `status` shows.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All that are buried.")] = False,
) -> None:
    """Give buried events another set of attempts."""
    if bool(ids) == every:
        raise typer.BadParameter("name events, or say --all")
    with closing(build_queue(load_settings())) as queue:
        found = orders.retry(queue, None if every else ids)
    print(f"{len(found)} event(s) will be tried again")
    unknown = sorted(set(ids or []) - set(found))
    if unknown:
        print(f"not buried: {', '.join(map(str, unknown))}; see `mirror status`", file=sys.stderr)
        raise typer.Exit(1)


def resync(
    mappings: Annotated[
        list[str] | None, typer.Argument(help="Mappings; all of them by default.")
    ] = None,
) -> None:
    """Record everything as changed: the first load of a new target, or after doubt."""
    settings = load_settings()
    registry = load_registry(settings.mappings)
    with closing(build_queue(settings)) as queue:
        chosen = orders.resync(queue, registry, mappings or [])
    print(f"recorded as changed: {', '.join(chosen)}; workers, or `mirror drain`, do the rest")


def rebase(
    yes: Annotated[
        bool, typer.Option("--yes", help="Yes, PRIMARY_DATABASE_URL is the truth from now on.")
    ] = False,
) -> None:
    """Accept a primary that was restored, failed over or moved."""
    settings = load_settings()
    if not yes:
        typer.confirm(
            "Everything the target holds will be made equal to this primary. Go on?", abort=True
        )
    with closing(build_drain(settings)) as here:
        epoch = orders.rebase(here.registry, here.source, here.target, here.queue)
    print(f"epoch {epoch}; everything is recorded as changed")


def purge() -> None:
    """Forget tombstones older than MIRROR_TOMBSTONE_DAYS (beat does so daily)."""
    settings = load_settings()
    with closing(build_target(settings)) as target:
        count = target.purge(settings.tombstone_days)
    print(f"{count} tombstone(s) forgotten")
