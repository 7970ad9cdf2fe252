"""Registry: holds one permission model, a set of mappings that was checked as a whole."""

import importlib
import re
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as MappingABC
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Protocol

from mirror.errors import ConfigError, MappingError
from mirror.model.keys import KEY_TYPES
from mirror.model.mapping import Mapping, Parent
from mirror.model.query.effects import Effect, effects
from mirror.model.query.validate import check_query
from mirror.model.staleness import bound_in_seconds, check_stale

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


# Names in the SQL that `mirror.schema.apply_function` prints. A column with one of these names
# would be ambiguous there.
_RESERVED = re.compile(
    r"alone|answer|applied_at|epoch|fence|later_scopes|newest|orphan|present|stale|was_present|whole"
    r"|(p|ref)_\w+"
)


class Access(Protocol):
    """A declaration of helper functions: policies call them, and they decide by mirrored rows."""

    def ddl(self, registry: "Registry") -> list[str]:
        """Return the SQL blocks that create the functions in the target; each can run again."""
        ...


class Guarding(Protocol):
    """A declaration of policies on a table of the target that the mirror does not write."""

    @property
    def relation(self) -> tuple[str, str]:
        """Schema and name of the table."""
        ...

    def prepare(self, registry: "Registry") -> list[str]:
        """Return the SQL blocks that check the table; they run before any policy is changed."""
        ...

    def ddl(self, registry: "Registry") -> list[str]:
        """Return the SQL blocks that create the policies.

        They run after the policies of an earlier version were dropped.
        """
        ...


