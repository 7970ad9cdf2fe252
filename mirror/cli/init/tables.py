"""Tables: finds the tables of the primary, in SQLAlchemy models or in the database itself.

Both give SQLAlchemy's own description of a table, so all that follows is the same for both.
"""

import importlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final

from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    Enum,
    MetaData,
    Table,
    UniqueConstraint,
)
from sqlalchemy import inspect as mapper_of
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import NoReferenceError, SAWarning, SQLAlchemyError
from sqlalchemy.orm import Mapper, configure_mappers, registry
from sqlalchemy.types import TypeDecorator, TypeEngine

from mirror.errors import UsageError

_DIALECT: Final = postgresql.dialect()  # type: ignore[no-untyped-call]

_TYPES: Final = {
    "UUID": "uuid",
    "BIGINT": "bigint",
    "INTEGER": "integer",
    "SMALLINT": "smallint",
    "TEXT": "text",
    "VARCHAR": "text",
    "CHAR": "text",
    "CITEXT": "text",
    "BOOLEAN": "boolean",
    "TIMESTAMP WITH TIME ZONE": "timestamptz",
    "TIMESTAMP WITHOUT TIME ZONE": "timestamp",
    "DATE": "date",
}


@dataclass(frozen=True)
class Tables:
    """The tables of the primary, and the mapped class of each that has one."""

    by_name: dict[str, Table]
    """By name as in SQL, with the schema if it is given: `trips`, `app.trips`."""
    classes: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By the same name: the module and the name of the mapped class."""
    mappers: dict[str, Mapper[Any]] = field(default_factory=dict)
    """By the same name: the class's mapper."""

    def named(self, name: str) -> Table:
        """Return the table of a name that is known to exist."""
        return self.by_name[name]


def tables_of_models(name: str) -> Tables:
    """Import a module and return the tables that its models, and those that it imports, declare.

    Raises:
        UsageError: the module does not import, or has no models.
    """
    try:
        module = importlib.import_module(name)
        configure_mappers()
    except Exception as error:
        raise UsageError(
            f"--models: module {name!r} does not import ({type(error).__name__}: {error}); run the "
            f"command where your backend runs, and name the module with dots, as in app.models."
        ) from error
    tables: dict[str, Table] = {}
    for metadata in _metadata(module):
        tables |= {table.key: table for table in metadata.tables.values()}
    if not tables:
        raise UsageError(
            f"--models: module {name!r} declares and imports no SQLAlchemy model; name the module "
            f"that does, or look at the database itself with --database."
        )
    classes, mappers = {}, {}
    for mapper in _mappers(module):
        table, kind = mapper.local_table, mapper.class_
        # With inheritance, a query for a class may read other tables, too.
        alone = mapper.inherits is None and isinstance(table, Table)
        if alone and isinstance(table, Table) and "." not in kind.__qualname__:
            home = name if getattr(module, kind.__name__, None) is kind else kind.__module__
            classes[table.key] = (home, kind.__name__)
            mappers[table.key] = mapper
    return Tables(tables, classes, mappers)


def tables_of_database(connection: Connection, schema: str | None) -> Tables:
    """Return the tables of a schema of the database; None: that in which tables are created.

    Raises:
        UsageError: there is none.
    """
    metadata = MetaData()
    with warnings.catch_warnings():
        # A column of a type that SQLAlchemy does not know decides no access.
        warnings.simplefilter("ignore", SAWarning)
        metadata.reflect(connection, schema=schema)
    tables = {t.key: t for t in metadata.tables.values() if t.schema == schema}
    if not tables:
        raise UsageError(
            "--database: the primary has no table there; name the schema with --schema, and check "
            "PRIMARY_DATABASE_URL."
        )
    return Tables(tables)


def type_of(column: Column[Any]) -> str | None:
    """Return a column's type as a mapping declares it; None: no key, role or condition has it."""
    kind: TypeEngine[Any] = column.type
    if isinstance(kind, TypeDecorator):
        kind = kind.load_dialect_impl(_DIALECT)
    if isinstance(kind, Enum):
        return "text"
    try:
        spelled = kind.compile(dialect=_DIALECT)
    except SQLAlchemyError:
        return None
    return _TYPES.get(re.sub(r"\(.*?\)", "", spelled).strip())


def values_of(column: Column[Any]) -> tuple[str, ...]:
    """Return the values that an enum, or a CHECK of the table, allows in a column, in their order.

    Empty: any value is allowed, or the CHECK is more than a list.
    """
    kind: Any = column.type
    if isinstance(kind, TypeDecorator):
        kind = kind.load_dialect_impl(_DIALECT)
    if isinstance(kind, Enum):
        return tuple(map(str, kind.enums))
    name = re.escape(column.name)
    listed = re.compile(rf'\(*"?{name}"?\)?(::\w+)?\s*(=\s*any\b|in\s*\()', re.IGNORECASE)
    for constraint in column.table.constraints:
        if isinstance(constraint, CheckConstraint):
            text = str(constraint.sqltext)
            if listed.match(text) and not re.search(r"\b(and|or)\b", text, re.IGNORECASE):
                return tuple(re.findall(r"'([^']*)'", text))
    return ()


def target_of(column: Column[Any], tables: Tables) -> tuple[str, str] | None:
    """Return the table and the column to which a column points by a foreign key; None: it has none.

    A table that was not found counts as none.
    """
    for key in column.foreign_keys:
        try:
            target = key.column
        except NoReferenceError:
            continue
        if target.table.key in tables.by_name:
            return target.table.key, target.name
    return None


def is_unique(table: Table, columns: set[str], *, gone: set[str]) -> bool:
    """Return whether at most one row of a table that counts has given values in these columns.

    An index of a part of the rows counts only if it leaves out those in which a column of `gone` is
    not NULL.
    """
    return any(found == columns for found in _unique(table, gone))


def _unique(table: Table, gone: set[str]) -> Iterator[set[str]]:
    yield {column.name for column in table.primary_key}
    for constraint in table.constraints:
        if isinstance(constraint, UniqueConstraint):
            yield {column.name for column in constraint.columns}
    for index in table.indexes:
        where = index.dialect_options["postgresql"]["where"]
        alive = re.fullmatch(r'\(*(\w+\.)?"?(\w+)"? IS NULL\)*', str(where), re.IGNORECASE)
        if index.unique and (where is None or (alive and alive[2] in gone)):
            yield {getattr(expression, "name", "") or "" for expression in index.expressions}
    for column in table.columns:
        if column.unique:
            yield {column.name}


def _metadata(module: ModuleType) -> list[MetaData]:
    """Return the MetaData of the models, tables and bases that a module has as attributes."""
    found: dict[int, MetaData] = {}
    for value in vars(module).values():
        metadata = value if isinstance(value, MetaData) else getattr(value, "metadata", None)
        if isinstance(metadata, MetaData):
            found[id(metadata)] = metadata
    return list(found.values())


def _mappers(module: ModuleType) -> list[Mapper[Any]]:
    """Return the mappers of all classes that share a registry with a class of the module."""
    found: dict[int, Mapper[Any]] = {}
    for value in vars(module).values():
        if isinstance(value, type):
            mapper: object = mapper_of(value, raiseerr=False)
            declared = mapper.registry if isinstance(mapper, Mapper) else None
            for each in (declared, getattr(value, "registry", None)):
                if isinstance(each, registry):
                    found |= {id(one): one for one in each.mappers}
    return list(found.values())
