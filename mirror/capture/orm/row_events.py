"""Row events: turns changed rows into events.

An Effect says which key or scope of a mapping a row of one table affects. A row is a mapping from
column names to the texts that PostgreSQL prints for the values. A row that is None, or lacks a
column, is unknown. Then the event is about the whole mapping, which is slow but correct.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from mirror.capture.orm.catalog import Catalog, may_be_one, name_of, table_name
from mirror.capture.outbox import Event, Lane
from mirror.errors import InvalidKey
from mirror.model.mapping import EVERYTHING
from mirror.model.query.effects import Effect
from mirror.model.registry import Registry

RowValues: TypeAlias = Mapping[str, str | None]


class RowEvents:
    """Derives the events of changed rows from the Effects of one registry's mappings."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.catalog = Catalog(registry.effects)

    def of(self, table: Any) -> tuple[Effect, ...]:
        """Return the Effects of a table's rows on mappings; empty: no mapping reads the table.

        A name without a schema may mean a table of any: which one, a search_path decides. A change
        of a view means the whole mapping.
        """
        name = name_of(table)
        found: dict[Effect, None] = {}
        for mapped, effects in self._registry.effects.items():
            if may_be_one(name, table_name(mapped)):
                found.update(dict.fromkeys(effects))
        for mapped in self.catalog.reached(name):
            for effect in self._registry.effects[mapped]:
                whole = replace(
                    effect, reference=EVERYTHING, columns=(), reads=None, decides=None, adds=False
                )
                found[whole] = None
        return tuple(found)

    def inserted(self, effect: Effect, new: RowValues | None) -> Iterator[Event]:
        """Yield the event of an inserted row for one Effect; none if the row affects no key."""
        yield from self._event(effect, new, Lane.GRANT if effect.adds else Lane.REVOCATION)

    def deleted(self, effect: Effect, old: RowValues | None) -> Iterator[Event]:
        """Yield the event of a deleted row for one Effect; none if the row affected no key."""
        yield from self._event(effect, old, Lane.REVOCATION)

    def updated(
        self,
        effect: Effect,
        changed: frozenset[str] | None,
        old: RowValues | None,
        new: RowValues | None,
    ) -> Iterator[Event]:
        """Yield the events of an updated row for one Effect.

        There is none if the Effect's mapping reads no changed column.

        `changed` are the columns that were set; None: unknown. If they name the key or scope, there
        is an event of the old one and an event of the new one.
        """
        if not touches(changed, effect.reads):
            return
        moved = touches(changed, frozenset(effect.columns))
        lane = Lane.REVOCATION if moved or touches(changed, effect.decides) else Lane.GRANT
        yield from self._event(effect, old, lane)
        if moved:
            yield from self._event(effect, new, lane)

    def everything(self, effect: Effect) -> Event:
        """Return an event that makes workers read the whole mapping of an Effect again."""
        return Event(Lane.REVOCATION, effect.mapping, (), EVERYTHING)

    def _event(self, effect: Effect, row: RowValues | None, lane: Lane) -> Iterator[Event]:
        if effect.reference == EVERYTHING:
            yield Event(lane, effect.mapping, (), EVERYTHING)
        elif row is None or any(name not in row for name in effect.columns):
            yield self.everything(effect)
        else:
            values = [row[name] for name in effect.columns]
            if None not in values:
                yield self._event_of(effect, values, lane)
            elif effect.nulls:
                yield Event(lane, effect.mapping, (), EVERYTHING)

    def _event_of(self, effect: Effect, values: list[str | None], lane: Lane) -> Event:
        mapping = self._registry[effect.mapping]
        try:
            if effect.reference is None:
                return Event(lane, effect.mapping, mapping.canonical(values))
            text = mapping.canonical_reference(effect.reference, values[0])
        except InvalidKey:
            # The value fits no key of ours, but the backend's change may be valid.
            return self.everything(effect)
        return Event(lane, effect.mapping, (text,), effect.reference)


def touches(changed: frozenset[str] | None, columns: frozenset[str] | None) -> bool:
    """Return whether one of the `changed` columns may be in `columns`; None is any column."""
    if changed is None or columns is None:
        return changed is None or bool(changed)
    return not changed.isdisjoint(columns)
