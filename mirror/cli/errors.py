"""Errors: prints the library's errors and ends the command with their exit codes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mirror.errors import MirrorError, MissingExtra


@contextmanager
def reported_errors() -> Iterator[None]:
    """If a MirrorError is raised inside, print it to stderr without secrets; exit with its code."""
    try:
        yield
    except MirrorError as error:
        print_error(error)
        sys.exit(error.exit_code)


def print_error(error: MirrorError) -> None:
    """Print an error to stderr, without secrets."""
    if isinstance(error, MissingExtra):
        # The console's package may be the one that is missing.
        print(f"error: {error}", file=sys.stderr)
        return
    from mirror.cli.console import PlainConsole  # noqa: PLC0415 - needs an extra

    console = PlainConsole(stderr=True)
    console.print("error:", style="bold red", end=" ")
    console.print(str(error))
    for note in getattr(error, "__notes__", []):
        console.print(note)
