"""Diagnosis: reads the state of both sides and runs all checks on it."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

from mirror.diagnostics.doctor.checks import CHECKS
from mirror.diagnostics.doctor.expected import ExpectedTarget
from mirror.diagnostics.doctor.findings import Finding, finding
from mirror.diagnostics.doctor.installed_migrations import (
    check_migrations,
    check_triggers,
    missing_migrations,
)
from mirror.diagnostics.doctor.kinds import Severity
from mirror.diagnostics.doctor.policies import (
    PolicyChecks,
    check_buckets,
    check_bypasses,
    check_functions,
    check_grants,
)
from mirror.diagnostics.doctor.primary_state import PrimaryState
from mirror.diagnostics.doctor.processing import (
    Limits,
    check_clock,
    check_faults,
    check_open_transactions,
    check_processing,
)
from mirror.diagnostics.doctor.settings import (
    check_listen_url,
    check_settings,
    missing_settings,
)
from mirror.diagnostics.doctor.source_columns import check_columns
from mirror.diagnostics.doctor.system_state import SystemState, read_primary, read_target
from mirror.diagnostics.doctor.tables import check_tables
from mirror.diagnostics.figures import read_figures
from mirror.errors import Unreachable
from mirror.model.registry import Registry
from mirror.schema.migrate import OLDEST
from mirror.settings import Settings
from mirror.sync.snapshot import Source
from mirror.sync.targets.base import Target
from mirror.sync.wiring import build_source, build_target

_DEFAULT = Limits()
# A part that is not known may be worse than each error that is known.
_UNANSWERED = {"primary-unreachable", "target-unreachable", "broker-unreachable"}
# A missing migration of the model or of the guards causes these findings; while one is missing, the
# doctor reports the migration instead of them.
_CAUSED_BY_MIGRATION = {
    "table-missing",
    "column-missing",
    "column-extra",
    "column-type",
    "reference-missing",
    "reference-outside",
    "index-missing",
    "grant-excess",
    "grant-missing",
    "policy-missing",
    "guard-trigger-missing",
}


@dataclass(frozen=True)
class Diagnosis:
    """All findings of one run."""

    findings: list[Finding]
    """Errors first, then in the order of CHECKS."""

    @property
    def exit_code(self) -> int:
        """The exit code of `mirror doctor`.

        4: a side or Redis does not answer. 1: there are errors. 0: there are warnings at most.
        """
        if _UNANSWERED.intersection(found.code for found in self.findings):
            return Unreachable.exit_code
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
    findings: list[Finding] = []
    with ExitStack() as opened:
        source: Source | None = None
        target: Target | None = None
        if not missing_settings(settings, "target"):
            with state.collecting_errors(settings, "target"):
                target = opened.enter_context(closing(build_target(settings)))
        if not missing_settings(settings, "primary"):
            source = opened.enter_context(closing(build_source(settings)))
        state.figures = read_figures(settings, registry, source, target)
        if target is not None:
            read_target(state, settings, registry, target)
        if source is not None:
            read_primary(state, settings, registry, source)
            if state.primary is not None:
                seconds = limits.notification_seconds
                findings += check_listen_url(settings, source.database, seconds=seconds)
    findings += state.failures
    findings += check_settings(settings, registry)
    findings += check_all(state, settings, registry, limits)
    order = list(CHECKS)
    findings.sort(key=lambda f: (f.severity is not Severity.ERROR, order.index(f.code)))
    return Diagnosis(findings)


def check_all(
    state: SystemState, settings: Settings, registry: Registry, limits: Limits
) -> Iterator[Finding]:
    """Yield the findings of all checks on a state that was read; send no query.

    The parts of the state that could not be read (None) are not checked.
    """
    described, catalog = state.described, state.catalog
    # Migrations printed from the declarations that the target does not have.
    missing_printed: list[str] = []
    if state.primary is not None:
        yield from _check_primary(state.primary, state.applied, registry, limits)
    if described is not None:
        yield from check_migrations("supabase", described.migrations, registry)
        missing = missing_migrations("supabase", described.migrations, registry)
        missing_printed = [name for name in missing if name != "0001_engine"]
    if state.figures is not None:
        model_late = f"model_{registry.name}" in missing_printed
        yield from check_faults(state.figures, model_late=model_late)
        yield from check_processing(settings, registry, state.figures, limits)
    if catalog is not None and described is not None:
        yield from check_server("target", catalog["version"], state.skew_seconds, limits)
        guarded = f"guards_{registry.name}" in described.migrations
        for found in _check_target(ExpectedTarget(registry, catalog, guarded=guarded)):
            if not missing_printed or found.code not in _CAUSED_BY_MIGRATION:
                yield found


def _check_primary(
    primary: PrimaryState, applied: dict[str, str] | None, registry: Registry, limits: Limits
) -> Iterator[Finding]:
    yield from check_server("primary", primary.version, primary.skew_seconds, limits)
    if primary.replica:
        yield finding("primary-replica", "primary: it is a standby, in recovery")
    if applied is not None:
        yield from check_migrations("primary", applied, registry)
        if f"triggers_{registry.name}" in applied:
            yield from check_triggers(primary)
    yield from check_columns(primary, registry)
    yield from check_open_transactions(primary, limits)


def _check_target(target: ExpectedTarget) -> Iterator[Finding]:
    yield from check_tables(target)
    yield from PolicyChecks(target).check()
    yield from check_grants(target)
    yield from check_bypasses(target)
    yield from check_functions(target)
    yield from check_buckets(target)


def check_server(side: str, version: int, skew_seconds: float, limits: Limits) -> Iterator[Finding]:
    """Yield a finding if a server is too old, and one if its clock is wrong."""
    oldest = OLDEST["primary" if side == "primary" else "supabase"]
    if version < oldest * 10_000:
        yield finding(f"{side}-version", f"{side}: it runs PostgreSQL {version // 10_000}")
    yield from check_clock(side, skew_seconds, limits)
