"""App: the `mirror` command as a Typer app that imports the module of a command when it runs."""

import gc
import importlib
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from mirror import __version__
from mirror.cli.main import COMMANDS, Command
from mirror.cli.signals import raise_at_interrupt


def _without_types(command: Any, ctx: Any) -> None:
    """Let a help text name a flag as `--json`; some versions of Typer print `--json <bool>`."""
    for option in command.get_params(ctx):
        if getattr(option, "is_flag", False):
            option.metavar = ""


class _Command(TyperCommand):
    """A command that runs."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help text."""
        _without_types(self, ctx)
        super().format_help(ctx, formatter)


class _Commands(TyperGroup):
    """The commands of the table: by their summaries, until one of them has to run."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, command in COMMANDS.items():
            self.commands[name] = TyperCommand(name, help=command.summary)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help text."""
        _without_types(self, ctx)
        super().format_help(ctx, formatter)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the name and the command that the first of `args` names, and the other `args`.

        Typer's completion of a command's own options calls this, too.
        """
        name, _, rest = super().resolve_command(ctx, args)
        loaded = None if name is None else _load(name, COMMANDS[name])
        # `main` has disabled it.
        gc.enable()
        raise_at_interrupt()
        return name, loaded, rest


def _load(name: str, command: Command) -> Any:
    """Import a command's module and return the command as Typer runs it."""
    module, _, function = command.place.partition(":")
    callback = getattr(importlib.import_module(f"mirror.cli.{module}"), function)
    single = typer.Typer(add_completion=False)
    single.command(name, cls=_Command, context_settings=command.context)(callback)
    return typer.main.get_command(single)


app = typer.Typer(
    name="mirror",
    cls=_Commands,
    help="Keep a Supabase project authorising exactly what your primary PostgreSQL says.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


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
    from mirror.settings.logs import configure_logging  # noqa: PLC0415 - not for `--version`

    # The mappings module is in the user's repository, which is the working directory.
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - sys.path holds strings
    configure_logging(level="warning")
