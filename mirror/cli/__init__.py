"""CLI: the `mirror` command, with one module for each group of commands.

`main` holds the table of the commands; `app` imports the module of the one that runs. All commands
use `errors` and `signals`. No other room of the library imports this one.
"""

from mirror.cli.main import main

__all__ = ["main"]
