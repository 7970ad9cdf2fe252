"""Watch: reads the state of the mirror for the page, the metrics and the probes.

A reading is kept for some seconds, so that many visitors cost the databases no more than one.
"""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

from mirror.diagnostics.doctor.findings import Finding
from mirror.diagnostics.doctor.installed_migrations import check_migrations, missing_migrations
from mirror.diagnostics.doctor.processing import Limits, check_faults, check_processing
from mirror.diagnostics.doctor.system_state import SystemState
from mirror.diagnostics.figures import Figures, Unknown, read_figures
from mirror.diagnostics.runs import Run, read_runs
from mirror.diagnostics.unfinished import (
    BuriedCause,
    OpenRevocation,
    read_buried_causes,
    read_open_revocations,
)
from mirror.errors import MirrorError, NotMigrated
from mirror.errors.unforeseen import explained
from mirror.model.registry import Registry
from mirror.settings import Settings
from mirror.sync.connections import Database
from mirror.sync.wiring import build_source, build_target

_SECONDS: Final = 5.0
_RUNS: Final = 20
MOST_REVOCATIONS: Final = 20
"""How many open revocations a reading has."""
_CAUSES: Final = 50

_Part = TypeVar("_Part")


@dataclass(frozen=True)
class Reading:
    """The state of the mirror at one moment. A part that could not be read is Unknown."""

    at: datetime
    """When the reading began, by the clock of this process, in UTC."""
    figures: Figures
    problems: tuple[Finding, ...]
    """The doctor's findings that follow from the figures alone; those about a side come first."""
    revocations: tuple[OpenRevocation, ...] | Unknown
    """The oldest revocations that may not be in force, at most twenty."""
    buried: tuple[BuriedCause, ...] | Unknown
    """The causes of dead events, at most fifty."""
    runs: tuple[Run, ...] | Unknown
    """The last twenty reconciles, the newest first."""

    @property
    def unread(self) -> list[str]:
        """The names of the parts that are Unknown."""
        more = ("revocations", "buried", "runs")
        found = [name for name in more if isinstance(getattr(self, name), Unknown)]
        # They are read from the primary, too.
        return list(self.figures.unknown) or found


class Watch:
    """Reads the state of the mirror, at most once in some seconds; safe in threads.

    Each reading has connections of its own: one that had died meanwhile would look like an outage.

    Raises:
        ConfigError: a required setting is missing.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        *,
        seconds: float = _SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.registry = registry
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        # Nothing is connected here, but a setting that is missing is an error now.
        build_source(settings).close()
        build_target(settings).close()
        self._reading: Reading | None = None
        self._read_at = 0.0

    def read(self) -> Reading:
        """Return the last reading, or a new one if that is too old."""
        with self._lock:
            if self._reading is None or self._clock() > self._read_at + self._seconds:
                self._reading = self._read()
                self._read_at = self._clock()
            return self._reading

    def forget(self) -> None:
        """Make the next call of `read` read again, because something was changed."""
        with self._lock:
            self._reading = None

    def _read(self) -> Reading:
        with (
            closing(build_source(self.settings)) as source,
            closing(build_target(self.settings)) as target,
        ):
            began = datetime.now(UTC)
            figures = read_figures(self.settings, self.registry, source, target)
            return self._complete(began, figures, source.database)

    def _complete(self, began: datetime, figures: Figures, database: Database) -> Reading:
        def also(read: Callable[[Database], _Part]) -> _Part | Unknown:
            """Read more of the primary, unless it has just not answered."""
            return figures.primary if isinstance(figures.primary, Unknown) else _try(read, database)

        return Reading(
            at=began,
            figures=figures,
            problems=tuple(self._find_problems(figures)),
            revocations=also(lambda one: read_open_revocations(one, limit=MOST_REVOCATIONS)),
            buried=also(lambda one: read_buried_causes(one, limit=_CAUSES)),
            runs=also(lambda one: read_runs(one, limit=_RUNS)),
        )

    def _find_problems(self, figures: Figures) -> list[Finding]:
        settings, registry = self.settings, self.registry
        state = SystemState(figures)
        found: list[Finding] = []
        late: list[str] = []
        if state.applied is not None:
            found += check_migrations("primary", state.applied, registry)
        if state.described is not None:
            found += check_migrations("supabase", state.described.migrations, registry)
            late = missing_migrations("supabase", state.described.migrations, registry)
        for side, part in (("primary", figures.primary), ("target", figures.target)):
            # A missing migration is a problem already, and may be why a figure cannot be read.
            if isinstance(part, Unknown) and not (found and isinstance(part.error, NotMigrated)):
                state.fail(settings, side, part.error)
        found += check_faults(figures, model_late=f"model_{registry.name}" in late)
        found += check_processing(settings, registry, figures, Limits())
        return state.failures + found


def _try(read: Callable[[Database], _Part], database: Database) -> _Part | Unknown:
    try:
        with explained():
            return read(database)
    except MirrorError as error:
        return Unknown(error)
