"""Events of many-to-many tables: rows that a relationship's `secondary` gains and loses.

They are nobody's object. What the relationship added and removed names them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Dialect
from sqlalchemy.orm import InstanceState, Mapper, PassiveFlag

from mirror.capture.orm.meaning import RowEvents, RowValues
from mirror.capture.orm.plans import text_of
from mirror.capture.outbox import Event
from mirror.model.query.effects import Effect


@dataclass(frozen=True, eq=False)
class SecondaryTable:
    """A relationship whose `secondary` mappings read."""

    attribute: str
    effects: tuple[Effect, ...]
    near: tuple[tuple[Any, Any], ...]
    """Pairs of a column of the object's own table and one of the secondary's."""
    far: tuple[tuple[Any, Any], ...]
    """The same for the other side."""

    def events(
        self, meaning: RowEvents, state: InstanceState[Any], dialect: Dialect, *, deleted: bool
    ) -> Iterator[Event]:
        """Yield the events of one object's flushed changes."""
        history = state.get_history(self.attribute, PassiveFlag.PASSIVE_NO_INITIALIZE)
        gone = [*history.deleted, *(history.unchanged if deleted else ())]
        near = _row(state, self.near, dialect)
        if state.key is not None and any(
            state.mapper.get_property_by_column(column).key in state.committed_state
            for column, _ in self.near
        ):
            # The object's own key has changed, and its links with it.
            for effect in self.effects:
                yield meaning.everything(effect)
        for objects, derive in ((gone, meaning.deleted), (history.added, meaning.inserted)):
            for other in objects:
                if other is not None:
                    row = {**near, **_row(_state(other), self.far, dialect)}
                    for effect in self.effects:
                        yield from derive(effect, row)


class SecondaryTables:
    """The links of mapped classes, found when one is first seen."""

    def __init__(self, meaning: RowEvents) -> None:
        self._meaning = meaning
        self._found: WeakKeyDictionary[Mapper[Any], tuple[SecondaryTable, ...]] = (
            WeakKeyDictionary()
        )

    def of(self, mapper: Mapper[Any]) -> tuple[SecondaryTable, ...]:
        """Return a mapped class's relationships over mirrored tables; for most there is none."""
        found = self._found.get(mapper)
        if found is None:
            found = self._found[mapper] = tuple(
                SecondaryTable(
                    relationship.key,
                    self._meaning.of(relationship.secondary),
                    tuple(relationship.synchronize_pairs),
                    tuple(relationship.secondary_synchronize_pairs or ()),
                )
                for relationship in mapper.relationships
                if relationship.secondary is not None
                and not relationship.viewonly
                and self._meaning.of(relationship.secondary)
            )
        return found


def _state(other: Any) -> InstanceState[Any]:
    # A history of collections holds objects or their states, as the kind of relationship has it.
    return other if isinstance(other, InstanceState) else other._sa_instance_state  # noqa: SLF001


def _row(
    state: InstanceState[Any], pairs: tuple[tuple[Any, Any], ...], dialect: Dialect
) -> RowValues:
    row: dict[str, str | None] = {}
    for column, link in pairs:
        key = state.mapper.get_property_by_column(column).key
        primary = [state.mapper.get_property_by_column(c).key for c in state.mapper.primary_key]
        if key in state.dict:
            value = state.dict[key]
        elif key in primary and state.key is not None:
            value = state.key[1][primary.index(key)]
        else:
            continue
        text = text_of(column.type, value, dialect)
        if text is not None:
            row[link.name] = text
    return row
