"""Init: `mirror init` writes a mappings module for the tables of a backend.

tables (of models or a database)  ->  guess (with choices)  ->  model  ->  mappings, module
"""

from mirror.cli.init.command import init

__all__ = ["init"]
