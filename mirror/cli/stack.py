"""`mirror demo` and `mirror dev`: the whole mirror on this machine."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import typer
from rich.console import Console

from mirror.cli.stopping import interrupt_once
from mirror.logs import configure_logging

_Rest = Annotated[
    bool, typer.Option("--rest", help="Reach the target by its REST API alone (needs npm).")
]


def demo(rest: _Rest = False) -> None:
    """Play the trip chat example on real servers, check every expectation, clean up."""
    # The embedded servers are an extra: only these two commands need them.
    from mirror.demo import play, staged  # noqa: PLC0415

    console = Console()
    interrupt_once()
    # Killing Redis is part of the story; the warning that it caused is not.
    configure_logging(level="error")
    started = time.monotonic()
    also = ", Supabase's API" if rest else ""
    console.print(f"Starting PostgreSQL 16 and 18{also}, Redis and a Celery worker …", style="dim")
    held = True
    with _told_to_stop(console), staged(rest=rest) as stage:
        console.print(f"Everything is up after {time.monotonic() - started:.1f} s.", style="dim")
        for step in play(stage):
            mark = "[green]✓[/]" if step.held else "[red]✗[/]"
            console.print(f"{mark} {step.what:<50} {step.seconds * 1000:>8,.0f} ms")
            held = held and step.held
    if not held:
        console.print("Not every expectation held.", style="bold red")
        raise typer.Exit(1)
    console.print(f"All held, in {time.monotonic() - started:.1f} s; everything is cleaned up.")


def dev(rest: _Rest = False) -> None:
    """Run the same stack until Ctrl-C, and print how to reach it."""
    from mirror.demo import staged  # noqa: PLC0415

    console = Console()
    interrupt_once()
    with _told_to_stop(console), staged(rest=rest) as stage:
        for name, value in stage.stack.environment().items():
            print(f"export {name}={value}", flush=True)
        console.print("A worker is draining. Ctrl-C stops everything and deletes the data.")
        with suppress(KeyboardInterrupt):
            signal.pause()


@contextmanager
def _told_to_stop(console: Console) -> Iterator[None]:
    """End with the code of an interrupted program, once everything is cleaned up."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("Stopped; everything is cleaned up.")
        raise typer.Exit(130) from None
