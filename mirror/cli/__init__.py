"""CLI: the `mirror` command, one module per group of commands; no other room imports it.

`errors` and `signals` are shared by the commands.
"""

from mirror.cli.main import main

__all__ = ["main"]
