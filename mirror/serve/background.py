"""Background: a reconcile that an operator starts on the page, in a thread of the server.

It may take longer than a browser waits. If the server stops, the run ends as if it had crashed:
repairs so far are kept, and workers finish its loads.
"""

import threading
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import structlog

from mirror.errors import MirrorError
from mirror.errors.unforeseen import explained
from mirror.model.registry import Registry
from mirror.reconcile import Options, Report, run_reconcile
from mirror.settings import Settings
from mirror.sync.wiring import build_drain

STARTED_BY: Final = "page"

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Ended:
    """The end of a run that the page started."""

    dry_run: bool
    report: Report | None
    """None: an error ended the run."""
    error: str | None


class BackgroundReconcile:
    """Runs one reconcile at a time, in a thread."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings = settings
        self._registry = registry
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.ended: Ended | None = None
        """The end of the last run of this process; None: none has ended."""

    @property
    def running(self) -> bool:
        """Whether a run of this process is under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, options: Options) -> bool:
        """Start a run; return False, and start none, if one of this process is under way."""
        with self._lock:
            if self.running:
                return False
            self._thread = threading.Thread(target=self._run, args=[options], daemon=True)
            self._thread.start()
            return True

    def _run(self, options: Options) -> None:
        report, error = None, None
        try:
            with explained(), closing(build_drain(self._settings, self._registry)) as drain:
                report = run_reconcile(drain, self._settings, options, started_by=STARTED_BY)
        except MirrorError as raised:
            error = str(raised)
            log.warning("the reconcile of the page ended early", reason=error)
        self.ended = Ended(options.dry_run, report, error)
