"""What a changed row means, as events; for every way in which the ORM changes rows.

A row is its table's columns by name, as the text that PostgreSQL prints for them. None instead
of a row, or a column that is missing in it, means that nobody can tell: then everything is read
again, which is slow and right, where a guess would be fast and sometimes wrong.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from sqlalchemy import Alias

from mirror.capture.outbox import Event, Lane
from mirror.errors import InvalidKey
from mirror.model.mapping import EVERYTHING
from mirror.model.query.effects import Effect
from mirror.model.registry import Registry

RowValues: TypeAlias = Mapping[str, str | None]

_DEFAULT_SCHEMA = "public."


class RowEvents:
    """The effects of one registry, looked up by SQLAlchemy's tables."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._effects: dict[str, tuple[Effect, ...]] = {}
        for table, effects in registry.effects.items():
            name = table.removeprefix(_DEFAULT_SCHEMA)
            self._effects[name] = (*self._effects.get(name, ()), *effects)

    def of(self, table: Any) -> tuple[Effect, ...]:
        """Return what a row of a table, or of an alias of one, means; nothing for most."""
        while isinstance(table, Alias):
            table = table.element
        schema = getattr(table, "schema", None)
        name = f"{schema}.{table.name}" if schema else str(getattr(table, "name", ""))
        return self._effects.get(name.removeprefix(_DEFAULT_SCHEMA), ())

    def inserted(self, effect: Effect, new: RowValues | None) -> Iterator[Event]:
        """Yield the event of a row that is new."""
        yield from self._event(effect, new, Lane.GRANT if effect.adds else Lane.REVOCATION)

    def deleted(self, effect: Effect, old: RowValues | None) -> Iterator[Event]:
        """Yield the event of a row that is gone."""
        yield from self._event(effect, old, Lane.REVOCATION)

    def updated(
        self,
        effect: Effect,
        changed: frozenset[str] | None,
        old: RowValues | None,
        new: RowValues | None,
    ) -> Iterator[Event]:
        """Yield the events of a row of which some columns have changed; None: any may have."""
        if not touches(changed, effect.reads):
            return
        moved = touches(changed, frozenset(effect.columns))
        lane = Lane.REVOCATION if moved or touches(changed, effect.decides) else Lane.GRANT
        yield from self._event(effect, old, lane)
        if moved:
            yield from self._event(effect, new, lane)

    def everything(self, effect: Effect) -> Event:
        """Return the event that has the whole mapping read again."""
        return Event(Lane.REVOCATION, effect.mapping, (), EVERYTHING)

    def _event(self, effect: Effect, row: RowValues | None, lane: Lane) -> Iterator[Event]:
        if effect.reference == EVERYTHING:
            yield Event(lane, effect.mapping, (), EVERYTHING)
        elif row is None or any(name not in row for name in effect.columns):
            yield self.everything(effect)
        else:
            values = [row[name] for name in effect.columns]
            if None not in values:
                yield self._named(effect, values, lane)
            elif effect.nulls:
                yield Event(lane, effect.mapping, (), EVERYTHING)

    def _named(self, effect: Effect, values: list[str | None], lane: Lane) -> Event:
        mapping = self._registry[effect.mapping]
        try:
            if effect.reference is None:
                return Event(lane, effect.mapping, mapping.canonical(values))
            text = mapping.canonical_reference(effect.reference, values[0])
        except InvalidKey:
            # The change itself is the backend's business, and may be fine.
            return self.everything(effect)
        return Event(lane, effect.mapping, (text,), effect.reference)


def touches(changed: frozenset[str] | None, columns: frozenset[str] | None) -> bool:
    """Tell whether a change may be one of these columns; None: any column."""
    if changed is None or columns is None:
        return changed is None or bool(changed)
    return not changed.isdisjoint(columns)
