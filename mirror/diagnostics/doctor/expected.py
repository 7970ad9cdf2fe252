"""What the declarations say of the target, in the words of its catalogs.

Policies, triggers, indexes and functions are taken from the SQL that the declarations print, so
that every kind of access and guard counts, whoever wrote it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from mirror.access import Guard
from mirror.access.rules import VERBS
from mirror.diagnostics.doctor.migrations import printed_migrations
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
    """One table that is declared and is there."""

    table: Table
    mapping: Mapping | None = None
    """What it is the table of; None: it is guarded."""
    guard: Guard | None = None
    """None: it is mirrored, or shared with others, as Realtime's and Storage's are."""
    policies: frozenset[str] = frozenset()
    """The policies that are declared for it."""
    grants: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What `authenticated` may, by privilege; no columns: all of them."""

    @property
    def name(self) -> str:
        """As in SQL."""
        return self.table["name"]

    @property
    def exclusive(self) -> bool:
        """Nobody else has a say in who may do what with it."""
        return self.mapping is not None or self.guard is not None


class ExpectedTarget:
    """A registry beside what the target's catalogs say.

    Args:
        registry: the declarations.
        catalog: what the target answered to `declared_tables` and `declared_types`.
        guarded: the guards were installed there.
    """

    def __init__(self, registry: Registry, catalog: Catalog, *, guarded: bool) -> None:
        self.registry = registry
        self.catalog = catalog
        self.guarded = guarded

    @cached_property
    def tables(self) -> list[ExpectedTable]:
        """The tables that are there, mirrored ones first."""
        return [
            *(expected for _, expected in self.mirrored() if expected is not None),
            *(expected for _, expected in self.guards() if expected is not None),
        ]

    def mirrored(self) -> Iterator[tuple[Mapping, ExpectedTable | None]]:
        """Yield each mapping with its table; None: it is gone."""
        for mapping in self.registry:
            table = self.catalog["tables"].get(table_name(mapping))
            grants = {"select": mapping.readable.columns} if mapping.readable else {}
            policies = frozenset({f"{mapping.table}_read"})
            found = table and ExpectedTable(table, mapping, policies=policies, grants=grants)
            yield mapping, found or None

    def guards(self) -> Iterator[tuple[str, ExpectedTable | None]]:
        """Yield each guarded table's name with what is declared; None: it is gone."""
        for guard in self.registry.guards if self.guarded else ():
            name = identifier(*guard.relation)
            table = self.catalog["tables"].get(name)
            if table is None:
                yield name, None
                continue
            if isinstance(guard, Guard):
                grants = {VERBS[verb]: allow.columns for verb, allow in guard.verbs.items()}
                yield name, ExpectedTable(table, None, guard, self._policies_on(name), grants)
            else:
                yield name, ExpectedTable(table, policies=self._policies_on(name))

    @cached_property
    def functions(self) -> dict[str, bool]:
        """Names of our functions as in SQL, and whether `authenticated` may execute them."""
        texts = "\n".join(self._printed.values())
        granted = " ".join(_EXECUTE.findall(texts))
        return {name: f"{name}(" in granted for name in _FUNCTION.findall(texts)}

    @cached_property
    def triggers(self) -> list[tuple[str, str]]:
        """The guards' triggers: (table as in SQL, trigger)."""
        found = _TRIGGER.findall(self._guards) if self.guarded else []
        return [(self._called(table), name.strip('"')) for name, table in found]

    @cached_property
    def indexed(self) -> list[tuple[str, str]]:
        """(table as in SQL, column) of each column that helpers, policies or scopes ask for."""
        found = [
            (table_name(mapping), parent.column)
            for mapping in self.registry
            for parent in mapping.parents
        ]
        found += _INDEX.findall(self._printed[f"model_{self.registry.name}"])
        found += _INDEX.findall(self._guards) if self.guarded else []
        return list(dict.fromkeys((self._called(table), column) for table, column in found))

    def _called(self, table: str) -> str:
        """Return a table's name as the catalog has it."""
        found = self.catalog["tables"].get(table)
        return table if found is None else found["name"]

    def _policies_on(self, table: str) -> frozenset[str]:
        return frozenset(
            name.strip('"') for name, on in _POLICY.findall(self._guards) if on == table
        )

    @property
    def _guards(self) -> str:
        return self._printed[f"guards_{self.registry.name}"]

    @cached_property
    def _printed(self) -> dict[str, str]:
        return {
            step.name: step.sql
            for step in printed_migrations("supabase", self.registry, extra=True)
        }


def table_name(mapping: Mapping) -> str:
    """Return a mapping's table as in SQL."""
    return identifier(mapping.schema, mapping.table)


def declared_tables(registry: Registry) -> list[str]:
    """Return the tables that a target is asked for."""
    guarded = [identifier(*guard.relation) for guard in registry.guards]
    return [*(table_name(mapping) for mapping in registry), *guarded]


def declared_types(registry: Registry) -> list[str]:
    """Return the types that a target is asked for."""
    return [column.type for mapping in registry for column in mapping.columns]
