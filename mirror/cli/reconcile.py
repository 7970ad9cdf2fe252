"""`mirror reconcile` and `mirror sync`: repair rows that differ between the two sides."""

import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated

import typer

from mirror.cli.console import PlainConsole
from mirror.cli.progress import showing_progress
from mirror.cli.signals import interrupt_once
from mirror.errors import UsageError
from mirror.errors.redaction import one_line
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.model.registry import load_registry
from mirror.reconcile import AlreadyRunning, Cause, Options, Report, run_reconcile, sync
from mirror.reconcile.judge import Verdict
from mirror.settings import load_settings
from mirror.sync.wiring import build_drain

_COLUMNS = (
    "mapping",
    "rows",
    "over-grants",
    "under-grants",
    "other",
    "in flight",
    "withheld",
    "repaired",
)


def reconcile(
    mappings: Annotated[
        list[str] | None, typer.Option("--mapping", help="Only this one; may be repeated.")
    ] = None,
    since_key: Annotated[
        str | None, typer.Option(help="Start at this key; needs exactly one --mapping.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Compare only; change nothing.")
    ] = False,
    max_deletes: Annotated[
        int | None,
        typer.Option(min=0, help="Delete no rows of a mapping if more than this many would go."),
    ] = None,
    confirm: Annotated[
        list[str] | None,
        typer.Option(help="Allow all deletes in this mapping; may be repeated."),
    ] = None,
    keys: Annotated[
        int, typer.Option(min=0, help="How many differing keys to print per mapping.")
    ] = 20,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for another reconcile to finish.")
    ] = False,
    scheduled: Annotated[
        bool, typer.Option("--scheduled", help="Record that your platform's scheduler runs this.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare both sides and repair all differences; also loads a new target."""
    settings = load_settings()
    registry = load_registry(settings.mappings)
    chosen = [registry[name] for name in mappings or []]
    if since_key is not None and len(chosen) != 1:
        raise UsageError("--since-key needs exactly one --mapping.")
    options = Options(
        mappings=tuple(mapping.name for mapping in chosen),
        since_key=None if since_key is None else parse_key(chosen[0], since_key),
        dry_run=dry_run,
        max_deletes=max_deletes,
        confirm=frozenset(confirm or ()),
        keys=keys,
    )
    started_by = "schedule" if scheduled else "hand"
    with (
        closing(build_drain(settings, registry)) as drain,
        _stoppable(),
        showing_progress() as progress,
    ):
        try:
            report = run_reconcile(
                drain, settings, options, started_by=started_by, wait=wait, progress=progress
            )
        except AlreadyRunning as error:
            print(one_line(str(error)), file=sys.stderr)
            raise typer.Exit(0) from None
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        _print_report(report)
    raise typer.Exit(report.exit_code)


def sync_(
    mapping: Annotated[str, typer.Argument(help="The mapping's name.")],
    keys: Annotated[
        list[str], typer.Argument(help="Keys: values joined by commas, or JSON lists.")
    ],
) -> None:
    """Mirror the rows with these keys now."""
    settings = load_settings()
    registry = load_registry(settings.mappings)
    declared = registry[mapping]
    parsed = [parse_key(declared, key) for key in keys]
    with closing(build_drain(settings, registry)) as drain:
        verdict = sync(drain, declared, parsed)
    print_verdict(verdict)
    rest = "; workers, or `mirror drain`, do the rest" if drain.announced else ""
    print(f"{len(parsed)} key(s) brought up to date, {len(verdict.drifts)} had drifted{rest}")


def parse_key(mapping: Mapping, text: str) -> Key:
    """Return the key in a command's argument: values joined by commas, or a JSON list.

    Raises:
        UsageError: the text is not valid JSON.
        InvalidKey: the values do not fit the mapping's key.
    """
    values: object = text
    if text.startswith("["):
        try:
            values = json.loads(text)
        except ValueError:
            raise UsageError(f"mapping {mapping.name!r}: the key is not valid JSON.") from None
    elif len(mapping.key) > 1:
        values = text.split(",")
    return mapping.canonical(values)


def _print_report(report: Report) -> None:
    console = PlainConsole()
    lines: list[tuple[str, ...]] = [_COLUMNS]
    for part in report.mappings:
        other = part.drifted - part.over_grants - part.under_grants
        drifted = (part.over_grants, part.under_grants, other)
        counts = (part.rows, *drifted, part.in_flight, part.withheld, part.repaired)
        lines.append((part.mapping, *map(str, counts)))
    console.print_columns(lines, right=range(1, len(_COLUMNS)))
    for part in report.mappings:
        for cause, rows in part.causes.items():
            console.print(f"{part.mapping}: {rows} row(s): {Cause[cause.upper()].value}")
        # Of a first load, twenty keys tell nothing.
        if list(part.causes) != ["new"] or part.drifted <= len(part.keys):
            for kind, direction, key in part.keys:
                console.print(f"  {kind} ({direction}) {','.join(key)}")
            if part.keys and part.drifted > len(part.keys):
                console.print(f"  … and {part.drifted - len(part.keys)} more")
        problem = part.held or part.error
        if problem:
            console.print(f"{part.mapping}: {problem}", style="bold red")
    rows = sum(part.rows for part in report.mappings)
    console.print(
        f"{report.outcome}{', nothing was changed' if report.dry_run else ''}: {rows:,} rows "
        f"compared in {report.seconds:.1f} s, {report.bytes_moved / 1e6:.1f} MB moved",
        style="bold",
    )


def print_verdict(verdict: Verdict) -> None:
    """Print one line for each drift, that is, each row that differed between the two sides."""
    for drift in verdict.drifts:
        print(one_line(f"{drift.kind} ({drift.direction}) {','.join(drift.key)}: {drift.cause}"))


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM, like Ctrl-C, end the run inside in order, then exit with code 130.

    In order means: the run releases its lease and records its end.
    """
    interrupt_once()
    try:
        yield
    except KeyboardInterrupt:
        print("stopped; repairs so far are kept, run it again for the rest", file=sys.stderr)
        raise typer.Exit(130) from None
