"""Chores: what a worker does when it is woken, and at its turns of the night.

Celery's tasks call these, and so does `mirror run`.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cached_property

import structlog

from mirror.errors import Halted, MirrorError, NotMigrated, Transient
from mirror.reconcile import AlreadyRunning, Options, run_reconcile, sweep
from mirror.settings import Settings
from mirror.sync.drain import Drain
from mirror.sync.heartbeats import Heartbeat, forget_heartbeats
from mirror.sync.schedule import MISSED, missed_tasks
from mirror.sync.wiring import build_drain, build_target
from mirror.worker.bells import Bell, RedisBell

log = structlog.stdlib.get_logger(__name__)


MOMENT = 0.5
"""A ring seldom follows after so many seconds without one."""

# In seconds. Celery's parent process has to pass each message on, so a process that has found
# events waits a moment for the next ring itself, again and again. Meanwhile it holds the doorbell
# (`mirror.worker.holder`). A message in the queue ends that; one that Celery's parent has taken out
# of it already may have to wait for the end.
_MOMENTS = 10.0


class _Stopped(BaseException):
    """Ends a reconcile. Not an Exception: nothing may take it for an error of a mapping."""


class Worker:
    """The settings and connections that one worker process keeps between its tasks.

    Each is created at its first use, so after the fork.

    Args:
        load: returns the settings; called once.
        bell: wakes other drains; None: that of Redis.
        stopping: returns whether the process is to end; a drain then stops after its batch.
    """

    def __init__(
        self,
        load: Callable[[], Settings],
        bell: Bell | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._load = load
        self._bell = bell
        self._stopping = stopping
        self._thread = threading.local()
        self._heartbeat = Heartbeat("sweep")

    @cached_property
    def settings(self) -> Settings:
        """The settings, read once per process."""
        # Workers start in the user's repository, where the mappings module is.
        if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds strings
            sys.path.insert(0, os.getcwd())  # noqa: PTH109 - likewise
        return self._load()

    @property
    def drain(self) -> Drain:
        """This thread's own Drain. Its connections stay open between tasks.

        Tasks in two threads must never share the connection of a claim: the commit of one task
        would end the claim of the other.
        """
        if not hasattr(self._thread, "drain"):
            self._thread.drain = build_drain(self.settings)
        drain: Drain = self._thread.drain
        return drain

    @cached_property
    def bell(self) -> Bell:
        """The bell with which a task wakes other drains when there is a backlog."""
        return RedisBell(self.settings) if self._bell is None else self._bell

    def run_drains(self, *, from_beat: bool = False) -> None:
        """Run a drain, and if it finds events, one for each ring that follows within a moment."""
        end = time.monotonic() + _MOMENTS
        try:
            rung = self.run_drain(from_beat=from_beat)
            while rung and time.monotonic() < end and not self._stopping():
                if rung := self.bell.wait(MOMENT):
                    self.run_drain()
        finally:
            self.bell.hand_over()
        self.rest()

    def run_drain(self, *, from_beat: bool = False) -> bool:
        """Mirror the waiting events, until none is left or `drain_seconds` are over.

        Wakes other workers at a backlog, and afterwards deletes expired rows. Errors are logged,
        not raised: the events wait for the next drain. `from_beat`: whether beat sent the message;
        if so, the heartbeat of worker and beat is written. Returns whether it mirrored events.
        """
        found = False
        self.bell.acknowledge()
        try:
            done = self.drain.run(
                seconds=self.settings.drain_seconds,
                on_full_batch=self.bell.ring,
                stopping=self._end_of_batch,
                goes_on=True,
            )
        except MirrorError as error:
            self._note_waiting(error)
        else:
            self._note_waiting(None)
            found = done.events > 0
            if done.full:
                self.bell.ring()
            self._sweep()
        if from_beat:
            with suppress(Transient):
                self._heartbeat.beat(self.drain.queue.claims)
        return found

    def rest(self) -> None:
        """Finish what the last drain has begun, because no ring has followed for a moment.

        If a database is away, this leaves it to the next drain.
        """
        if self._waits_for is not None:
            return
        try:
            self.drain.rest()
        except MirrorError as error:
            self._note_waiting(error)

    def _end_of_batch(self) -> bool:
        """Return whether the process is to end, so that the drain must not look for more events."""
        self.bell.go_on()
        return self._stopping()

    @property
    def _waits_for(self) -> str | None:
        """Why events wait, as this thread's last drain found; None: they do not."""
        reason: str | None = getattr(self._thread, "reason", None)
        return reason

    def _note_waiting(self, error: MirrorError | None) -> None:
        """Log why events wait, once for each reason, and once that they do not wait any more."""
        reason = None if error is None else str(error)
        before, self._thread.reason = self._waits_for, reason
        if reason == before:
            return
        # Without the traceback, which could contain values of rows.
        if error is None:
            log.info("events are mirrored again")
        elif isinstance(error, Transient):
            log.warning("events wait", reason=reason)
        elif isinstance(error, Halted | NotMigrated):
            log.error("events wait until somebody acts", reason=reason)
        else:
            log.error("events wait", reason=reason)

    def _sweep(self) -> None:
        """Delete expired rows from the target, at most once per `sweep_seconds` in each thread."""
        now = time.monotonic()
        if now < getattr(self._thread, "sweep_after", now):
            return
        self._thread.sweep_after = now + self.settings.sweep_seconds
        try:
            expired = sweep(self.drain)
        except MirrorError as error:
            log.warning("expired rows wait for the next sweep", reason=str(error))
        else:
            if expired:
                log.info("swept", expired=expired)

    def missed_tasks(self, now: datetime | None = None, *, since: timedelta = MISSED) -> list[str]:
        """Return the tasks of the night whose last turn was missed; [] if that is unknown.

        A turn that was `since` before `now` (None: the present), or earlier, counts.
        """
        try:
            return missed_tasks(self.settings, self.drain.queue.claims, now, since=since)
        except Transient:
            # The drain says so.
            return []
        except MirrorError as error:
            log.warning("missed turns unknown", reason=str(error))
            return []

    def run_purge(self) -> None:
        """Delete the target's tombstones and fences of scopes older than `tombstone_days`.

        This raises the horizon. Errors are logged, not raised: the next purge tries again.
        """
        with suppress(Transient):
            Heartbeat("purge").beat(self.drain.queue.claims)
            forget_heartbeats(self.drain.queue.claims)
        target = build_target(self.settings)
        try:
            log.info("purged", tombstones=target.purge(self.settings.tombstone_days))
        except MirrorError as error:
            log.warning("purge waits for its next turn", reason=str(error))
        finally:
            target.close()

    def run_reconcile(self) -> None:
        """Compare primary and target, repair the differences, and log the report.

        Errors are logged, not raised.
        """
        drain = build_drain(self.settings)
        try:
            report = run_reconcile(
                drain, self.settings, Options(), started_by="beat", progress=self._go_on
            )
        except _Stopped:
            log.info("reconcile stopped, because this process is to end")
        except AlreadyRunning as busy:
            log.info("reconcile left to another", reason=str(busy))
        except MirrorError as error:
            log.error("reconcile ended early", reason=str(error))  # noqa: TRY400 - no trace wanted
        else:
            write = log.info if report.exit_code == 0 else log.error
            write("reconciled", **report.as_json(keys=False))
        finally:
            drain.close()

    def _go_on(self, *_: object) -> None:
        """End a reconcile after its batch if the process is to end."""
        if self._stopping():
            raise _Stopped
