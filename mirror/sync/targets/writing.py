"""Writing: the values that a drain sends to a target, and the results.

The names in the JSON are those of the SQL functions, which databases already hold:

=================  ==============
here               in the JSON
=================  ==============
``deleted``        ``gone``
``with_children``  a row's last value, ``true``
``newest_fence``   ``ahead``
``new_parents``    ``appearing``
=================  ==============
"""

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.sync.row_queries import Row


@dataclass
class Section:
    """The rows and deletions of one mapping in one call."""

    mapping: Mapping
    rows: list[Row] = field(default_factory=list)
    """Desired rows."""
    with_children: list[Row] = field(default_factory=list)
    """Desired rows of parents; the same call has their children."""
    deleted: list[Key] = field(default_factory=list)
    """Keys that have no row."""

    def as_json(self) -> tuple[str, str]:
        """Return the JSON texts of the rows and of the keys without a row."""
        rows = [*self.rows, *((*row, True) for row in self.with_children)]
        return as_text(rows), as_text(self.deleted)


@dataclass
class Answer:
    """The result of one section. A key in no list but `retained` was written."""

    stale: list[Key] = field(default_factory=list)
    """Refused: the target has a newer read of this key."""
    orphans: list[Key] = field(default_factory=list)
    """Skipped: a parent's row is missing."""
    new_parents: list[Key] = field(default_factory=list)
    """Skipped: parents that the target lacks; they have to be sent along with their children."""
    large: list[Key] = field(default_factory=list)
    """Not written: parents with too many children to be deleted in one call, or that are being
    withdrawn. The target has closed them; their children have to be removed page by page."""
    retained: dict[str, list[Key]] = field(default_factory=dict)
    """By mapping: deleted rows that a foreign key of another table holds back. All their columns
    except the key are emptied."""
    newest_fence: int | None = None
    """The newest fence that made keys stale; None where another writer was just faster."""

    @classmethod
    def from_json(cls, part: dict[str, Any]) -> Self:
        """Return the result from its part of the answer of `mirror_apply`."""
        return cls(
            stale=as_keys(part["stale"]),
            orphans=as_keys(part["orphans"]),
            new_parents=as_keys(part.get("appearing", [])),
            large=as_keys(part.get("large", [])),
            retained={name: as_keys(keys) for name, keys in part.get("retained", {}).items()},
            newest_fence=part["ahead"],
        )


class Outcome(StrEnum):
    """The result of an order to withhold a key."""

    WITHHELD = "withheld"
    """The target grants nothing by the key, until it is written."""
    NEWER = "newer"
    """The target has a read of the key that is as fresh or newer."""
    MAPPING = "mapping"
    """No other row of the mapping can be written either."""
    BUDGET = "budget"
    """Too many keys are withheld already."""


Answers = dict[str, Answer]
"""The results of one call, by mapping name."""


@dataclass(frozen=True)
class ScopePage:
    """A request for the keys known under some values of a reference."""

    mapping: Mapping
    reference: str
    values: tuple[str, ...]
    after: Key = ()
    """The key after which the page starts; `()` for the first page."""


class TooOld(Exception):
    """Raised when a read is older than the target's horizon."""

    def __init__(self, horizon: int) -> None:
        super().__init__(horizon)
        self.horizon = horizon
        """The lowest fence that the target accepts."""


def as_list(value: Any) -> list[Any]:
    """Return a JSON array; an empty object or text is none.

    Raises:
        TypeError: the value is no array.
    """
    if not isinstance(value, list):
        raise TypeError
    return value


def as_keys(values: Any) -> list[Key]:
    """Return keys from the JSON array of their arrays.

    Raises:
        TypeError: the value is not an array of arrays.
    """
    return [tuple(as_list(value)) for value in as_list(values)]


def as_text(value: object) -> str:
    """Return a value as JSON text.

    Compact: REST sends it as a string inside JSON, where every quote takes two characters.
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
