"""Worker: the Celery app with the tasks that keep the target up to date.

Run it in your own repository; MIRROR_MAPPINGS names your mappings module::

    celery -A mirror.worker worker
    celery -A mirror.worker beat

The broker is Redis, the queue is `mirror`, and messages have no content. If a task crashes, no
event is lost: the transaction that claimed its events rolls back, and beat starts a task again.
"""

import logging
import os
import ssl
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any

from mirror.errors.extras import require_worker_extra

require_worker_extra("a worker")

import redis
import structlog
from celery import Celery, signals
from redis.backoff import NoBackoff
from redis.retry import Retry

from mirror.capture.doorbell import QUEUE, TASK, Doorbell, DoorbellSettings, acknowledge_ring
from mirror.errors import Halted, MirrorError, NotMigrated, Transient
from mirror.reconcile import AlreadyRunning, Options, run_reconcile, sweep
from mirror.settings import Settings, load_settings, unknown_variables
from mirror.settings.logs import configure_logging
from mirror.sync.drain import Drain
from mirror.sync.heartbeats import Heartbeat
from mirror.sync.schedule import (
    EXPIRES,
    FROM_BEAT,
    MADE_UP,
    PURGE_TASK,
    RECONCILE_TASK,
    beat_schedule,
    missed_tasks,
)
from mirror.sync.wiring import build_drain, build_target, check_fresh_seconds

# Longer than a reconcile of a large target takes; ends one that hangs.
_RECONCILE_SECONDS = 6 * 3600

log = structlog.stdlib.get_logger(__name__)


class Worker:
    """The settings and connections that one worker process keeps between its tasks.

    Each is created at its first use, so after the fork.
    """

    def __init__(self, load: Callable[[], Settings]) -> None:
        self._load = load
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
    def doorbell(self) -> Doorbell:
        """The doorbell with which a task wakes other workers when there is a backlog."""
        return Doorbell(DoorbellSettings(redis_url=self.settings.need("redis_url"), mode="inline"))

    @cached_property
    def redis(self) -> redis.Redis:
        """The broker's Redis; it holds the key that marks an unanswered ring of the doorbell."""
        return redis.Redis.from_url(
            self.settings.need("redis_url"),
            socket_timeout=5,
            socket_connect_timeout=5,
            # By default the client retries for several times as long.
            retry=Retry(NoBackoff(), 0),
        )

    def run_drain(self, *, from_beat: bool = False) -> None:
        """Mirror the waiting events, until none is left or `drain_seconds` are over.

        Wakes other workers at a backlog, and afterwards deletes expired rows. Errors are logged,
        not raised: the events wait for the next drain. `from_beat`: whether beat sent the message;
        if so, the heartbeat of worker and beat is written.
        """
        try:
            acknowledge_ring(self.redis)
        except redis.RedisError as error:
            # The doorbell then suppresses rings for some seconds; this drain and beat's next ring
            # take care of the events.
            log.warning("doorbell not answered", reason=type(error).__name__)
        try:
            done = self.drain.run(
                seconds=self.settings.drain_seconds, on_full_batch=self.doorbell.ring
            )
        except Transient as error:
            log.warning("events wait", reason=str(error))
        except (Halted, NotMigrated) as error:
            log.error("events wait until somebody acts", reason=str(error))  # noqa: TRY400 - no trace wanted
        except MirrorError as error:
            # Without the traceback, which could contain values of rows.
            log.error("events wait", reason=str(error))  # noqa: TRY400
        else:
            if done.full:
                self.doorbell.ring()
            self._sweep()
        if from_beat:
            with suppress(Transient):
                self._heartbeat.beat(self.drain.queue.claims)

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

    def missed_tasks(self) -> list[str]:
        """Return the tasks of the night whose last turn was missed; [] if that is unknown."""
        try:
            return missed_tasks(self.settings, self.drain.queue.claims)
        except MirrorError as error:
            log.warning("missed turns unknown", reason=str(error))
            return []

    def run_purge(self) -> None:
        """Delete the target's tombstones and fences of scopes older than `tombstone_days`.

        This raises the horizon. Errors are logged, not raised: the next purge tries again.
        """
        with suppress(Transient):
            Heartbeat("purge").beat(self.drain.queue.claims)
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
            report = run_reconcile(drain, self.settings, Options(), started_by="beat")
        except AlreadyRunning as busy:
            log.info("reconcile left to another", reason=str(busy))
        except MirrorError as error:
            log.error("reconcile ended early", reason=str(error))  # noqa: TRY400 - no trace wanted
        else:
            write = log.info if report.exit_code == 0 else log.error
            write("reconciled", **report.as_json(keys=False))
        finally:
            drain.close()


