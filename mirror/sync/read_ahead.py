"""Read ahead: lets a claim read the rows of its keys, too, which saves a round trip.

With each claim goes, for the mappings of the last few, the query that reads their rows. If all
events that the claim takes are keys of one of these mappings, the primary also runs its query
(`mirror.read_ahead`). Otherwise, or if that fails, the rows are read as ever.

The claim's transaction is READ COMMITTED, where a volatile function sees a later moment than the
query around it. So a mapping takes part only if its query reads tables, and calls no function that
could be volatile.
"""

import json
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from psycopg import sql
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import TextClause
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.operators import custom_op

from mirror.capture.statements import statement
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.schema.quoting import identifier
from mirror.sync.claims import Claim
from mirror.sync.event_groups import MAX_PARTS
from mirror.sync.snapshot import Reading, Source

_MOST_MAPPINGS: Final = 4

# After a query has failed, for so long it does not go along.
_PAUSE_SECONDS: Final = 30.0

_STABLE_FUNCTIONS: Final = frozenset(
    {
        *("array_agg", "bool_and", "bool_or", "count", "every", "max", "min", "string_agg", "sum"),
        *("coalesce", "concat", "greatest", "least", "lower", "nullif", "timezone", "upper"),
    }
)


class ReadAhead:
    """The queries that go with the claims of one drain."""

    def __init__(
        self, registry: Registry, source: Source, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry = registry
        self._source = source
        self._clock = clock
        self._fit = frozenset(
            mapping.name for mapping in registry if fits_claims(registry, mapping)
        )
        self._recent: dict[str, float] = {}
        """By mapping, the latest last: until when its query does not go along."""
        self._asked: tuple[str, ...] = ()
        self._printed = lru_cache(maxsize=16)(self._print)

    def request(self) -> str | None:
        """Return the queries that go with the next claim, as JSON; None if there are none."""
        now = self._clock()
        self._asked = tuple(name for name, paused in self._recent.items() if paused <= now)
        return self._printed(self._asked) if self._asked else None

    def reading(self, claim: Claim) -> Reading | None:
        """Return the rows of all keys of the last claim; None if they have not been read."""
        self._learn(claim)
        if claim.ahead is None or len(claim.groups) != 1:
            return None
        return self._source.reading(self._registry[claim.groups[0].mapping], claim.ahead)

    def _learn(self, claim: Claim) -> None:
        """Take the mappings of a claim for those of the next one."""
        alone = len(claim.groups) == 1
        for group in claim.groups:
            if group.mapping not in self._fit:
                continue
            paused = self._recent.pop(group.mapping, 0.0)
            if alone and claim.ahead is None and not group.scopes and group.mapping in self._asked:
                paused = self._clock() + _PAUSE_SECONDS
            self._recent[group.mapping] = paused
        while len(self._recent) > _MOST_MAPPINGS:
            del self._recent[next(iter(self._recent))]

    def _print(self, names: tuple[str, ...]) -> str:
        queries = {}
        for name in names:
            query = sql.SQL(statement("read_ahead")).format(
                stamp=sql.SQL(statement("read_stamp")),
                rows=sql.SQL(self._source.desired.as_prepared(self._registry[name])),
            )
            tables = [
                identifier(*table.split(".", 1))
                for table, effects in self._registry.effects.items()
                if any(effect.mapping == name for effect in effects)
            ]
            queries[name] = {"query": query.as_string(None), "tables": tables}
        return json.dumps(queries)


def fits_claims(registry: Registry, mapping: Mapping) -> bool:
    """Return whether a claim may read this mapping's rows."""
    return (
        len(mapping.key) <= MAX_PARTS
        # Events of these may be more than a read of their keys (`Drain`).
        and not registry.children(mapping)
        and not any(
            isinstance(element, TextClause)
            or getattr(element, "is_literal", False)
            or isinstance(getattr(element, "operator", None), custom_op)
            or (isinstance(element, FunctionElement) and not _is_stable(element))
            for element in visitors.iterate(mapping.query)
        )
    )


def _is_stable(function: FunctionElement[Any]) -> bool:
    name = str(getattr(function, "name", "")).lower()
    # Another schema may have a function of that name.
    return name in _STABLE_FUNCTIONS and not getattr(function, "packagenames", ())
