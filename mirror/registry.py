"""Registry: one permission model, a set of mappings that has been checked as a whole."""

import importlib
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Protocol

from sqlalchemy import TableClause
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import ColumnElement, TextClause
from sqlalchemy.sql.functions import FunctionElement

from mirror.errors import ConfigError, MappingError
from mirror.keys import KEY_TYPES
from mirror.mapping import Mapping, Parent

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")

# Equal fences promise equal data only where a query asks nothing but rows.
_UNSTABLE = re.compile(
    r"\b(now|(transaction|statement|clock)_timestamp|timeofday|current_(timestamp|date|time"
    r"|setting|user|role|catalog|schema|schemas)|local(time|timestamp)|session_user|user"
    r"|random|random_normal|setseed|gen_random_uuid|uuidv[47]|uuid_generate_v[14]\w*"
    r"|nextval|currval|lastval|txid_\w+|pg_\w+|inet_(client|server)_\w+|age|dblink\w*)\b",
    re.IGNORECASE,
)


class Access(Protocol):
    """Something that turns mirrored rows into decisions: helper functions for policies."""

    def ddl(self, registry: "Registry") -> list[str]:
        """Return the SQL blocks that install it in the target, each re-runnable."""
        ...


class Registry:
    """The mappings of one permission model, in an order that puts parents first.

    Raises:
        MappingError: a declaration that cannot work; names the mapping and the remedy.
    """

    def __init__(
        self, name: str, mappings: Sequence[Mapping], *, access: Sequence[Access] = ()
    ) -> None:
        if not _NAME.fullmatch(name):
            raise MappingError(f"registry {name!r}: use a name of lower-case letters, digits, _.")
        self.name = name
        self.access = tuple(access)
        self._by_name: dict[str, Mapping] = {}
        for mapping in mappings:
            if mapping.name in self._by_name:
                raise MappingError(
                    f"mapping {mapping.name!r} is declared twice in registry {name!r}; "
                    f"rename one of them."
                )
            self._by_name[mapping.name] = mapping
        for mapping in mappings:
            _check_columns(mapping)
            _check_query(mapping)
            _check_sources(mapping)
            self._check_parents(mapping)
        tables = [(mapping.schema, mapping.table) for mapping in mappings]
        for mapping, table in zip(mappings, tables, strict=True):
            if tables.count(table) > 1:
                raise MappingError(
                    f"mapping {mapping.name!r}: another mapping writes {'.'.join(table)} too; "
                    f"give each mapping a table of its own, or make them one union query."
                )
        self._ordered = tuple(self._by_name[name] for name in self._parents_first())

    def __iter__(self) -> Iterator[Mapping]:
        """Yield the mappings, parents before their children."""
        return iter(self._ordered)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Mapping:
        """Return the mapping called `name`.

        Raises:
            MappingError: there is none.
        """
        try:
            return self._by_name[name]
        except KeyError:
            known = ", ".join(sorted(self._by_name)) or "none"
            raise MappingError(
                f"mapping {name!r} is not declared in registry {self.name!r} (declared: {known}); "
                f"check the spelling, or MIRROR_MAPPINGS."
            ) from None

    def children(self, mapping: Mapping) -> tuple[tuple[Mapping, Parent], ...]:
        """Return each mapping that names `mapping` as a parent, with that declaration."""
        return self._children[mapping.name]

    @cached_property
    def _children(self) -> dict[str, tuple[tuple[Mapping, Parent], ...]]:
        return {
            mapping.name: tuple(
                (child, parent)
                for child in self._ordered
                for parent in child.parents
                if parent.mapping == mapping.name
            )
            for mapping in self._ordered
        }

    def _parents_first(self) -> list[str]:
        graph = {m.name: [p.mapping for p in m.parents] for m in self._by_name.values()}
        try:
            return list(TopologicalSorter(graph).static_order())
        except CycleError as error:
            circle = " → ".join(error.args[1])
            raise MappingError(
                f"mapping {error.args[1][0]!r}: its parents form a circle ({circle}); "
                f"remove one of these parents."
            ) from None

    def _check_parents(self, mapping: Mapping) -> None:
        names = {column.name: column.type for column in mapping.columns}
        for parent in mapping.parents:
            if parent.mapping not in self._by_name:
                raise MappingError(
                    f"mapping {mapping.name!r}: its parent {parent.mapping!r} is not declared; "
                    f"add that mapping to registry {self.name!r}, or drop the parent."
                )
            if parent.column not in names:
                raise MappingError(
                    f"mapping {mapping.name!r}: parent column {parent.column!r} is not among its "
                    f"columns; add it."
                )
            target = self._by_name[parent.mapping]
            if len(target.key) != 1 or names[parent.column] != target.key_columns[0].type:
                raise MappingError(
                    f"mapping {mapping.name!r}: column {parent.column!r} cannot point at parent "
                    f"{parent.mapping!r}; a parent's key must be one column of the same type."
                )


