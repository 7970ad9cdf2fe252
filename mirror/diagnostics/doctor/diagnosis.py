"""Diagnosis: reads the state of both sides and runs all checks on it."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from mirror.diagnostics.doctor.checks import CHECKS, Severity
from mirror.diagnostics.doctor.expected import ExpectedTarget, declared_tables, declared_types
from mirror.diagnostics.doctor.findings import Finding, finding
from mirror.diagnostics.doctor.installed_migrations import (
    check_migrations,
    check_triggers,
    missing_migrations,
)
from mirror.diagnostics.doctor.policies import PolicyChecks, check_functions, check_grants
from mirror.diagnostics.doctor.primary_state import (
    PrimaryState,
    read_columns,
    read_installed,
    read_server,
)
from mirror.diagnostics.doctor.processing import (
    Limits,
    check_clock,
    check_processing,
    check_status,
)
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
from mirror.schema.migrate import OLDEST
from mirror.settings import Settings
from mirror.sync.targets.catalog import Catalog, Description
from mirror.sync.wiring import build_source, build_target

_DEFAULT = Limits()
# A missing migration of the model or of the guards causes these findings; while one is missing, the
# doctor reports the migration instead of them.
_CAUSED_BY_MIGRATION = {
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
    """The state of both sides; None: not read."""

    primary: PrimaryState | None = None
    status: Status | None = None
    described: Description | None = None
    catalog: Catalog | None = None
    skew_seconds: float = 0.0
    """How far the target's clock is ahead of this machine's; negative: behind."""
    failures: list[Finding] = field(default_factory=list)
    """One for each read that ended with an error."""

    @contextmanager
    def collecting_errors(
        self, settings: Settings, side: str, *, ignore_not_migrated: bool = False
    ) -> Iterator[None]:
        """If the block raises an error of the mirror, leave it and add a finding to `failures`.

        The code after the block goes on. `ignore_not_migrated`: add none for NotMigrated, because
        another finding already reports the missing migration.
        """
        try:
            yield
        except MirrorError as error:
            if not (ignore_not_migrated and isinstance(error, NotMigrated)):
                self.failures.append(_failure(settings, side, error))


@dataclass(frozen=True)
class Diagnosis:
    """All findings of one run."""

    findings: list[Finding]
    """Errors first, then in the order of CHECKS."""
    no_side_answered: bool
    """Neither side could be read."""

    @property
    def exit_code(self) -> int:
        """The exit code of `mirror doctor`.

        4: neither side could be read. 1: there are errors. 0: there are warnings at most.
        """
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
    """Read both sides and run all checks; a side that cannot be read is a finding.

    Raises:
        ConfigError: neither side is configured.
    """
    if missing_settings(settings, "primary") and missing_settings(settings, "target"):
        settings.need("primary_database_url")
    state = SystemState()
    if not missing_settings(settings, "target"):
        _read_target(state, settings, registry)
    findings: list[Finding] = []
    if not missing_settings(settings, "primary"):
        findings += _read_primary(state, settings, registry, limits)
    findings += state.failures
    findings += check_settings(settings)
    findings += check_broker(settings)
    findings += check_all(state, settings, registry, limits)
    order = list(CHECKS)
    findings.sort(key=lambda f: (f.severity is not Severity.ERROR, order.index(f.code)))
    unread = state.primary is None and state.described is None
    return Diagnosis(findings, no_side_answered=unread)


def _read_target(state: SystemState, settings: Settings, registry: Registry) -> None:
    with state.collecting_errors(settings, "target"), closing(build_target(settings)) as target:
        state.described = target.describe()
        missing = missing_migrations("supabase", state.described.migrations, registry)
        old_engine = "0001_engine" in missing
        with state.collecting_errors(settings, "target", ignore_not_migrated=old_engine):
            began = time.time()
            state.catalog = target.examine(declared_tables(registry), declared_types(registry))
            state.skew_seconds = state.catalog["now"] - (began + time.time()) / 2


def _read_primary(
    state: SystemState, settings: Settings, registry: Registry, limits: Limits
) -> list[Finding]:
    findings: list[Finding] = []
    with state.collecting_errors(settings, "primary"), closing(build_source(settings)) as source:
        state.primary = read_server(source.database)
        with state.collecting_errors(settings, "primary"):
            read_installed(state.primary, source.database, registry)
            missing = bool(missing_migrations("primary", state.primary.applied, registry))
            with state.collecting_errors(settings, "primary", ignore_not_migrated=missing):
                state.status = read_primary_status(registry, source, state.described)
        with state.collecting_errors(settings, "primary"):
            read_columns(state.primary, source, registry)
        findings += check_listen_url(settings, source.database, seconds=limits.notification_seconds)
    return findings


def check_all(
    state: SystemState, settings: Settings, registry: Registry, limits: Limits
) -> Iterator[Finding]:
    """Yield the findings of all checks on a state that was read; send no query.

    The parts of the state that could not be read (None) are not checked.
    """
    primary, described, catalog = state.primary, state.described, state.catalog
    # Migrations printed from the declarations that the target does not have.
    missing_printed: list[str] = []
    if primary is not None:
        yield from check_server("primary", primary.version, primary.skew_seconds, limits)
        if primary.replica:
            yield finding("primary-replica", "primary: it is a standby, in recovery")
        if primary.migrated:
            yield from check_migrations("primary", primary.applied, registry)
            yield from check_triggers(primary, registry)
        yield from check_columns(primary, registry)
        yield from check_processing(settings, registry, primary, state.status, limits)
    if described is not None:
        yield from check_migrations("supabase", described.migrations, registry)
        missing = missing_migrations("supabase", described.migrations, registry)
        missing_printed = [name for name in missing if name != "0001_engine"]
    model_late = f"model_{registry.name}" in missing_printed
    yield from check_status(registry, state.status, described, model_late=model_late)
    if catalog is not None and described is not None:
        yield from check_server("target", catalog["version"], state.skew_seconds, limits)
        guarded = f"guards_{registry.name}" in described.migrations
        for found in _check_target(ExpectedTarget(registry, catalog, guarded=guarded)):
            if not missing_printed or found.code not in _CAUSED_BY_MIGRATION:
                yield found


def _check_target(target: ExpectedTarget) -> Iterator[Finding]:
    yield from check_tables(target)
    yield from PolicyChecks(target).check()
    yield from check_grants(target)
    yield from check_functions(target)


def check_server(side: str, version: int, skew_seconds: float, limits: Limits) -> Iterator[Finding]:
    """Yield a finding if a server is too old, and one if its clock is wrong."""
    oldest = OLDEST["primary" if side == "primary" else "supabase"]
    if version < oldest * 10_000:
        yield finding(f"{side}-version", f"{side}: it runs PostgreSQL {version // 10_000}")
    yield from check_clock(side, skew_seconds, limits)


def _failure(settings: Settings, side: str, error: MirrorError) -> Finding:
    """Return the finding for an error that kept a side (`primary`, `target`) from being read."""
    if isinstance(error, ConfigError):
        rest_target = side == "target" and settings.transport == "rest"
        return finding("key-kind" if rest_target else "setting-malformed", str(error))
    if isinstance(error, WrongKey):
        return finding("key-refused", str(error))
    if isinstance(error, StaleCache):
        return finding("api-stale", str(error))
    if isinstance(error, NotMigrated):
        return finding(f"{side}-not-migrated", str(error))
    reason = "unreachable" if isinstance(error, Transient) else "refused"
    return finding(f"{side}-{reason}", str(error))
