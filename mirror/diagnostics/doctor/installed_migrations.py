"""Installed migrations: compares a side's migrations and triggers with those of this version."""

from collections.abc import Iterator, Mapping
from functools import lru_cache

from mirror.diagnostics.doctor.findings import Finding, finding
from mirror.diagnostics.doctor.primary_state import PrimaryState
from mirror.model.registry import Registry
from mirror.schema.migrate import Migration, compare, migrations
from mirror.schema.sides import Side


@lru_cache(maxsize=8)
def printed_migrations(side: Side, registry: Registry, *, extra: bool) -> list[Migration]:
    """Return the migrations that this version has for a side, with their SQL.

    `extra` adds the triggers (primary) or the guards (target). The result is cached, because
    several checks need it and to compose the SQL takes longer than a query.
    """
    triggers, guards = (extra, False) if side == "primary" else (False, extra)
    return migrations(side, registry, triggers=triggers, guards=guards)


def missing_migrations(side: Side, applied: Mapping[str, str], registry: Registry) -> list[str]:
    """Return the names of the migrations that a side lacks, or has in another version than here.

    `applied` has the checksums of the side's migrations by name. Triggers or guards that the side
    never had are not missing.
    """
    return [step.name for step in _compare(side, applied, registry)[0]]


def check_migrations(
    side: Side, applied: Mapping[str, str], registry: Registry
) -> Iterator[Finding]:
    """Yield findings about a side's missing migrations, and about those unknown to this version.

    One more finding reports declared guards that were never installed.
    """
    name = "primary" if side == "primary" else "target"
    missing, unknown = _compare(side, applied, registry)
    behind: dict[str, list[str]] = {}
    for step in missing:
        kind = step.name.partition("_")[0]
        code = f"{kind if kind in {'triggers', 'guards'} else name}-behind"
        behind.setdefault(code, []).append(step.name)
    for code, steps in behind.items():
        yield finding(code, f"{name}: {', '.join(steps)} is missing or differs from this version")
    if unknown:
        yield finding(f"{name}-ahead", f"{name}: {', '.join(unknown)} is unknown to this version")
    if side == "supabase" and registry.guards and f"guards_{registry.name}" not in applied:
        tables = ", ".join(".".join(guard.relation) for guard in registry.guards)
        yield finding("guards-missing", f"target: no guards are installed on {tables}")


def check_triggers(primary: PrimaryState) -> Iterator[Finding]:
    """Yield a finding for each table on which triggers are missing, or not as they are printed."""
    # A table that does not exist is a finding of the mapping that reads it.
    for table, missing in sorted(primary.missing_triggers.items()):
        message = f"primary: on {table}, {', '.join(missing)}"
        yield finding("trigger-missing", message)


def _compare(
    side: Side, applied: Mapping[str, str], registry: Registry
) -> tuple[list[Migration], list[str]]:
    extra = f"triggers_{registry.name}" if side == "primary" else f"guards_{registry.name}"
    return compare(applied, printed_migrations(side, registry, extra=extra in applied))