def load_registry(module_name: str) -> Registry:
    """Import the module that MIRROR_MAPPINGS names and return its `registry`.

    Raises:
        ConfigError: the module does not import, or holds no Registry of that name.
        MappingError: its declarations cannot work.
    """
    remedy = "MIRROR_MAPPINGS must name an importable module with a `registry`"
    try:
        module = importlib.import_module(module_name)
    except MappingError:
        raise
    except Exception as error:
        raise ConfigError(
            f"mappings module {module_name!r} does not import "
            f"({type(error).__name__}: {error}); {remedy}."
        ) from error
    registry = getattr(module, "registry", None)
    if not isinstance(registry, Registry):
        raise ConfigError(f"mappings module {module_name!r} holds no Registry; {remedy}.")
    return registry


def _check_columns(mapping: Mapping) -> None:
    who = f"mapping {mapping.name!r}"
    if not _NAME.fullmatch(mapping.name):
        raise MappingError(f"{who}: use a name of at most 40 lower-case letters, digits and _.")
    names = [column.name for column in mapping.columns]
    if len(set(names)) != len(names):
        raise MappingError(f"{who}: a column is declared twice; remove one.")
    if not mapping.key:
        raise MappingError(f"{who}: it has no key; name the columns that identify a row.")
    types = {column.name: column.type for column in mapping.columns}
    named = {
        "key": mapping.key,
        "active": mapping.active,
        "readable": mapping.readable.columns if mapping.readable else (),
    }
    for label, used in named.items():
        for name in used:
            if name not in types:
                raise MappingError(
                    f"{who}: {label} names {name!r}, which is not among its columns; add it."
                )
    for name, kind in [(name, types[name]) for name in mapping.key] + [
        (reference.name, reference.type) for reference in mapping.all_references
    ]:
        if kind not in KEY_TYPES:
            raise MappingError(
                f"{who}: {name!r} is {kind}, but keys and references are one of "
                f"{', '.join(KEY_TYPES)}; cast it in the query."
            )


def _check_query(mapping: Mapping) -> None:
    who = f"mapping {mapping.name!r}"
    labels = set(mapping.query.selected_columns.keys())
    wanted = [column.name for column in mapping.columns]
    wanted += [reference.name for reference in mapping.all_references]
    for name in wanted:
        if name not in labels:
            raise MappingError(
                f"{who}: its query yields no {name!r}; add that column, or .label({name!r})."
            )
    for element in visitors.iterate(mapping.query):
        # CURRENT_TIMESTAMP and its kin have classes of their own; their name is in .name too.
        if isinstance(element, FunctionElement):
            text = str(getattr(element, "name", ""))
        elif isinstance(element, TextClause):
            text = element.text
        else:
            text = _literal(element)
        found = _UNSTABLE.search(text)
        if found:
            raise MappingError(
                f"{who}: its query asks {found.group(0)}, which rows do not decide; two reads of "
                f"the same data could differ. Mirror the column and compare it in the policy."
            )
    if getattr(mapping.query, "_limit_clause", None) is not None:
        raise MappingError(f"{who}: its query has a LIMIT; which rows it yields would be chance.")


def _literal(element: visitors.ExternallyTraversible) -> str:
    """Return the text of a literal_column, which is SQL in the shape of a column, or ''."""
    is_literal = getattr(element, "is_literal", False)
    return str(getattr(element, "name", "")) if is_literal else ""


def _check_sources(mapping: Mapping) -> None:
    """Refuse a table whose changes could not be traced to keys of this mapping."""
    declared = {reference.table for reference in mapping.references}
    for table in _tables(mapping):
        if table in declared or table in _tables_that_hold_the_key(mapping):
            continue
        raise MappingError(
            f"mapping {mapping.name!r}: its query reads {table!r}, but no reference ties that "
            f"table in, so a change of it would be missed. Declare "
            f"Reference(<label>, <type>, table={table!r}) and select the value that points at it."
        )


def _tables(mapping: Mapping) -> set[str]:
    return {
        _table_name(element)
        for element in visitors.iterate(mapping.query)
        if isinstance(element, TableClause)
    }


def _tables_that_hold_the_key(mapping: Mapping) -> set[str]:
    """Return the tables whose own row shows every key column: their changes name the key."""
    holders: list[set[str]] = []
    selects = getattr(mapping.query, "selects", [mapping.query])
    for select in selects:
        columns: dict[str, ColumnElement[object]] = dict(select.selected_columns)
        per_key = []
        for name in mapping.key:
            bases = columns[name].base_columns if name in columns else set()
            per_key.append(
                {
                    _table_name(base.table)
                    for base in bases
                    if isinstance(getattr(base, "table", None), TableClause)
                }
            )
        holders.append(set.intersection(*per_key) if per_key else set())
    return set.union(*holders) if holders else set()


def _table_name(table: TableClause) -> str:
    schema = getattr(table, "schema", None)
    return f"{schema}.{table.name}" if schema else str(table.name)
