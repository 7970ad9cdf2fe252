"""Single: `mirror run`, which does in one process what worker, beat and relay do.

The relay runs in the main thread and rings a bell for a thread that drains. Another thread takes
the turns of the night. They share no connection.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, Protocol

import structlog

from mirror.errors import MirrorError, Transient
from mirror.errors.unforeseen import explained
from mirror.settings import Settings
from mirror.sync.heartbeats import Heartbeat
from mirror.sync.schedule import MISSED, PURGE_TASK, RECONCILE_TASK, beat_schedule
from mirror.sync.wiring import build_local_relay, check_fresh_seconds
from mirror.worker.bells import LocalBell
from mirror.worker.chores import MOMENT, Worker

log = structlog.stdlib.get_logger(__name__)

# In seconds. A platform may kill a process ten seconds after it has asked it to end.
_GRACE: Final = 5.0


class Part(Protocol):
    """Something else that the process does, in a thread of its own."""

    @property
    def name(self) -> str:
        """That of its thread."""

    def run(self) -> None:
        """Work until stopped."""

    def stop(self) -> None:
        """Make `run` return soon; called from another thread."""


class SingleProcess:
    """One process that mirrors, without Redis and Celery's processes.

    Args:
        settings: those of the mirror.
        parts: what else it does, such as to serve the page.

    Raises:
        ConfigError: a required setting is missing, or contradicts the registry.
    """

    def __init__(self, settings: Settings, parts: Sequence[Part] = ()) -> None:
        if settings.redis_url is not None:
            log.warning(
                "REDIS_URL is not used; remove it, also from the backend, whose messages would "
                "pile up in Redis"
            )
            settings = settings.model_copy(update={"redis_url": None})
        self._interval = min(
            settings.sweep_seconds, settings.fresh_seconds or settings.sweep_seconds
        )
        """That of beat's rings, in seconds."""
        self._bell = LocalBell()
        self._stop = threading.Event()
        self._worker = Worker(lambda: settings, self._bell, self._stop.is_set)
        check_fresh_seconds(settings, self._worker.drain.registry)
        beat_schedule(settings)
        self._relay = build_local_relay(settings, self._bell)
        self._parts = parts
        targets = {"drain": self._drain, "turns": self._take_turns}
        targets |= {part.name: partial(_run_part, part) for part in parts}
        self._threads = [
            threading.Thread(target=target, name=f"mirror-{name}", daemon=True)
            for name, target in targets.items()
        ]

    def run(self) -> None:
        """Mirror until interrupted; then end the batch in progress, and return.

        Raises:
            MirrorError: an error of the primary that does not pass by itself, such as NotMigrated.
        """
        for thread in self._threads:
            thread.start()
        try:
            self._relay.run()
        finally:
            self._stop.set()
            self._bell.ring()
            for part in self._parts:
                part.stop()
            end = time.monotonic() + _GRACE
            for thread in self._threads:
                thread.join(max(0.0, end - time.monotonic()))
            # The servers roll back work that has not ended by then.
            self._relay.close()

    def _drain(self) -> None:
        """Drain when the bell rings, and at beat's interval."""
        alive = Heartbeat("run")
        due = time.monotonic()
        while not self._stop.is_set():
            if not self._bell.wait(min(MOMENT, max(0.0, due - time.monotonic()))):
                with _going_on():
                    self._worker.rest()
                self._bell.wait(max(0.0, due - time.monotonic()))
            as_beat = time.monotonic() >= due
            if as_beat:
                due = time.monotonic() + self._interval
            with _going_on():
                self._worker.run_drain(from_beat=as_beat)
                alive.beat(self._worker.drain.queue.claims)
        self._worker.drain.close()

    def _take_turns(self) -> None:
        """Reconcile and purge when the records in the primary say that it is time."""
        chores = {RECONCILE_TASK: self._worker.run_reconcile, PURGE_TASK: self._worker.run_purge}
        begun: dict[str, float] = {}
        while not self._stop.wait(self._interval):
            for task in self._worker.missed_tasks(since=timedelta(0)):
                # One that has failed before it left a record is tried again as late as with beat.
                # A turn that has left one is not missed any more, as of its own beginning.
                if time.monotonic() > begun.get(task, float("-inf")) + MISSED.total_seconds():
                    begun[task], began_at = time.monotonic(), datetime.now(UTC)
                    with _going_on():
                        chores[task]()
                    if task not in self._worker.missed_tasks(began_at, since=timedelta(0)):
                        del begun[task]
        self._worker.drain.close()


def _run_part(part: Part) -> None:
    """Run a part; an error of its own is logged and ends nothing else."""
    with _going_on():
        part.run()


@contextmanager
def _going_on() -> Iterator[None]:
    """Log an error that the block has not handled, so that its thread goes on."""
    try:
        with explained():
            yield
    except Transient:
        # The drain has logged that the primary does not answer.
        return
    except MirrorError as error:
        log.error("unexpected error", reason=str(error))  # noqa: TRY400 - no trace wanted
