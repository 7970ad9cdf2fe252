"""Errors: prints the library's errors and ends the command with their exit codes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from mirror.errors import MirrorError
from mirror.errors.redaction import redact


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
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print("[bold red]error:[/]", redact(str(error)), markup=True)
    for note in getattr(error, "__notes__", []):
        console.print(note, markup=False)
