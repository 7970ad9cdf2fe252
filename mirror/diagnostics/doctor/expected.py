"""Expected: the target's tables, policies, triggers, indexes and functions, as declared.

Names are written as in the target's catalogs. Policies, triggers, indexes and functions are parsed
from the SQL of the declarations, so a new kind of access or guard needs no change here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from mirror.access import Folders, Guard
from mirror.access.rules import VERBS
from mirror.diagnostics.doctor.installed_migrations import printed_migrations
from mirror.model.mapping import Mapping
from mirror.model.registry import Registry
from mirror.schema.quoting import identifier
from mirror.sync.targets.catalog import Catalog, Table

_NAME = r'(?:"(?:[^"]|"")+"|[\w$])+'
_TABLE = rf"{_NAME}(?:\.{_NAME})?"
_POLICY = re.compile(rf"create policy ({_NAME}) on ({_TABLE}) ")
_TRIGGER = re.compile(
    rf"create (?:or replace )?trigger ({_NAME})\s+(?:before|after)[^;]*?\son ({_TABLE})"
)
_INDEX = re.compile(r"select mirror\.add_index\('([^']+)', '([^']+)'\);")
_FUNCTION = re.compile(rf"create or replace function ({_NAME}\.{_NAME})\s*\(")
_EXECUTE = re.compile(r"grant execute on function([^;]*?)to authenticated;")


@dataclass(frozen=True)
class ExpectedTable:
    """A declared table that exists in the target, with its declarations and its actual state."""

    actual: Table
    """The table in the target's catalogs."""
    mapping: Mapping | None = None
    """The mapping that writes the table; None: the table is guarded, not mirrored."""
    guard: Guard | None = None
    """The guard of the table. None: the table is mirrored, or it is a table of Realtime or Storage,
    which other applications use, too."""
    policies: frozenset[str] = frozenset()
    """Names of the policies declared for it."""
    grants: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The columns that `authenticated` may use, by privilege; empty: all columns."""

    @property
    def name(self) -> str:
        """The name with its schema, quoted as in SQL."""
        return self.actual["name"]

    @property
    def exclusive(self) -> bool:
        """Whether the declarations alone decide about access to the table.

        False for a table of Realtime or Storage: it may have other policies, too.
        """
        return self.mapping is not None or self.guard is not None


class ExpectedTarget:
    """A registry's declarations, matched with the target's catalogs.

    Args:
        registry: the declarations.
        catalog: the target's answer for `declared_tables` and `declared_types`.
        guarded: whether the guards are installed in the target.
    """

    def __init__(self, registry: Registry, catalog: Catalog, *, guarded: bool) -> None:
        self.registry = registry
        self.catalog = catalog
        self.guarded = guarded

    @cached_property
    def tables(self) -> list[ExpectedTable]:
        """The declared tables that exist, mirrored ones first."""
        return [
            *(table for _, table in self.mirrored() if table is not None),
            *(table for _, table in self.guards() if table is not None),
        ]

    @property
    def leftovers(self) -> list[list[str]]:
        """The remains of earlier versions of the registry, each as [kind, name, column]."""
        return self.catalog.get("leftovers", {}).get(self.registry.name, [])

    def mirrored(self) -> Iterator[tuple[Mapping, ExpectedTable | None]]:
        """Yield each mapping with its table; None: the table does not exist."""
        for mapping in self.registry:
            actual = self.catalog["tables"].get(table_name(mapping))
            grants = {"select": mapping.readable.columns} if mapping.readable else {}
            policies = frozenset({f"{mapping.table}_read"})
            table = actual and ExpectedTable(actual, mapping, policies=policies, grants=grants)
            yield mapping, table or None

    def guards(self) -> Iterator[tuple[str, ExpectedTable | None]]:
        """Yield each guarded table's name with the table; None: the table does not exist.

        Yields nothing if the guards are not installed.
        """
        for guard in self.registry.guards if self.guarded else ():
            name = identifier(*guard.relation)
            actual = self.catalog["tables"].get(name)
            if actual is None:
                yield name, None
                continue
            if isinstance(guard, Guard):
                grants = {VERBS[verb]: allow.columns for verb, allow in guard.verbs.items()}
                yield name, ExpectedTable(actual, None, guard, self._policies_on(name), grants)
            else:
                yield name, ExpectedTable(actual, policies=self._policies_on(name))

    @cached_property
    def buckets(self) -> set[str]:
        """The buckets with guarded folders; empty if no guards are installed."""
        return {
            folder.bucket
            for guard in (self.registry.guards if self.guarded else ())
            if isinstance(guard, Folders)
            for folder in guard.folders
        }

    @cached_property
    def functions(self) -> dict[str, bool]:
        """The mirror's functions by name: True if `authenticated` is granted EXECUTE on it."""
        scripts = "\n".join(self._printed.values())
        granted = " ".join(_EXECUTE.findall(scripts))
        return {name: f"{name}(" in granted for name in _FUNCTION.findall(scripts)}

    @cached_property
    def triggers(self) -> list[tuple[str, str]]:
        """The guards' triggers: (table as in SQL, trigger); empty if no guards are installed."""
        found = _TRIGGER.findall(self._guards) if self.guarded else []
        return [(self._catalog_name(table), name.strip('"')) for name, table in found]

    @cached_property
    def indexed(self) -> list[tuple[str, str]]:
        """The columns that need an index, because helpers, policies or scopes search by them.

        Each is (table as in SQL, column).
        """
        found = [
            (table_name(mapping), parent.column)
            for mapping in self.registry
            for parent in mapping.parents
        ]
        found += _INDEX.findall(self._printed[f"model_{self.registry.name}"])
        found += _INDEX.findall(self._guards) if self.guarded else []
        return list(dict.fromkeys((self._catalog_name(table), column) for table, column in found))

    def _catalog_name(self, table: str) -> str:
        """Return a table's name as the catalog spells it; unchanged if the table does not exist."""
        actual = self.catalog["tables"].get(table)
        return table if actual is None else actual["name"]

    def _policies_on(self, table: str) -> frozenset[str]:
        return frozenset(
            name.strip('"') for name, on in _POLICY.findall(self._guards) if on == table
        )

    @property
    def _guards(self) -> str:
        return self._printed[f"guards_{self.registry.name}"]

    @cached_property
    def _printed(self) -> dict[str, str]:
        """The SQL of every migration that this version has for the target, by the migration's name.

        The migration of the guards is among them, whether or not it was ever applied.
        """
        return {
            step.name: step.sql
            for step in printed_migrations("supabase", self.registry, extra=True)
        }


def table_name(mapping: Mapping) -> str:
    """Return the name of a mapping's table as in SQL."""
    return identifier(mapping.schema, mapping.table)


def declared_tables(registry: Registry) -> list[str]:
    """Return the names of all mirrored and guarded tables."""
    guarded = [identifier(*guard.relation) for guard in registry.guards]
    return [*(table_name(mapping) for mapping in registry), *guarded]


def declared_types(registry: Registry) -> list[str]:
    """Return the types of all mirrored columns."""
    return [column.type for mapping in registry for column in mapping.columns]
