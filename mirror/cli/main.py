"""Main: the entry point of the `mirror` command, with shared options, errors and exit codes.

The exit codes: 0 success · 1 something is wrong with the mirror · 2 wrong usage or settings, or a
PostgreSQL that is too old · 3 a reconcile held deletes back until a person confirms them · 4 a
database or Redis does not answer, or is not migrated · 130 stopped by Ctrl-C.
"""

import os
import sys
from typing import Annotated

import typer

from mirror import __version__
from mirror.cli import (
    access,
    doctor,
    explain,
    operate,
    reconcile,
    relay,
    schema,
    serve,
    stack,
    uninstall,
    verify,
)
from mirror.cli.errors import reported_errors
from mirror.settings.logs import configure_logging

app = typer.Typer(
    name="mirror",
    help="Keep a Supabase project authorising exactly what your primary PostgreSQL says.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(schema.migrate)
app.command()(schema.ddl)
app.command()(uninstall.uninstall)
app.command()(operate.drain)
app.command()(relay.relay)
app.command()(serve.serve)
app.command()(operate.status)
app.command()(doctor.doctor)
app.command()(operate.retry)
app.command()(operate.discard)
app.command()(operate.resync)
app.command()(operate.rebase)
app.command()(operate.retarget)
app.command()(operate.purge)
app.command()(reconcile.reconcile)
app.command("sync")(reconcile.sync_)
app.command()(verify.verify)
app.command()(access.access)
# For options like `--trip ID`: the registry's nouns are unknown before the command runs.
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    explain.explain
)
app.command()(stack.demo)
app.command()(stack.dev)


def _print_version(requested: bool) -> None:
    if requested:
        print(__version__)
        raise typer.Exit


@app.callback()
def _shared_options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    # The mappings module is in the user's repository, which is the working directory.
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - sys.path holds strings
    configure_logging(level="warning")


def main() -> None:
    """Run the command; print the library's errors as one line and exit with their codes."""
    with reported_errors():
        app()
