"""Operate: the commands `mirror drain`, `status`, `retry`, `resync`, `rebase` and `purge`."""

import json
import sys
import time
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Annotated, Final, NoReturn

import typer

from mirror.cli.console import PlainConsole, confirm
from mirror.cli.errors import print_error
from mirror.cli.progress import showing_progress
from mirror.cli.signals import interrupt_once
from mirror.cli.status_page import print_event, print_status
from mirror.diagnostics.event import EventReport, read_event
from mirror.diagnostics.figures import Figures, read_figures
from mirror.diagnostics.status import exit_code, find_faults
from mirror.errors import UsageError
from mirror.errors.redaction import one_line
from mirror.model.registry import Registry, load_registry
from mirror.reconcile import refuse_resync, sweep
from mirror.reconcile.report import EXIT_CODES
from mirror.settings import Settings, load_settings
from mirror.sync import orders
from mirror.sync.wiring import build_drain, build_queue, build_source, build_target

_WATCH_SECONDS: Final = 2.0


def drain(
    seconds: Annotated[float, typer.Option(min=1, help="Stop after this long.")] = 3600.0,
) -> None:
    """Mirror the waiting events now, in this process, without Celery; delete expired rows."""
    with closing(build_drain(load_settings())) as worker:
        done = worker.run(seconds=seconds)
        worker.queue.history.write(at_once=True)
        swept = sweep(worker)
    more = "; more events are waiting" if done.full else ""
    expired = f", {swept} expired row(s) swept" if swept else ""
    print(f"{done.events - done.failed} event(s) mirrored, {done.failed} set apart{expired}{more}")
    raise typer.Exit(1 if done.failed else 0)


def status(
    event: Annotated[
        int | None, typer.Argument(help="Number of an event: print all about it instead.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Print it again every two seconds, until stopped.")
    ] = False,
) -> None:
    """Print waiting and failed events, and whether target and primary belong together."""
    settings = load_settings()
    registry = load_registry(settings.mappings)
    if watch and (as_json or event is not None):
        raise UsageError("--watch shows the page: use it without a number and without --json.")
    if watch:
        raise typer.Exit(_watch(settings, registry))
    if event is not None:
        with closing(build_source(settings)) as source, closing(build_target(settings)) as target:
            report = read_event(registry, source, target, event)
        _report_event(report, as_json=as_json)
    figures = _read_figures(settings, registry)
    code = exit_code(figures)
    if as_json:
        faults = find_faults(figures)
        print(json.dumps({"healthy": code == 0, "faults": faults, **figures.as_json()}, indent=2))
    else:
        print_status(figures)
    for error in {str(error): error for error in figures.unknown.values()}.values():
        print_error(error)
    raise typer.Exit(code)


def _read_figures(settings: Settings, registry: Registry) -> Figures:
    with closing(build_source(settings)) as source, closing(build_target(settings)) as target:
        return read_figures(settings, registry, source, target)


def _watch(settings: Settings, registry: Registry) -> int:
    """Print the page again and again until Ctrl-C; return the last exit code."""
    page = PlainConsole()
    code = 0
    interrupt_once()
    with suppress(KeyboardInterrupt):
        while True:
            figures = _read_figures(settings, registry)
            code = exit_code(figures)
            page.clear()
            page.print(f"{datetime.now(UTC):%H:%M:%S} UTC", style="dim")
            print_status(figures)
            time.sleep(_WATCH_SECONDS)
    return code


def _report_event(report: EventReport, *, as_json: bool) -> NoReturn:
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        print_event(report)
    raise typer.Exit(report.exit_code)


def retry(
    ids: Annotated[
        list[int] | None, typer.Argument(help="Numbers of events, as `mirror status` prints them.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All buried events.")] = False,
) -> None:
    """Retry buried (given up) events, with as many attempts as a new event has."""
    if bool(ids) == every:
        raise typer.BadParameter("give either the numbers of events, or --all")
    with closing(build_queue(load_settings())) as queue:
        retried = orders.retry(queue, None if every else ids)
    print(f"{len(retried)} event(s) will be retried")
    unknown = sorted(set(ids or []) - set(retried))
    if unknown:
        print(f"not buried: {', '.join(map(str, unknown))}; see `mirror status`", file=sys.stderr)
        raise typer.Exit(1)


