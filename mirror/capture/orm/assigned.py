"""Assigned: finds the columns that a statement assigns values to."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy.orm import ColumnProperty, Mapper

from mirror.capture.orm.catalog import Catalog, name_of
from mirror.capture.orm.plans import auto_updated_columns


def assigned(
    statement: Any, parameters: Any, mapper: Mapper[Any] | None, catalog: Catalog
) -> frozenset[str] | None:
    """Return the names, in the database, of the columns that an UPDATE sets; None: unknown.

    They include the columns that change with any UPDATE.
    """
    # There is no public way; the version of SQLAlchemy decides which of the two has the values.
    keys = [*(statement._values or ())]  # noqa: SLF001
    keys += [key for key, _ in getattr(statement, "_ordered_values", None) or ()]
    names = _names(keys, statement, mapper)
    if names is None:
        return None
    if isinstance(parameters, Mapping):
        # Keys that name no column are parameters of bindparam().
        names |= {name for key in parameters if (name := _name(key, statement, mapper)) is not None}
    return frozenset(names | auto_updated_columns(statement.table, catalog))


def on_conflict(statement: Any, catalog: Catalog) -> frozenset[str] | None:
    """Return the columns that an INSERT … ON CONFLICT sets in a row that already exists.

    Empty: it updates no row. None: the columns are unknown, so it may be any. Columns of the
    conflict target are excluded if the statement sets them to the proposed values: those are equal
    to the row's.
    """
    clause: Any = getattr(statement, "_post_values_clause", None)
    if clause is None:
        return frozenset()
    # Pairs before SQLAlchemy 2.1.
    pairs: dict[Any, Any] = dict(getattr(clause, "update_values_to_set", ()))
    names = _names(pairs, statement, None)
    target = _names(clause.inferred_target_elements or (), statement, None)
    if names is None:
        return None
    set_as_proposed = {
        value.name
        for value in pairs.values()
        if getattr(getattr(value, "table", None), "name", None) == "excluded"
    }
    updated = names - (set_as_proposed & (target or set()))
    return frozenset(updated | catalog.computed(name_of(statement.table)) if names else ())


def _names(keys: Iterable[Any], statement: Any, mapper: Mapper[Any] | None) -> set[str] | None:
    names = [_name(key, statement, mapper) for key in keys]
    return None if None in names else set(filter(None, names))


def _name(key: Any, statement: Any, mapper: Mapper[Any] | None) -> str | None:
    """Return a column's name in the database; `key` is a column, an attribute or their name.

    None: `key` is no column of the table, so the name is unknown.
    """
    if not isinstance(key, str):
        return getattr(key, "name", None)
    if mapper is not None and key in mapper.attrs:
        attribute = mapper.attrs[key]
        return attribute.columns[0].name if isinstance(attribute, ColumnProperty) else None
    column = statement.table.c.get(key)
    return None if column is None else str(column.name)
