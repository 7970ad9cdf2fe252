"""Keeps a Supabase project authorising exactly what your primary PostgreSQL says.

Import the classes for declarations from here: `from mirror import Column, Mapping, Registry`. Each
is loaded at its first use, so that `import mirror.hooks` in a backend stays fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mirror.access import (
        Allow,
        Always,
        Folder,
        Folders,
        Grants,
        Guard,
        Membership,
        Others,
        Own,
        Permission,
        Permissions,
        Readers,
        Seat,
        Topic,
        Topics,
    )
    from mirror.model import Column, Mapping, Parent, Readable, Reference, Registry, strongest

__version__ = "0.1.0"

__all__ = [
    "Allow",
    "Always",
    "Column",
    "Folder",
    "Folders",
    "Grants",
    "Guard",
    "Mapping",
    "Membership",
    "Others",
    "Own",
    "Parent",
    "Permission",
    "Permissions",
    "Readable",
    "Readers",
    "Reference",
    "Registry",
    "Seat",
    "Topic",
    "Topics",
    "strongest",
]

# Modules for import paths that the documentation used to name; importing one of them warns.
__path__.append(f"{__path__[0]}/_moved")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    model = importlib.import_module("mirror.model")
    return getattr(
        model if name in model.__all__ else importlib.import_module("mirror.access"), name
    )
