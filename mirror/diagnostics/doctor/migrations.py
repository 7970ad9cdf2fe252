"""Migrations and triggers: is what was installed what this version and these declarations print?"""

from collections.abc import Iterator, Mapping
from functools import lru_cache

from mirror.diagnostics.doctor.findings import Finding, finding
from mirror.diagnostics.doctor.primary import PrimaryState
from mirror.model.registry import Registry
from mirror.schema.migrate import Migration, Side, compare, migrations

_OPERATIONS = ("insert", "update", "delete", "truncate")


@lru_cache(maxsize=8)
def printed_migrations(side: Side, registry: Registry, *, extra: bool) -> list[Migration]:
    """Return a side's migrations; `extra`: with the triggers, or the guards.

    Kept, because several checks read them and printing takes longer than asking.
    """
    triggers, guards = (extra, False) if side == "primary" else (False, extra)
    return migrations(side, registry, triggers=triggers, guards=guards)


def missing_migrations(side: Side, applied: Mapping[str, str], registry: Registry) -> list[str]:
    """Return the names of the migrations that a side has not had as they are now."""
    return [step.name for step in _compare(side, applied, registry)[0]]


def check_migrations(
    side: Side, applied: Mapping[str, str], registry: Registry
) -> Iterator[Finding]:
    """Say what a side lacks, and what it has that we do not know."""
    name = "primary" if side == "primary" else "target"
    late, unknown = _compare(side, applied, registry)
    behind: dict[str, list[str]] = {}
    for step in late:
        kind = step.name.partition("_")[0]
        code = f"{kind if kind in {'triggers', 'guards'} else name}-behind"
        behind.setdefault(code, []).append(step.name)
    for code, steps in behind.items():
        yield finding(code, f"{name}: it lacks {', '.join(steps)} as this version prints it")
    if unknown:
        yield finding(f"{name}-ahead", f"{name}: it has {', '.join(unknown)}")
    if side == "supabase" and registry.guards and f"guards_{registry.name}" not in applied:
        tables = ", ".join(".".join(guard.relation) for guard in registry.guards)
        yield finding("guards-missing", f"target: nothing guards {tables}")


def check_triggers(primary: PrimaryState, registry: Registry) -> Iterator[Finding]:
    """Say which triggers are gone or disabled, where triggers were installed."""
    if f"triggers_{registry.name}" not in primary.applied:
        return
    # A table that is gone is told of by the mapping that reads it.
    for table, have in sorted(primary.triggers.items()):
        wanted = [f"mirror_{registry.name}_{operation}" for operation in _OPERATIONS]
        # Enabled ALWAYS: also what is written as a replica is a change.
        lacking = [trigger for trigger in wanted if have.get(trigger) != "A"]
        if lacking:
            what = f"primary: {table} lacks, or has disabled, {', '.join(lacking)}"
            yield finding("trigger-missing", what)


def _compare(
    side: Side, applied: Mapping[str, str], registry: Registry
) -> tuple[list[Migration], list[str]]:
    extra = f"triggers_{registry.name}" if side == "primary" else f"guards_{registry.name}"
    return compare(applied, printed_migrations(side, registry, extra=extra in applied))
