"""CLI: the `mirror` command, with one module for each group of commands.

All commands use `errors` and `signals`. No other room of the library imports this one.
"""

from mirror.cli.main import main

__all__ = ["main"]
