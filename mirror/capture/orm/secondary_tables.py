"""Secondary tables: records events of rows in the `secondary` table of a many-to-many relationship.

No mapped object represents these rows. They follow from the objects that the relationship has
gained and lost.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Dialect
from sqlalchemy.orm import InstanceState, Mapper, PassiveFlag

from mirror.capture.orm.plans import text_of
from mirror.capture.orm.row_events import RowEvents, RowValues
from mirror.capture.outbox import Event
from mirror.model.query.effects import Effect


@dataclass(frozen=True, eq=False)
class SecondaryTable:
    """A relationship over a `secondary` table that mappings read."""

    attribute: str
    """The relationship's name in the class."""
    effects: tuple[Effect, ...]
    near: tuple[tuple[Any, Any], ...]
    """Pairs of a column of the object's own table and a column of the secondary table."""
    far: tuple[tuple[Any, Any], ...]
    """The same for the table of the objects that the relationship leads to."""
    altered: frozenset[str]
    """Columns of which the database may store another value than the objects have."""

    def events(
        self, row_events: RowEvents, state: InstanceState[Any], dialect: Dialect, *, deleted: bool
    ) -> Iterator[Event]:
        """Yield the events of the rows that a flush has added and removed for one object.

        `deleted`: the object itself was deleted.
        """
        history = state.get_history(self.attribute, PassiveFlag.PASSIVE_NO_INITIALIZE)
        gone = [*history.deleted, *(history.unchanged if deleted else ())]
        near = _row(state, self.near, dialect)
        if state.key is not None and any(
            state.mapper.get_property_by_column(column).key in state.committed_state
            for column, _ in self.near
        ):
            # The object's own key has changed, and with it all of its rows here.
            for effect in self.effects:
                yield row_events.everything(effect)
        for objects, derive in ((gone, row_events.deleted), (history.added, row_events.inserted)):
            for other in objects:
                if other is not None:
                    found = {**near, **_row(_state(other), self.far, dialect)}
                    row = {name: text for name, text in found.items() if name not in self.altered}
                    for effect in self.effects:
                        yield from derive(effect, row)


class SecondaryTables:
    """The secondary tables of mapped classes, found at the first use of a class."""

    def __init__(self, row_events: RowEvents) -> None:
        self._row_events = row_events
        self._found: WeakKeyDictionary[Mapper[Any], tuple[SecondaryTable, ...]] = (
            WeakKeyDictionary()
        )
        row_events.catalog.caches.append(self._found)

    def of(self, mapper: Mapper[Any]) -> tuple[SecondaryTable, ...]:
        """Return a mapped class's relationships over mirrored tables; most classes have none."""
        found = self._found.get(mapper)
        if found is None:
            found = self._found[mapper] = tuple(
                SecondaryTable(
                    relationship.key,
                    self._row_events.of(relationship.secondary),
                    tuple(relationship.synchronize_pairs),
                    tuple(relationship.secondary_synchronize_pairs or ()),
                    self._row_events.catalog.altered(relationship.secondary),
                )
                for relationship in mapper.relationships
                if relationship.secondary is not None
                and not relationship.viewonly
                and self._row_events.of(relationship.secondary)
            )
        return found


def _state(other: Any) -> InstanceState[Any]:
    # The kind of relationship decides whether a collection's history has objects or their states.
    return other if isinstance(other, InstanceState) else other._sa_instance_state  # noqa: SLF001


def _row(
    state: InstanceState[Any], pairs: tuple[tuple[Any, Any], ...], dialect: Dialect
) -> RowValues:
    row: dict[str, str | None] = {}
    for column, secondary_column in pairs:
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
            row[secondary_column.name] = text
    return row
