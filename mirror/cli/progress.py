"""Progress: shows how far a long command is, as bars on a terminal and as lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mirror.cli.console import PlainConsole
from mirror.reconcile import Progress as ProgressCallback

_SECONDS_BETWEEN_LINES: Final = 10.0


@contextmanager
def showing_progress() -> Iterator[ProgressCallback]:
    """Yield a callback that shows progress: bars on a terminal, otherwise a line now and then."""
    console = PlainConsole(stderr=True)
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def advance(phase: str, mapping: str, rows: int, total: int) -> None:
            name = f"{phase} {mapping}"
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total or None, rate="")
            task = bars.tasks[tasks[name]]
            rate = f"{task.speed:,.0f} rows/s" if task.speed else ""
            # `total` is the planner's estimate, which may be far too small.
            total = max(total, int(task.completed) + rows)
            bars.update(tasks[name], advance=rows, total=total, rate=rate)

        yield advance


@contextmanager
def showing_steps(side: str) -> Iterator[Callable[[str, int], None]]:
    """Yield a callback for `upgrade` that shows a bar of its statements, on a terminal only.

    A statement on a large table may take minutes, so the bar shows the time that has passed.
    """
    console = PlainConsole(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(f"{side}: look", total=None)

        def advance(step: str, left: int) -> None:
            total = max(left, int(bar.tasks[task].total or 0))
            bar.update(task, description=f"{side}: {step}", total=total, completed=total - left)

        yield advance


def _lines(console: Console) -> ProgressCallback:
    """Return a callback that prints a line of progress at most every ten seconds."""
    done: dict[str, int] = {}
    printed_at = time.monotonic()

    def advance(phase: str, mapping: str, rows: int, total: int) -> None:
        nonlocal printed_at
        name = f"{phase} {mapping}"
        done[name] = done.get(name, 0) + rows
        if time.monotonic() > printed_at + _SECONDS_BETWEEN_LINES:
            printed_at = time.monotonic()
            estimate = f" of about {total:,}" if total > done[name] else ""
            console.print(f"{name}: {done[name]:,} rows{estimate}")

    return advance
