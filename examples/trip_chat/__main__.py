"""`python -m examples.trip_chat demo` runs the story; `dev` runs the same servers until Ctrl-C.

`mirror demo` and `mirror dev` run this program.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import typer
from rich.console import Console

from examples.trip_chat.story import play_story, running_app
from mirror.cli.errors import reported_errors
from mirror.cli.signals import interrupt_once
from mirror.settings.logs import configure_logging

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
console = Console()
_Rest = Annotated[bool, typer.Option("--rest")]


@app.command()
def demo(rest: _Rest = False) -> None:  # noqa: FBT002 - Typer turns it into a flag
    """Run the story, check every expectation, and clean up."""
    interrupt_once()
    # The story kills Redis, so warnings about it are expected.
    configure_logging(level="error")
    started = time.monotonic()
    also = ", Supabase's API" if rest else ""
    console.print(f"Starting PostgreSQL 16 and 18{also}, Redis and a Celery worker …", style="dim")
    all_held = True
    with _interruptible(), running_app(rest=rest) as trip_chat:
        console.print(f"All servers run after {time.monotonic() - started:.1f} s.", style="dim")
        for step in play_story(trip_chat):
            mark = "[green]✓[/]" if step.held else "[red]✗[/]"
            console.print(f"{mark} {step.text:<50} {step.seconds * 1000:>8,.0f} ms")
            all_held = all_held and step.held
    if not all_held:
        console.print("Not every expectation held.", style="bold red")
        raise typer.Exit(1)
    seconds = time.monotonic() - started
    console.print(f"All expectations held, in {seconds:.1f} s; everything is cleaned up.")


@app.command()
def dev(rest: _Rest = False) -> None:  # noqa: FBT002 - Typer turns it into a flag
    """Run the servers and a worker until Ctrl-C, and print their URLs as `export` commands."""
    interrupt_once()
    configure_logging(level="warning")
    # Once the servers run, Ctrl-C is the orderly end, also while their URLs are printed.
    with _interruptible(), running_app(rest=rest) as trip_chat, suppress(KeyboardInterrupt):
        for name, value in trip_chat.stack.environment().items():
            print(f"export {name}={value}", flush=True)  # noqa: T201 - for a shell to read
        console.print("A worker is running. Ctrl-C stops everything and deletes the data.")
        signal.pause()


@contextmanager
def _interruptible() -> Iterator[None]:
    """After Ctrl-C or SIGTERM, exit with code 130 when everything is cleaned up."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("Stopped; everything is cleaned up.")
        raise typer.Exit(130) from None


if __name__ == "__main__":
    with reported_errors():
        app(prog_name="mirror")
