"""Which columns a statement assigns to."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy.orm import ColumnProperty, Mapper

from mirror.capture.orm.plans import changing_by_themselves


def assigned(statement: Any, parameters: Any, mapper: Mapper[Any] | None) -> frozenset[str] | None:
    """Return the columns that an UPDATE sets, by name; None if that cannot be seen.

    Those that change with any UPDATE are among them.
    """
    # There is no public way to them; which of the two it is depends on SQLAlchemy's version.
    keys = [*(statement._values or ())]  # noqa: SLF001
    keys += [key for key, _ in getattr(statement, "_ordered_values", None) or ()]
    names = _names(keys, statement, mapper)
    if names is None:
        return None
    if isinstance(parameters, Mapping):
        # Others are the values of bindparam().
        names |= {name for key in parameters if (name := _name(key, statement, mapper)) is not None}
    return frozenset(names | changing_by_themselves(statement.table.c))


def on_conflict(statement: Any) -> frozenset[str] | None:
    """Return the columns that an INSERT sets of a row that is there already; None: any.

    Without those by which it was recognised, if they are set to what they are.
    """
    clause: Any = getattr(statement, "_post_values_clause", None)
    if clause is None:
        return frozenset()
    # Pairs before SQLAlchemy 2.1.
    pairs: dict[Any, Any] = dict(getattr(clause, "update_values_to_set", ()))
    names = _names(pairs, statement, None)
    recognised = _names(clause.inferred_target_elements or (), statement, None)
    if names is None:
        return None
    same = {
        value.name
        for value in pairs.values()
        if getattr(getattr(value, "table", None), "name", None) == "excluded"
    }
    return frozenset(names - (same & (recognised or set())))


def _names(keys: Iterable[Any], statement: Any, mapper: Mapper[Any] | None) -> set[str] | None:
    names = [_name(key, statement, mapper) for key in keys]
    return None if None in names else set(filter(None, names))


def _name(key: Any, statement: Any, mapper: Mapper[Any] | None) -> str | None:
    """Return a column's name in the database, by whatever a statement calls it."""
    if not isinstance(key, str):
        return getattr(key, "name", None)
    if mapper is not None and key in mapper.attrs:
        attribute = mapper.attrs[key]
        return attribute.columns[0].name if isinstance(attribute, ColumnProperty) else None
    column = statement.table.c.get(key)
    return None if column is None else str(column.name)