class _App(Celery):  # type: ignore[misc]
    """A Celery app that always uses the mirror's broker.

    Celery prefers CELERY_BROKER_URL to any setting, and the backend's own app may need that.
    """

    def connection_for_read(self, url: str | None = None, **options: Any) -> Any:
        """Return the connection on which a worker receives messages."""
        return super().connection_for_read(url or self.conf.first("broker_url"), **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> Any:
        """Return the connection on which messages are sent."""
        return super().connection_for_write(url or self.conf.first("broker_url"), **options)


def create_app(load: Callable[[], Settings] = load_settings) -> Celery:
    """Return the Celery app with its tasks.

    `load` returns the mirror's settings; it is called when Celery first needs one of its own.
    """
    app = _App("mirror")
    worker = Worker(load)
    app.add_defaults(lambda: _celery_settings(worker.settings))

    _add_tasks(app, worker)

    def setup_logging(**_: Any) -> None:
        configure_logging(style=worker.settings.log_format, level=worker.settings.log_level)
        # These log two lines for each task; our own record `drained` says the same.
        for name in ("celery.worker.strategy", "celery.app.trace", "celery.beat"):
            logging.getLogger(name).setLevel(logging.WARNING)

    def check(*, drains: bool) -> None:
        """Exit if the settings, and with `drains` the declarations, cannot work."""
        try:
            setup_logging()
            for sentence in unknown_variables():
                log.warning("unknown variable", reason=sentence)
            worker.settings.need("redis_url")
            if drains:
                check_fresh_seconds(worker.settings, build_drain(worker.settings).registry)
        except MirrorError as error:
            log.error("cannot start", reason=str(error))  # noqa: TRY400 - no trace wanted
            # Celery logs other exceptions of a signal handler and goes on.
            raise SystemExit(error.exit_code) from error

    signals.setup_logging.connect(setup_logging, weak=False)
    signals.worker_init.connect(lambda **_: check(drains=True), weak=False)
    # Events may wait already; and if a database is not migrated, the worker says so now.
    signals.worker_ready.connect(lambda **_: worker.doorbell.ring(), weak=False)
    signals.beat_init.connect(lambda **_: check(drains=False), weak=False)
    return app


def _add_tasks(app: Celery, worker: Worker) -> None:
    @app.task(name=TASK, bind=True)  # type: ignore[untyped-decorator]
    def drain(task: Any) -> None:
        from_beat = bool(task.request.get(FROM_BEAT))
        worker.run_drain(from_beat=from_beat)
        if from_beat:
            for name in worker.missed_tasks():
                log.info("turn made up", task=name)
                app.send_task(name, headers={MADE_UP: True}, expires=EXPIRES)

    def needless(task: Any) -> bool:
        """Return whether another message has made the missed turn up already."""
        return bool(task.request.get(MADE_UP)) and task.name not in worker.missed_tasks()

    @app.task(name=PURGE_TASK, bind=True)  # type: ignore[untyped-decorator]
    def purge(task: Any) -> None:
        if not needless(task):
            worker.run_purge()

    # Acknowledged at the start: Redis delivers a message a second time if it is not acknowledged
    # for long, and a reconcile may take long.
    @app.task(  # type: ignore[untyped-decorator]
        name=RECONCILE_TASK,
        bind=True,
        acks_late=False,
        soft_time_limit=_RECONCILE_SECONDS,
        time_limit=_RECONCILE_SECONDS + 60,
    )
    def reconcile(task: Any) -> None:
        if not needless(task):
            worker.run_reconcile()


def _celery_settings(settings: Settings) -> dict[str, Any]:
    longest = settings.drain_seconds + 60
    url = settings.redis_url and settings.need("redis_url")
    tls = bool(url and url.startswith("rediss:"))
    return {
        # May be None: then `check` fails with a clearer message than Celery's.
        "broker_url": url,
        "broker_transport": "mirror.sync.broker:Transport",
        # Celery's default accepts any certificate. A setting in the URL overrides this one.
        "broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_REQUIRED} if tls else None,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # Redis may refuse a command: it has become a replica, or has no memory left.
        "broker_channel_error_retry": True,
        # Redis delivers the message of a lost worker again after this time.
        "broker_transport_options": {
            "visibility_timeout": int(longest * 4),
            # By default a worker waits for ever for a Redis that is halted.
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
        },
        "result_backend": None,
        "task_ignore_result": True,
        "accept_content": ["json"],
        "task_serializer": "json",
        # A queue of our own, so that the broker can be shared with another app.
        "task_default_queue": QUEUE,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # A drain does not need the broker, so it can finish while Redis restarts.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_prefetch_multiplier": 1,
        "task_soft_time_limit": int(longest),
        "task_time_limit": int(longest * 2),
        "worker_hijack_root_logger": False,
        "timezone": "UTC",
        # The schedule stays in memory: a missed ring does not matter, the next one follows.
        "beat_scheduler": "mirror.sync.broker:Scheduler",
        "beat_schedule": beat_schedule(settings),
    }


app = create_app()
