"""Model: a team's declarations of mirrored data, and what follows from them.

Runs in every process. Each of its modules imports only modules before it in this order: keys,
staleness, mapping, query/, registry. Outside of this room it imports only `mirror.errors`.

SQLAlchemy keeps some facts in private attributes. Only these modules read them: `model/query/` and
`capture/orm/` (statements), `model/mapping.py` (printing literals) and `capture/transaction.py`
(the state of a commit).
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
