"""Examination: ask both sides, then let every check look at what they said."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from mirror.diagnostics.doctor.checks import CHECKS, Severity
from mirror.diagnostics.doctor.expected import ExpectedTarget, declared_tables, declared_types
from mirror.diagnostics.doctor.findings import Finding, finding
from mirror.diagnostics.doctor.migrations import (
    check_migrations,
    check_triggers,
    missing_migrations,
)
from mirror.diagnostics.doctor.policies import Policies, check_functions, check_grants
from mirror.diagnostics.doctor.primary import (
    PrimaryState,
    read_columns,
    read_installed,
    read_server,
)
from mirror.diagnostics.doctor.processing import Limits, check_clock, check_processing, check_status
from mirror.diagnostics.doctor.settings import (
    check_broker,
    check_listen_url,
    check_settings,
    missing_settings,
)
from mirror.diagnostics.doctor.source_columns import check_columns
from mirror.diagnostics.doctor.tables import check_tables
from mirror.diagnostics.status import Status, read_primary_status
from mirror.errors import (
    ConfigError,
    MirrorError,
    NotMigrated,
    StaleCache,
    Transient,
    WrongKey,
)
from mirror.model.registry import Registry
from mirror.settings import Settings
from mirror.sync.targets.base import Description
from mirror.sync.targets.catalog import Catalog
from mirror.sync.wiring import build_source, build_target

_OLDEST = {"primary": 140_000, "target": 150_000}
_DEFAULT = Limits()
# What a model or guards that are due put right.
_IMPLIED = {
    "table-missing",
    "column-missing",
    "index-missing",
    "grant-excess",
    "grant-missing",
    "policy-missing",
    "guard-trigger-missing",
}


@dataclass
class SystemState:
    """What both sides said; None: nothing, or it was not asked."""

    primary: PrimaryState | None = None
    status: Status | None = None
    described: Description | None = None
    catalog: Catalog | None = None
    skew_seconds: float = 0.0
    """How far the target's clock is ahead of ours."""
    failures: list[Finding] = field(default_factory=list)
    """Why something was not said."""

    @contextmanager
    def trying(self, settings: Settings, side: str, *, known: bool = False) -> Iterator[None]:
        """Turn an error into a finding; not one whose reason is `known` by another."""
        try:
            yield
        except MirrorError as error:
            if not (known and isinstance(error, NotMigrated)):
                self.failures.append(_failure(settings, side, error))


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was found."""

    findings: list[Finding]
    """Errors first, then in the order of CHECKS."""
    no_side_answered: bool
    """Neither side could be asked."""

    @property
    def exit_code(self) -> int:
        """What `mirror doctor` returns: warnings alone are no failure."""
        if self.no_side_answered:
            return 4
        return int(any(found.severity is Severity.ERROR for found in self.findings))

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "healthy": not self.findings,
            "findings": [found.as_json() for found in self.findings],
        }


def diagnose(settings: Settings, registry: Registry, limits: Limits = _DEFAULT) -> Diagnosis:
    """Look at both sides; what cannot be looked at is a finding.

    Raises:
        ConfigError: neither side is configured.
    """
    if missing_settings(settings, "primary") and missing_settings(settings, "target"):
        settings.need("primary_database_url")
    facts = SystemState()
    if not missing_settings(settings, "target"):
        _read_target(facts, settings, registry)
    found: list[Finding] = []
    if not missing_settings(settings, "primary"):
        found += _read_primary(facts, settings, registry, limits)
    found += facts.failures
    found += check_settings(settings)
    found += check_broker(settings)
    found += check_all(facts, settings, registry, limits)
    order = list(CHECKS)
    found.sort(key=lambda f: (f.severity is not Severity.ERROR, order.index(f.code)))
    return Diagnosis(found, no_side_answered=facts.primary is None and facts.described is None)


def _read_target(facts: SystemState, settings: Settings, registry: Registry) -> None:
    with facts.trying(settings, "target"), closing(build_target(settings)) as target:
        facts.described = target.describe()
        late = missing_migrations("supabase", facts.described.migrations, registry)
        with facts.trying(settings, "target", known="0001_engine" in late):
            began = time.time()
            facts.catalog = target.examine(declared_tables(registry), declared_types(registry))
            facts.skew_seconds = facts.catalog["now"] - (began + time.time()) / 2


def _read_primary(
    facts: SystemState, settings: Settings, registry: Registry, limits: Limits
) -> list[Finding]:
    found: list[Finding] = []
    with facts.trying(settings, "primary"), closing(build_source(settings)) as source:
        facts.primary = read_server(source.database)
        with facts.trying(settings, "primary"):
            read_installed(facts.primary, source.database, registry)
            late = missing_migrations("primary", facts.primary.applied, registry)
            with facts.trying(settings, "primary", known=bool(late)):
                facts.status = read_primary_status(registry, source, facts.described)
        with facts.trying(settings, "primary"):
            read_columns(facts.primary, source, registry)
        found += check_listen_url(settings, source.database, seconds=limits.notification_seconds)
    return found


def check_all(
    facts: SystemState, settings: Settings, registry: Registry, limits: Limits
) -> Iterator[Finding]:
    """Say what is wrong by what both sides said; asks nobody."""
    primary, described, catalog = facts.primary, facts.described, facts.catalog
    # Migrations printed from the declarations that the target has not had.
    printed_migrations: list[str] = []
    if primary is not None:
        yield from check_server("primary", primary.version, primary.skew_seconds, limits)
        if primary.replica:
            yield finding("primary-replica", "primary: it is a standby, in recovery")
        if primary.migrated:
            yield from check_migrations("primary", primary.applied, registry)
            yield from check_triggers(primary, registry)
        yield from check_columns(primary, registry)
        yield from check_processing(settings, registry, primary, facts.status, limits)
    if described is not None:
        yield from check_migrations("supabase", described.migrations, registry)
        late = missing_migrations("supabase", described.migrations, registry)
        printed_migrations = [name for name in late if name != "0001_engine"]
    model_late = f"model_{registry.name}" in printed_migrations
    yield from check_status(registry, facts.status, described, model_late=model_late)
    if catalog is not None and described is not None:
        yield from check_server("target", catalog["version"], facts.skew_seconds, limits)
        guarded = f"guards_{registry.name}" in described.migrations
        for found in _check_target(ExpectedTarget(registry, catalog, guarded=guarded)):
            if not printed_migrations or found.code not in _IMPLIED:
                yield found


def _check_target(declared: ExpectedTarget) -> Iterator[Finding]:
    yield from check_tables(declared)
    yield from Policies(declared).check()
    yield from check_grants(declared)
    yield from check_functions(declared)


def check_server(side: str, version: int, skew_seconds: float, limits: Limits) -> Iterator[Finding]:
    """Say whether a server is too old, or its clock off."""
    if version < _OLDEST[side]:
        yield finding(f"{side}-version", f"{side}: it is PostgreSQL {version // 10_000}")
    yield from check_clock(side, skew_seconds, limits)


def _failure(settings: Settings, side: str, error: MirrorError) -> Finding:
    if isinstance(error, ConfigError):
        keys = side == "target" and settings.transport == "rest"
        return finding("key-kind" if keys else "setting-malformed", str(error))
    if isinstance(error, WrongKey):
        return finding("key-refused", str(error))
    if isinstance(error, StaleCache):
        return finding("api-stale", str(error))
    if isinstance(error, NotMigrated):
        return finding(f"{side}-not-migrated", str(error))
    reason = "unreachable" if isinstance(error, Transient) else "refused"
    return finding(f"{side}-{reason}", str(error))