def discard(
    ids: Annotated[
        list[int], typer.Argument(help="Numbers of events, as `mirror status` prints them.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete events that failed and can never succeed, such as one with a malformed key."""
    with closing(build_queue(load_settings())) as queue:
        found = orders.set_apart(queue, ids)
        for id_, name, error in found:
            print(one_line(f"{id_} {name}: {error}"))
        if found and not yes:
            confirm(
                "The keys that these events name stay in the target as they are, until they change "
                "again or a reconcile finds them. Delete the events?"
            )
        orders.discard(queue, [id_ for id_, _, _ in found])
    print(f"{len(found)} event(s) were deleted")
    unknown = sorted(set(ids) - {id_ for id_, _, _ in found})
    if unknown:
        print(
            f"not set apart: {', '.join(map(str, unknown))}; see `mirror status`", file=sys.stderr
        )
        raise typer.Exit(1)


def resync(
    mappings: Annotated[
        list[str] | None, typer.Argument(help="Names of mappings; all of them by default.")
    ] = None,
    confirm: Annotated[
        list[str] | None,
        typer.Option(help="Allow all deletes in this mapping; may be repeated."),
    ] = None,
) -> None:
    """Record all rows as changed, so that workers mirror all of them again."""
    settings = load_settings()
    registry = load_registry(settings.mappings)
    with closing(build_drain(settings, registry)) as worker:
        for name in [*(mappings or []), *(confirm or [])]:
            registry[name]
        sides = worker.source, worker.target
        with showing_progress() as progress:
            refused = list(refuse_resync(registry, *sides, mappings or [], confirm or [], progress))
        for reason in refused:
            print(reason, file=sys.stderr)
        if refused:
            raise typer.Exit(EXIT_CODES["held back"])
        chosen = orders.resync(worker.queue, registry, mappings or [])
    print(f"recorded as changed: {', '.join(chosen)}; workers, or `mirror drain`, mirror them")


def rebase(
    yes: Annotated[
        bool,
        typer.Option("--yes", help="Do not ask: PRIMARY_DATABASE_URL is the truth from now on."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Also while workers are at work.")] = False,
) -> None:
    """Accept a primary that was restored, moved, or replaced after a failover.

    This starts a new epoch on both sides, and records all rows as changed.
    """
    _pair_again(
        "This makes all mirrored rows in the target equal to this primary. Continue?",
        yes=yes,
        force=force,
    )


def retarget(
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask: the target's URL is the right one.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Also while workers are at work.")] = False,
) -> None:
    """Accept a target that was restored, emptied, or replaced by another project.

    The primary then refuses every other target. This starts a new epoch on both sides, and records
    all rows as changed.
    """
    _pair_again(
        "From now on this primary mirrors into this target, and into no other. Continue?",
        yes=yes,
        force=force,
    )


def _pair_again(question: str, *, yes: bool, force: bool) -> None:
    settings = load_settings()
    if not yes:
        confirm(question)
    with closing(build_drain(settings)) as worker:
        if not force:
            orders.check_no_worker(worker.queue)
        epoch = orders.pair_again(worker.registry, worker.source, worker.target, worker.queue)
    print(
        f"epoch {epoch}; all rows are recorded as changed. Start the workers, or run `mirror "
        "drain`; then run `mirror reconcile`."
    )


def purge() -> None:
    """Delete tombstones and fences of scopes older than MIRROR_TOMBSTONE_DAYS; raise the horizon.

    From then on, the target refuses every write with a fence below the horizon. Beat does this
    daily.
    """
    settings = load_settings()
    with closing(build_target(settings)) as target:
        count = target.purge(settings.tombstone_days)
    print(f"{count} tombstone(s) deleted")
