"""Changes: compares a model's declarations in the target with a registry, before a migration.

They decide which workers are locked out by the migration, and which mappings must be resynced.
"""

from collections.abc import Mapping as MappingABC
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text

from mirror.model.registry import Registry
from mirror.schema.prune import Leftover

ROWS: Final = ("table", "key", "columns", "references", "parents", "on_delete", "expires", "query")
"""The parts of a mapping's declaration on which its rows in the target depend."""

_INSTALLED = "select to_regclass('mirror.mappings') is not null"
_DECLARED = """
    select name, digest, declaration from mirror.mappings where model = :model order by position
"""


@dataclass(frozen=True)
class Changes:
    """The consequences of the differences of two versions of a model."""

    locked_out: list[str]
    """The mappings that workers of before do not write any more; sorted."""
    resync: list[str]
    """The mappings whose rows may differ from what the new declarations yield; parents first."""
    first: bool
    """Whether the target has no version of the model yet."""

    def next_steps(self, leftovers: list[Leftover]) -> list[str]:
        """Return the steps after the migration as sentences, in their order."""
        steps = []
        if self.locked_out:
            names = ", ".join(self.locked_out)
            steps.append(
                f"deploy the workers with these declarations; until then the target refuses others "
                f"for {names}, and the events wait"
            )
        elif self.resync:
            steps.append("deploy the workers with these declarations")
        if self.first:
            steps.append("run `mirror reconcile`, which copies all rows for the first time")
        elif self.resync:
            steps.append(f"run `mirror resync {' '.join(self.resync)}`")
        if leftovers:
            names = ", ".join(map(str, leftovers))
            steps.append(
                f"run `mirror migrate supabase --prune` when no worker of before runs; it drops "
                f"what is not declared any more: {names}"
            )
        return steps


def find_changes(connection: Connection, registry: Registry) -> Changes:
    """Compare the declarations to which the target was last migrated with a registry."""
    before: dict[str, tuple[str, MappingABC[str, Any]]] = {}
    if connection.scalar(text(_INSTALLED)):
        rows = connection.execute(text(_DECLARED), {"model": registry.name})
        before = {row.name: (row.digest, row.declaration) for row in rows}
    changed = before.keys() - {mapping.name for mapping in registry}
    resync = []
    for mapping in registry:
        digest, old = before.get(mapping.name, (None, {}))
        if digest == mapping.digest:
            continue
        if digest is not None:
            changed.add(mapping.name)
        new = mapping.declaration()
        if any(old.get(part) != new.get(part) for part in ROWS):
            resync.append(mapping.name)
    declarations: list[tuple[str, MappingABC[str, Any]]] = [
        *((name, declaration) for name, (_, declaration) in before.items()),
        *((mapping.name, mapping.declaration()) for mapping in registry),
    ]
    links = [
        (name, other[0])
        for name, declaration in declarations
        for kind in ("parents", "children")
        for other in declaration[kind]
    ]
    return Changes(sorted(_related(changed, links) & before.keys()), resync, first=not before)


def _related(names: set[str], links: list[tuple[str, str]]) -> set[str]:
    """Return mappings with all of their relatives: a worker writes them together."""
    found = set(names)
    while True:
        more = {b for a, b in links if a in found} | {a for a, b in links if b in found}
        if more <= found:
            return found
        found |= more
