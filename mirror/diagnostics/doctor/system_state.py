"""System state: everything that the checks need of both sides, and how it is read."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mirror.diagnostics.doctor.expected import declared_tables, declared_types
from mirror.diagnostics.doctor.findings import Finding, finding
from mirror.diagnostics.doctor.installed_migrations import missing_migrations
from mirror.diagnostics.doctor.primary_state import (
    PrimaryState,
    read_columns,
    read_server,
    read_tables,
)
from mirror.diagnostics.figures import Figures, Unknown, known
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
from mirror.sync.snapshot import Source
from mirror.sync.targets.base import Target
from mirror.sync.targets.catalog import Catalog, Description


@dataclass
class SystemState:
    """The figures, and what only the doctor needs; None: not read."""

    figures: Figures | None = None
    primary: PrimaryState | None = None
    catalog: Catalog | None = None
    skew_seconds: float = 0.0
    """How far the target's clock is ahead of this machine's; negative: behind."""
    failures: list[Finding] = field(default_factory=list)
    """One for each read that ended with an error."""

    @property
    def described(self) -> Description | None:
        """The target's figures."""
        return None if self.figures is None else known(self.figures.target)

    @property
    def applied(self) -> dict[str, str] | None:
        """The primary's migrations: checksums by name."""
        return None if self.figures is None else known(self.figures.primary_migrations)

    def fail(self, settings: Settings, side: str, error: MirrorError) -> None:
        """Add a finding for an error to `failures`, once."""
        found = _failure(settings, side, error)
        if found not in self.failures:
            self.failures.append(found)

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
                self.fail(settings, side, error)


def read_target(state: SystemState, settings: Settings, registry: Registry, target: Target) -> None:
    """Add the target's catalog to `state`, if its figures are known."""
    assert state.figures is not None  # noqa: S101 - for mypy
    described = state.figures.target
    if isinstance(described, Unknown):
        state.fail(settings, "target", described.error)
        return
    missing = missing_migrations("supabase", described.migrations, registry)
    old_engine = "0001_engine" in missing
    with state.collecting_errors(settings, "target", ignore_not_migrated=old_engine):
        began = time.time()
        state.catalog = target.examine(declared_tables(registry), declared_types(registry))
        state.skew_seconds = state.catalog["now"] - (began + time.time()) / 2


def read_primary(
    state: SystemState, settings: Settings, registry: Registry, source: Source
) -> None:
    """Add the primary's state to `state`, if the primary answers."""
    assert state.figures is not None  # noqa: S101 - for mypy
    figures, applied = state.figures.primary, state.figures.primary_migrations
    if isinstance(applied, Unknown):
        state.fail(settings, "primary", applied.error)
        if isinstance(applied.error, Transient | ConfigError):
            return
        missing = True
    else:
        missing = bool(missing_migrations("primary", applied, registry))
    if isinstance(figures, Unknown) and not (missing and isinstance(figures.error, NotMigrated)):
        state.fail(settings, "primary", figures.error)
    with state.collecting_errors(settings, "primary"):
        state.primary = read_server(source.database)
        with state.collecting_errors(settings, "primary", ignore_not_migrated=missing):
            read_tables(state.primary, source.database, registry)
        with state.collecting_errors(settings, "primary"):
            read_columns(state.primary, source, registry)


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
