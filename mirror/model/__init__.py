"""Model: what a team declares, and what follows from it. Runs in every process.

keys -> mapping -> query/ -> registry. Imports nothing of the library but `errors`. What SQLAlchemy
keeps private about a SELECT is known in `query/` and in `capture/orm/` alone.
"""

from mirror.model.mapping import Column, Mapping, Parent, Readable, Reference
from mirror.model.registry import Registry, load_registry
from mirror.model.strongest import strongest

__all__ = [
    "Column",
    "Mapping",
    "Parent",
    "Readable",
    "Reference",
    "Registry",
    "load_registry",
    "strongest",
]
