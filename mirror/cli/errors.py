"""Errors: how a command ends when something raises."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from mirror.errors import MirrorError
from mirror.errors.redaction import redact


@contextmanager
def reported_errors() -> Iterator[None]:
    """Turn an error of ours into one line and its exit code."""
    try:
        yield
    except MirrorError as error:
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print("[bold red]error:[/]", redact(str(error)), markup=True)
        for note in getattr(error, "__notes__", []):
            console.print(note, markup=False)
        sys.exit(error.exit_code)
