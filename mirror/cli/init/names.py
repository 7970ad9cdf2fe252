"""Names: how the written module refers to tables and columns of the primary.

A table with a mapped class is used by that class, any other by a small `table(…)` of its own.
"""

import keyword
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Final

from sqlalchemy import Table
from sqlalchemy.sql import ColumnCollection

from mirror.cli.init.layout import Group, Part, assignment, call, quoted
from mirror.cli.init.model import AnyColumn
from mirror.cli.init.tables import Tables, type_of
from mirror.cli.init.words import snake

_TYPES: Final = {
    "uuid": "Uuid",
    "bigint": "BigInteger",
    "integer": "Integer",
    "smallint": "SmallInteger",
    "text": "Text",
    "boolean": "Boolean",
    "timestamptz": "DateTime(timezone=True)",
    "timestamp": "DateTime",
    "date": "Date",
}
# Names that the written module imports or defines.
_TAKEN: Final = frozenset(
    ("aliased", "and_", "case", "cast", "column", "func", "registry", "select", "table")
)


class Names:
    """The names of tables and columns, and the statements that define them."""

    def __init__(self, tables: Tables, declared: Collection[str] = ()) -> None:
        """`declared` are the names that the module gives to its declarations."""
        self._tables = tables
        self._declared = declared
        self._core: dict[str, dict[str, AnyColumn]] = {}
        self._modules: dict[str, str] = {}
        self._aliases: list[str] = []
        self._imported: set[str] = set()

    def use(self, *names: str) -> None:
        """Note that the module imports these names from SQLAlchemy."""
        self._imported.update(names)

    def table(self, table: Table) -> str:
        """Return the expression for a table: `models.Trip` or `_trips`."""
        if table.key in self._tables.classes:
            module, name = self._tables.classes[table.key]
            return f"{self._module(module)}.{name}"
        self._core.setdefault(table.key, {})
        return f"_{variable(table.key)}"

    def column(self, column: AnyColumn, of: str | None = None) -> str:
        """Return the expression for a column: `models.Trip.id` or `_trips.c.id`.

        `of` is the expression for an alias of the table.
        """
        table = self.table(column.table)
        attribute = self._attribute(column)
        if attribute is not None:
            return f"{of or table}.{attribute}"
        self._core[column.table.key][column.name] = column
        plain = column.name.isidentifier() and not keyword.iskeyword(column.name)
        if plain and not hasattr(ColumnCollection, column.name) and column.name[0] != "_":
            return f"{of or table}.c.{column.name}"
        return f"{of or table}.c[{quoted(column.name)}]"

    def selected(self, column: AnyColumn, label: str | None = None) -> Part:
        """Return the expression by which a query selects a column under a label."""
        label = column.name if label is None else label
        own = self._attribute(column) or column.name
        expression = self.column(column)
        return expression if own == label else labelled(expression, label)

    def alias(self, table: Table, name: str) -> str:
        """Return the expression for a second occurrence of a table in a query."""
        if table.key in self._tables.classes:
            made = call("aliased", self.table(table), f"name={quoted(name)}")
        else:
            made = call(f"{self.table(table)}.alias", quoted(name))
        self._aliases.append(assignment(f"_{name}", made))
        return f"_{name}"

    def imports(self, declarations: Sequence[str]) -> str:
        """Return the import statements; `declarations` are the names that come from `mirror`."""
        names = {*self._imported, *(["column", "table"] if self._core else [])}
        for columns in self._core.values():
            names |= {
                _TYPES[type_of(column) or "text"].partition("(")[0] for column in columns.values()
            }
        lines = [_from("mirror", declarations), _from("sqlalchemy", names)]
        if any("aliased(" in alias for alias in self._aliases):
            lines.append(_from("sqlalchemy.orm", ["aliased"]))
        own = _imports_of_models(self._modules)
        return "\n".join([*lines, *([""] if own else []), *own])

    def definitions(self) -> str:
        """Return the statements that define tables and aliases; empty: there are none."""
        statements = []
        for key, columns in self._core.items():
            table = self._tables.named(key)
            parts: list[Part] = [quoted(table.name)]
            parts += [
                call("column", quoted(name), _TYPES[type_of(column) or "text"])
                for name, column in columns.items()
            ]
            if table.schema is not None:
                parts.append(f"schema={quoted(table.schema)}")
            made = Group("table(", parts)
            statements.append(assignment(f"_{variable(key)}", made))
        return "\n".join([*statements, *self._aliases])

    def _attribute(self, column: AnyColumn) -> str | None:
        """Return the class's attribute for a column; None: the table has no class."""
        mapper = self._tables.mappers.get(column.table.key)
        if mapper is None:
            return None
        if column in mapper.columns.values():
            return mapper.get_property_by_column(column).key
        return f"__table__.c[{quoted(column.name)}]"

    def _module(self, module: str) -> str:
        """Return the name under which a module of models is imported."""
        if module not in self._modules:
            name = module.rpartition(".")[2]
            if name in {*_TAKEN, *self._declared, *self._modules.values()}:
                name = f"{snake(module.replace('.', '_'))}_models"
            self._modules[module] = name
        return self._modules[module]


def variable(name: str) -> str:
    """Return a name as a variable of the module."""
    plain = snake(name.replace(".", "_"))
    if keyword.iskeyword(plain) or plain in _TAKEN or not plain.isidentifier():
        return f"{plain}_" if plain.isidentifier() else f"t_{plain}"
    return plain


def labelled(expression: str, label: str) -> Part:
    """Return an expression with a label."""
    return call(f"{expression}.label", quoted(label))


def _from(module: str, names: Sequence[str] | set[str]) -> str:
    ordered = sorted(set(names), key=_import_order)
    flat = f"from {module} import {', '.join(ordered)}"
    if len(flat) <= 100:  # noqa: PLR2004 - the width of a line
        return flat
    return "\n".join(Group(f"from {module} import (", ordered, apart=True).lines(0))


def _import_order(name: str) -> tuple[bool, str]:
    return (not name[0].isupper(), name)


def _imports_of_models(modules: dict[str, str]) -> list[str]:
    """Return the imports of modules under names, in the usual order."""
    plain, grouped = [], defaultdict[str, list[str]](list)
    for module, name in sorted(modules.items()):
        package, _, last = module.rpartition(".")
        renamed = last if name == last else f"{last} as {name}"
        if package:
            grouped[package].append(renamed)
        else:
            plain.append(f"import {renamed}")
    return plain + [_from(package, names) for package, names in grouped.items()]
