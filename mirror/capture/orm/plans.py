"""How the rows of a mapped class are found, read and compared, per table that is mirrored."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from sqlalchemy import (
    CHAR,
    Connection,
    Dialect,
    Enum,
    Integer,
    String,
    Text,
    Uuid,
    cast,
    select,
    tuple_,
)
from sqlalchemy.orm import InstanceState, Mapper
from sqlalchemy.orm.exc import UnmappedColumnError
from sqlalchemy.sql import ClauseElement
from sqlalchemy.types import TypeEngine

from mirror.capture.orm.meaning import RowEvents, RowValues, touches
from mirror.model.query.effects import Effect

_CHUNK = 500
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NO_EXPRESSION = TypeEngine.bind_expression


@dataclass(frozen=True, eq=False)
class Plan:
    """One mapped class and one of its tables that mappings read."""

    table: Any
    effects: tuple[Effect, ...]
    columns: dict[str, Any]
    """The table's columns by the names they have in the database."""
    attributes: dict[str, str]
    """The class's attributes by those names."""
    identity: dict[str, int]
    """Where a column's value is in an object's identity, which is true even if all else is old."""
    where: tuple[Any, ...]
    """The columns of the table that hold the identity; empty if some does not."""
    by_itself: frozenset[str]
    """Columns that change with any other: `onupdate`, and the version counter."""

    @cached_property
    def named(self) -> frozenset[str]:
        """The columns that events name."""
        return frozenset(name for effect in self.effects for name in effect.columns)

    def changed(self, state: InstanceState[Any]) -> frozenset[str]:
        """Return the columns whose attributes have changed since they were loaded."""
        found = {
            name
            for name, key in self.attributes.items()
            if key in state.committed_state and state.attrs[key].history.has_changes()
        }
        return self._with_others(found)

    def changed_by(self, attributes: set[str]) -> frozenset[str]:
        """Return the columns that change with these attributes."""
        return self._with_others(
            {name for name, key in self.attributes.items() if key in attributes}
        )

    def _with_others(self, names: set[str]) -> frozenset[str]:
        return frozenset(names | self.by_itself) if names else frozenset()

    def must_be_read(self, changed: frozenset[str] | None) -> bool:
        """Tell whether such a change (None: a delete) concerns more than the identity tells.

        Any other value may be one that somebody else has replaced since it was loaded.
        """
        return any(
            not self.identity.keys() >= set(effect.columns)
            for effect in self.effects
            if changed is None or touches(changed, effect.reads)
        )

    def by_identity(self, identity: Any, dialect: Dialect) -> dict[str, str | None]:
        """Return the columns that are in an object's identity; those of which we know the text."""
        return self._texts(
            {name: identity[place] for name, place in self.identity.items()}, dialect
        )

    def by_attribute(self, values: Any, dialect: Dialect) -> dict[str, str | None]:
        """Return the named columns that are among values by attribute."""
        shown = {
            name: values[key]
            for name, key in self.attributes.items()
            if name in self.named and key in values
        }
        return self._texts(shown, dialect)

    def read(
        self, connection: Connection, identities: Sequence[Any], *, lock: bool = False
    ) -> dict[Any, RowValues]:
        """Return the named columns of rows as they are, by identity; those that are there.

        `lock` as an UPDATE would: until the end of the transaction they stay what they are.
        """
        named = sorted(self.named)
        if not self.where or any(name not in self.columns for name in named):
            return {}
        wanted = select(*self.where, *(cast(self.columns[name], Text) for name in named)).order_by(
            *self.where
        )
        if lock:
            wanted = wanted.with_for_update(key_share=True)
        rows: dict[Any, RowValues] = {}
        several = len(self.where) > 1
        for start in range(0, len(identities), _CHUNK):
            chunk = identities[start : start + _CHUNK]
            condition = (
                tuple_(*self.where).in_(chunk)
                if several
                else self.where[0].in_([identity[0] for identity in chunk])
            )
            for row in connection.execute(wanted.where(condition)):
                identity = tuple(row[: len(self.where)])
                rows[identity] = dict(zip(named, row[len(self.where) :], strict=True))
        return rows

    def _texts(self, values: dict[str, Any], dialect: Dialect) -> dict[str, str | None]:
        texts: dict[str, str | None] = {}
        for name, value in values.items():
            text = text_of(self.columns[name].type, value, dialect) if value is not None else None
            if value is None or text is not None:
                texts[name] = text
        return texts


class Plans:
    """The plans of mapped classes, made when one is first seen."""

    def __init__(self, meaning: RowEvents) -> None:
        self.meaning = meaning
        self._made: WeakKeyDictionary[Mapper[Any], tuple[Plan, ...]] = WeakKeyDictionary()

    def of(self, mapper: Mapper[Any]) -> tuple[Plan, ...]:
        """Return one plan for each mirrored table of a mapped class; for most there is none."""
        made = self._made.get(mapper)
        if made is None:
            made = self._made[mapper] = tuple(self._make(mapper))
        return made

    def _make(self, mapper: Mapper[Any]) -> Iterator[Plan]:
        for table in mapper.tables:
            effects = self.meaning.of(table)
            if effects:
                yield _plan(mapper, table, effects)


def _plan(mapper: Mapper[Any], table: Any, effects: tuple[Effect, ...]) -> Plan:
    attributes: dict[str, str] = {}
    for column in table.c:
        try:
            attributes[column.name] = mapper.get_property_by_column(column).key
        except UnmappedColumnError:
            continue
    keys = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
    by_attribute = {key: name for name, key in attributes.items() if key in keys}
    itself = changing_by_themselves(table.c)
    version = mapper.version_id_col
    if version is not None and version.table is table:
        itself.add(version.name)
    columns = {column.name: column for column in table.c}
    return Plan(
        table,
        effects,
        columns,
        attributes,
        identity={name: keys.index(key) for key, name in by_attribute.items()},
        where=tuple(columns[by_attribute[key]] for key in keys)
        if len(by_attribute) == len(keys)
        else (),
        by_itself=frozenset(itself),
    )


def changing_by_themselves(columns: Any) -> set[str]:
    """Return the names of columns that change with any UPDATE."""
    return {
        column.name
        for column in columns
        if getattr(column, "onupdate", None) is not None
        or getattr(column, "server_onupdate", None) is not None
    }


def text_of(kind: Any, value: Any, dialect: Dialect) -> str | None:
    """Return the text that a value becomes in a column, or None where only the database knows."""
    if isinstance(value, ClauseElement) or type(kind).bind_expression is not _NO_EXPRESSION:
        return None
    if isinstance(kind, Enum):
        # What the database holds of a member is its name, or whatever values_callable says.
        process = kind.dialect_impl(dialect).bind_processor(dialect)
        value = process(value) if process else value
        return str.__str__(value) if isinstance(value, str) else None
    if isinstance(kind, Uuid):
        known = isinstance(value, UUID) or (isinstance(value, str) and _UUID.fullmatch(value))
        return str(value).lower() if known else None
    if isinstance(kind, Integer):
        number = isinstance(value, int) and not isinstance(value, bool)
        return int.__repr__(value) if number else None
    known = isinstance(kind, String) and not isinstance(kind, CHAR) and isinstance(value, str)
    return str.__str__(value) if known else None
