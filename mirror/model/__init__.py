"""Model: a team's declarations of mirrored data, and what follows from them.

Runs in every process. keys -> mapping -> query/ -> registry; it imports nothing of the library but
`errors`. SQLAlchemy has no public way to some facts. These modules read private attributes, and no
others: `model/query/` and `capture/orm/` (statements), `model/mapping.py` (printing literals) and
`capture/transaction.py` (the state of a commit).
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
