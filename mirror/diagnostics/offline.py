"""Offline: all checks of settings and declarations that need no server, for `mirror check`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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


@dataclass
class OfflineReport:
    """The result of all checks: one sentence for each thing."""

    errors: list[str] = field(default_factory=list)
    """Workers, commands or migrations would fail."""
    warnings: list[str] = field(default_factory=list)
    """They work, but probably not as is meant."""
    passed: list[str] = field(default_factory=list)
    """What was checked and found right."""

    def attempt(self, *checks: Callable[[], object]) -> bool:
        """Run each check, and note the library's errors; return whether there was none."""
        before = len(self.errors)
        for check in checks:
            try:
                check()
            except MirrorError as error:
                self.errors.append(str(error))
        return len(self.errors) == before


def check_offline(models: Sequence[str]) -> OfflineReport:
    """Check the settings' form, the registry, its SQL, and ORM capture's view of `models`.

    `models` are names of modules with SQLAlchemy models. A fault does not stop the other checks.
    """
    report = OfflineReport(warnings=unknown_variables())
    loaded: list[Settings] = []
    report.attempt(lambda: loaded.append(load_settings()))
    settings = loaded[0] if loaded else None
    # Also if another setting is malformed.
    module = settings.mappings if settings else mappings_module()
    registries: list[Registry] = []
    report.attempt(lambda: registries.append(load_registry(module)))
    registry = registries[0] if registries else None
    _check_settings(report, settings, registry)
    if registry is not None:
        _check_sql(report, registry, module)
        for name in models:
            _check_models(report, registry, name)
    return report


def _check_settings(
    report: OfflineReport, settings: Settings | None, registry: Registry | None
) -> None:
    checks: list[Callable[[], object]] = [DoorbellSettings.from_environment]
    if settings is not None:
        checks.append(lambda: beat_schedule(settings))
        # What is not set is the doctor's: a check has neither passwords nor keys, as a rule.
        if registry is not None and settings.fresh_seconds is not None:
            checks.append(lambda: check_fresh_seconds(settings, registry))
        if not missing_settings(settings, "target"):
            checks.append(lambda: build_target(settings).close())
    if report.attempt(*checks) and settings is not None:
        report.passed.append("settings: well formed")


def _check_sql(report: OfflineReport, registry: Registry, module: str) -> None:
    if report.attempt(
        lambda: migrations("primary", registry, triggers=True),
        lambda: removal_sql(registry),
        lambda: migrations("supabase", registry, guards=True),
    ):
        count, guards = len(list(registry)), len(registry.guards)
        report.passed.append(
            f"registry {registry.name} of {module}: {count} mapping(s) and {guards} guard(s) are "
            f"valid, and their SQL prints"
        )


def _check_models(report: OfflineReport, registry: Registry, name: str) -> None:
    tables: list[object] = []
    if not report.attempt(lambda: tables.extend(tables_of_models(name))):
        return
    found = [
        f"{name}: {sentence}; ORM capture records no change of it"
        for sentence in unseen(registry, tables)
    ]
    report.warnings += found
    if not found:
        report.passed.append(
            f"models {name}: ORM capture sees all {len(registry.effects)} table(s) that are read"
        )
