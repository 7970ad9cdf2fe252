"""Plans: find, read and compare the rows of a mapped class, for each mirrored table."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
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
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import InstanceState, Mapper, Session
from sqlalchemy.orm.exc import UnmappedColumnError
from sqlalchemy.sql import ClauseElement
from sqlalchemy.types import TypeEngine

from mirror.capture.orm.catalog import Catalog, name_of
from mirror.capture.orm.row_events import RowEvents, RowValues, touches
from mirror.model.query.effects import Effect

_CHUNK = 500
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NO_EXPRESSION = TypeEngine.bind_expression


@dataclass(frozen=True, eq=False)
class Plan:
    """How rows of a mapped class in one of its tables are found, read and compared.

    Mappings read the table.
    """

    table: Any
    effects: tuple[Effect, ...]
    columns: dict[str, Any]
    """The table's columns, by their names in the database."""
    attributes: dict[str, str]
    """The class's attributes, by the same names."""
    identity: dict[str, int]
    """The position of a column's value in an object's identity. The identity is right even if the
    other loaded values are old."""
    where: tuple[Any, ...]
    """The columns of the table that hold the identity; empty if the table lacks one of them."""
    auto_updated: frozenset[str]
    """Columns that may change with every UPDATE: those with `onupdate`, those that the database
    computes, and the version counter; if a trigger may replace values, all."""
    altered: frozenset[str]
    """Columns of which the database may have another text than the session's value."""

    @cached_property
    def named(self) -> frozenset[str]:
        """The columns whose values name the keys and scopes in events."""
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
        """Return the columns that change if these attributes of an object are set."""
        return self._with_others(
            {name for name, key in self.attributes.items() if key in attributes}
        )

    def _with_others(self, names: set[str]) -> frozenset[str]:
        return frozenset(names | self.auto_updated) if names else frozenset()

    def must_be_read(self, changed: frozenset[str] | None) -> bool:
        """Return whether events of a row need values from the database, not only its identity.

        `changed` are the columns that change; None: the row is deleted. Another transaction may
        have replaced any value outside of the identity since it was loaded.
        """
        return any(
            not self.identity.keys() >= set(effect.columns)
            for effect in self.effects
            if changed is None or touches(changed, effect.reads)
        )

    def by_identity(self, identity: Any, dialect: Dialect) -> dict[str, str | None]:
        """Return the texts, by column, of an object's identity; without those that are unknown."""
        return self._texts(
            {name: identity[place] for name, place in self.identity.items()}, dialect
        )

    def by_attribute(self, values: Any, dialect: Dialect) -> dict[str, str | None]:
        """Return the texts, by column of `named`, of values by attribute; without unknown ones."""
        known = {
            name: values[key]
            for name, key in self.attributes.items()
            if name in self.named and name not in self.altered and key in values
        }
        return self._texts(known, dialect)

    def read(
        self, connection: Connection, identities: Sequence[Any], *, lock: bool = False
    ) -> dict[Any, RowValues]:
        """Read the columns in `named`; return them by identity, for the rows that exist.

        `lock` locks the rows as an UPDATE does, so that they stay unchanged until the transaction
        ends.
        """
        names = sorted(self.named)
        if not self.where or any(name not in self.columns for name in names):
            return {}
        query = select(*self.where, *(cast(self.columns[name], Text) for name in names)).order_by(
            *self.where
        )
        if lock:
            query = query.with_for_update(key_share=True)
        rows: dict[Any, RowValues] = {}
        several = len(self.where) > 1
        for start in range(0, len(identities), _CHUNK):
            chunk = identities[start : start + _CHUNK]
            condition = (
                tuple_(*self.where).in_(chunk)
                if several
                else self.where[0].in_([identity[0] for identity in chunk])
            )
            for row in connection.execute(query.where(condition)):
                identity = tuple(row[: len(self.where)])
                rows[identity] = dict(zip(names, row[len(self.where) :], strict=True))
        return rows

    def _texts(self, values: dict[str, Any], dialect: Dialect) -> dict[str, str | None]:
        texts: dict[str, str | None] = {}
        for name, value in values.items():
            text = text_of(self.columns[name].type, value, dialect) if value is not None else None
            if value is None or text is not None:
                texts[name] = text
        return texts


class Plans:
    """The plans of mapped classes, made at the first use of a class."""

    def __init__(self, row_events: RowEvents) -> None:
        self.row_events = row_events
        self._made: WeakKeyDictionary[Mapper[Any], tuple[Plan, ...]] = WeakKeyDictionary()
        row_events.catalog.caches.append(self._made)

    def of(self, mapper: Mapper[Any]) -> tuple[Plan, ...]:
        """Return one plan for each mirrored table of a mapped class; most classes have none."""
        plans = self._made.get(mapper)
        if plans is None:
            plans = self._made[mapper] = tuple(self._make(mapper))
        return plans

    def ask_database(self, session: Session, bind_arguments: dict[str, Any]) -> None:
        """Ask the database that a session would use, if it was not asked yet: see Catalog."""
        # A session without a database for this class fails by itself, if it has a change to write.
        with suppress(UnboundExecutionError):
            if not self.row_events.catalog.knows(session.get_bind(**bind_arguments).engine):
                connection = session.connection(bind_arguments=dict(bind_arguments))
                self.row_events.catalog.ask(connection)

    def _make(self, mapper: Mapper[Any]) -> Iterator[Plan]:
        for table in mapper.tables:
            effects = self.row_events.of(table)
            if effects:
                yield _plan(mapper, table, effects, self.row_events.catalog)


def _plan(mapper: Mapper[Any], table: Any, effects: tuple[Effect, ...], catalog: Catalog) -> Plan:
    attributes: dict[str, str] = {}
    for column in table.c:
        try:
            attributes[column.name] = mapper.get_property_by_column(column).key
        except UnmappedColumnError:
            continue
    keys = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
    by_attribute = {key: name for name, key in attributes.items() if key in keys}
    auto_updated = auto_updated_columns(table, catalog)
    if catalog.rewrites(name_of(table)):
        auto_updated.update(*((*e.columns, *(e.reads or ())) for e in effects))
    version = mapper.version_id_col
    if version is not None and version.table is table:
        auto_updated.add(version.name)
    columns = {column.name: column for column in table.c}
    return Plan(
        table,
        effects,
        columns,
        attributes,
        # A trigger makes no difference here: objects with another identity than their row's can be
        # neither updated nor deleted.
        identity={
            name: keys.index(key)
            for key, name in by_attribute.items()
            if catalog.has_type(name_of(table), name, columns[name].type)
        },
        where=tuple(columns[by_attribute[key]] for key in keys)
        if len(by_attribute) == len(keys)
        else (),
        auto_updated=frozenset(auto_updated),
        altered=catalog.altered(table),
    )


def auto_updated_columns(table: Any, catalog: Catalog) -> set[str]:
    """Return the names of a table's columns that may change with every UPDATE."""
    return {
        column.name
        for column in table.c
        if getattr(column, "onupdate", None) is not None
        or getattr(column, "server_onupdate", None) is not None
    } | catalog.computed(name_of(table))


def text_of(kind: Any, value: Any, dialect: Dialect) -> str | None:
    """Return the text that PostgreSQL prints for a value of type `kind`; None: it is unknown."""
    if isinstance(value, ClauseElement) or type(kind).bind_expression is not _NO_EXPRESSION:
        return None
    if isinstance(kind, Enum):
        # The database holds a member's name, or the text from values_callable.
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
    # PostgreSQL may cut blanks at the end, to make a text fit its column.
    return str.__str__(value) if known and not value.endswith(" ") else None