class Registry:
    """The mappings of one permission model; iteration yields parents before their children.

    `access` declares the helper functions that policies call. `guards` declares the policies on
    tables that the mirror does not write: your own, and those of Realtime and Storage.
    `max_staleness`, a timedelta or seconds, bounds how old the target may be: policies refuse every
    user while a mapping that they read is older (`mirror.model.staleness`). None: no bound.

    Raises:
        MappingError: a declaration cannot work; names the mapping and the remedy.
    """

    def __init__(
        self,
        name: str,
        mappings: Sequence[Mapping],
        *,
        access: Sequence[Access] = (),
        guards: Sequence[Guarding] = (),
        max_staleness: timedelta | float | None = None,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise MappingError(f"registry {name!r}: use a name of lower-case letters, digits, _.")
        self.name = name
        self.access = tuple(access)
        self.guards = tuple(guards)
        self.max_staleness = bound_in_seconds(max_staleness, f"registry {name!r}")
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
            _check_active(mapping)
            _check_expires(mapping)
            _check_references(mapping)
            check_stale(
                mapping.readable and mapping.readable.stale,
                self.max_staleness,
                f"mapping {mapping.name!r}: readable",
            )
        for mapping in mappings:
            self._check_parents(mapping)
            check_query(mapping)
        self._effects = _effects(mappings)
        tables = [(mapping.schema, mapping.table) for mapping in mappings]
        for mapping, table in zip(mappings, tables, strict=True):
            if tables.count(table) > 1:
                raise MappingError(
                    f"mapping {mapping.name!r}: another mapping writes {'.'.join(table)}, too; "
                    f"give each mapping its own table, or make them one union query."
                )
        for mapping in mappings:
            children = tuple(
                sorted(
                    (child.name, parent.column)
                    for child in mappings
                    for parent in child.parents
                    if parent.mapping == mapping.name
                )
            )
            if children != mapping.children:
                self._by_name[mapping.name] = replace(mapping, children=children)
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

    @property
    def effects(self) -> MappingABC[str, tuple[Effect, ...]]:
        """For each table of the primary that a query reads: its rows' effects on the mappings."""
        return self._effects

    def children(self, mapping: Mapping) -> tuple[tuple[Mapping, Parent], ...]:
        """Return each child of `mapping`, with the Parent by which the child refers to it."""
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
            cycle = " → ".join(error.args[1])
            raise MappingError(
                f"mapping {error.args[1][0]!r}: its parents form a cycle ({cycle}); "
                f"remove one of these parents."
            ) from None

    def _check_parents(self, mapping: Mapping) -> None:
        for parent in mapping.parents:
            if parent.mapping not in self._by_name:
                raise MappingError(
                    f"mapping {mapping.name!r}: its parent {parent.mapping!r} is not declared; "
                    f"add that mapping to registry {self.name!r}, or drop the parent."
                )
            if parent.column not in mapping.types:
                raise MappingError(
                    f"mapping {mapping.name!r}: parent column {parent.column!r} is not among its "
                    f"columns; add it."
                )
            target = self._by_name[parent.mapping]
            key_types = [column.type for column in target.key_columns]
            if key_types != [mapping.types[parent.column]]:
                raise MappingError(
                    f"mapping {mapping.name!r}: column {parent.column!r} cannot point at parent "
                    f"{parent.mapping!r}; a parent's key must be one column of the same type."
                )


def load_registry(module_name: str) -> Registry:
    """Import a module, normally the one that MIRROR_MAPPINGS names, and return its `registry`.

    Raises:
        ConfigError: the module cannot be imported, or its `registry` is not a Registry.
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


def _effects(mappings: Sequence[Mapping]) -> dict[str, tuple[Effect, ...]]:
    """Return, by the name of each table of the primary, the Effects of its rows on these mappings.

    Raises:
        MappingError: as `mirror.model.query.effects.effects`.
    """
    by_table: dict[str, tuple[Effect, ...]] = {}
    for mapping in mappings:
        for table, found in effects(mapping).items():
            by_table[table] = by_table.get(table, ()) + found
    return by_table


def _check_columns(mapping: Mapping) -> None:
    owner = f"mapping {mapping.name!r}"
    if not _NAME.fullmatch(mapping.name):
        raise MappingError(f"{owner}: use a name of at most 40 lower-case letters, digits and _.")
    _check_names(mapping)
    key: object = mapping.key
    if isinstance(key, str):
        raise MappingError(f"{owner}: its key is a text; write a tuple: ({key!r},).")
    if not mapping.key:
        raise MappingError(f"{owner}: it has no key; name the columns that identify a row.")
    if len(set(mapping.key)) != len(mapping.key):
        raise MappingError(f"{owner}: its key names a column twice; remove one.")
    uses = {
        "key": mapping.key,
        "active": mapping.active,
        "readable": (
            mapping.readable.columns + mapping.readable.indexed if mapping.readable else ()
        ),
        "expires": (mapping.expires,) if mapping.expires else (),
    }
    for label, used in uses.items():
        for name in used:
            if name not in mapping.types:
                raise MappingError(
                    f"{owner}: {label} names {name!r}, which is not among its columns; add it."
                )
    for name, kind in [(name, mapping.types[name]) for name in mapping.key] + [
        (reference.name, reference.type) for reference in mapping.all_references
    ]:
        if kind not in KEY_TYPES:
            raise MappingError(
                f"{owner}: {name!r} is {kind}, but keys and references are one of "
                f"{', '.join(KEY_TYPES)}; cast it in the query."
            )


def _check_expires(mapping: Mapping) -> None:
    if mapping.expires is not None and mapping.types[mapping.expires] != "timestamptz":
        raise MappingError(
            f"mapping {mapping.name!r}: expires names {mapping.expires!r}, which is "
            f"{mapping.types[mapping.expires]}; declare it as timestamptz. If the primary's column "
            f"has no time zone, give it one in the query: column AT TIME ZONE 'UTC'."
        )


def _check_names(mapping: Mapping) -> None:
    owner = f"mapping {mapping.name!r}"
    names = [column.name for column in mapping.columns]
    if len(set(names)) != len(names):
        raise MappingError(f"{owner}: a column is declared twice; remove one.")
    for name in [*names, *(reference.name for reference in mapping.references)]:
        if _RESERVED.fullmatch(name):
            raise MappingError(
                f"{owner}: the functions that write its rows use the name {name!r} themselves; "
                f"rename the column with .label() in the query."
            )


def _check_active(mapping: Mapping) -> None:
    for name, values in mapping.active.items():
        allowed: object = values
        if isinstance(allowed, str) or not values:
            raise MappingError(
                f"mapping {mapping.name!r}: active[{name!r}] is {values!r}; give the set of values "
                f"that grant access, as in frozenset({{'ACTIVE'}})."
            )


def _check_references(mapping: Mapping) -> None:
    owner = f"mapping {mapping.name!r}"
    names = [reference.name for reference in mapping.references]
    for reference in mapping.references:
        if not _NAME.fullmatch(reference.name) or reference.name == "lane":
            raise MappingError(
                f"{owner}: reference {reference.name!r}: use a name of at most 40 lower-case "
                f"letters, digits and _; not lane, which is a parameter of the hooks."
            )
        if names.count(reference.name) > 1:
            raise MappingError(
                f"{owner}: reference {reference.name!r} is declared twice; remove one."
            )
        kind = mapping.types.get(reference.name, reference.type)
        if kind != reference.type:
            raise MappingError(
                f"{owner}: {reference.name!r} is {kind} as a column and {reference.type} as a "
                f"reference; give both the same type."
            )
