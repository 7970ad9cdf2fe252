"""The `mirror` command, one file per group of commands."""

from mirror.cli.main import main

__all__ = ["main"]
