"""Offline: all checks of settings and declarations that need no server, for `mirror check`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from mirror.capture.doorbell import DoorbellSettings
from mirror.capture.orm.coverage import tables_of_models, unseen
from mirror.capture.variables import mappings_module
from mirror.diagnostics.doctor.settings import missing_settings
from mirror.errors import MirrorError
from mirror.model.registry import Registry, load_registry
from mirror.schema import removal_sql
from mirror.schema.migrate import migrations
from mirror.settings import Settings, load_settings, unknown_variables
from mirror.sync.schedule import beat_schedule
from mirror.sync.wiring import build_target, check_fresh_seconds

_Result = TypeVar("_Result")


@dataclass
class OfflineReport:
    """The result of all checks: one sentence for each thing."""

    errors: list[str] = field(default_factory=list)
    """Workers, commands or migrations would fail."""
    warnings: list[str] = field(default_factory=list)
    """They work, but probably not as is meant."""
    passed: list[str] = field(default_factory=list)
    """The things that were checked and found right."""

    def attempt(self, check: Callable[[], _Result]) -> _Result | None:
        """Return the result of a check; None if it fails, and then its error is noted."""
        try:
            return check()
        except MirrorError as error:
            self.errors.append(str(error))
            return None


def check_offline(models: Sequence[str]) -> OfflineReport:
    """Check the settings' form, the registry, its SQL, and ORM capture's view of `models`.

    `models` are names of modules with SQLAlchemy models. A fault does not stop the other checks.
    """
    report = OfflineReport(warnings=unknown_variables())
    settings = report.attempt(load_settings)
    # Also if another setting is malformed.
    module = settings.mappings if settings else mappings_module()
    registry = report.attempt(lambda: load_registry(module))
    _check_settings(report, settings, registry)
    if registry is not None:
        _check_sql(report, registry, module)
    for name in models:
        tables = report.attempt(partial(tables_of_models, name))
        if registry is not None and tables is not None:
            _check_coverage(report, registry, name, tables)
    return report


def _check_settings(
    report: OfflineReport, settings: Settings | None, registry: Registry | None
) -> None:
    count = len(report.errors)
    report.attempt(DoorbellSettings.from_environment)
    if settings is None:
        return
    report.attempt(lambda: beat_schedule(settings))
    # Missing settings are the doctor's subject: as a rule, a check has neither passwords nor keys.
    if registry is not None and settings.fresh_seconds is not None:
        report.attempt(lambda: check_fresh_seconds(settings, registry))
    if not missing_settings(settings, "target"):
        report.attempt(lambda: build_target(settings).close())
    if len(report.errors) == count:
        report.passed.append("settings: well formed")


def _check_sql(report: OfflineReport, registry: Registry, module: str) -> None:
    count = len(report.errors)
    report.attempt(lambda: migrations("primary", registry, triggers=True))
    report.attempt(lambda: removal_sql(registry))
    report.attempt(lambda: migrations("supabase", registry, guards=True))
    if len(report.errors) == count:
        mappings, guards = len(list(registry)), len(registry.guards)
        report.passed.append(
            f"registry {registry.name} of {module}: {mappings} mapping(s) and {guards} guard(s) "
            f"are valid, and their SQL prints"
        )


def _check_coverage(
    report: OfflineReport, registry: Registry, name: str, tables: list[Any]
) -> None:
    found = [f"{name}: {sentence}" for sentence in unseen(registry, tables)]
    report.warnings += [f"{sentence}; ORM capture records no change of it" for sentence in found]
    if not found:
        report.passed.append(
            f"models {name}: ORM capture sees all {len(registry.effects)} table(s) that are read"
        )
