"""Worker: the Celery app that drains.

In your own repository, with your own mappings module named by MIRROR_MAPPINGS::

    celery -A mirror.worker worker
    celery -A mirror.worker beat

The broker is Redis, the queue is `mirror`, messages carry nothing. A task that dies takes
nothing along: its claim rolls back, and beat rings again.
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

import redis
import structlog
from celery import Celery, signals

from mirror.capture.doorbell import QUEUE, TASK, Doorbell, DoorbellSettings, acknowledge_ring
from mirror.errors import Halted, MirrorError, NotMigrated, Transient
from mirror.reconcile import AlreadyRunning, Options, run_reconcile, sweep
from mirror.settings import Settings, load_settings
from mirror.settings.logs import configure_logging
from mirror.sync.drain import Drain
from mirror.sync.heartbeats import Heartbeat
from mirror.sync.schedule import PURGE_TASK, RECONCILE_TASK, SWEPT, beat_schedule
from mirror.sync.wiring import build_drain, build_target

# A reconcile of a large target takes as long as it takes; this bounds one that hangs.
_RECONCILE_SECONDS = 6 * 3600

log = structlog.stdlib.get_logger(__name__)


class Worker:
    """What one worker process holds on to between tasks; made after the fork, when first used."""

    def __init__(self, load: Callable[[], Settings]) -> None:
        self._load = load
        self._own = threading.local()
        self._swept = Heartbeat("sweep")

    @cached_property
    def settings(self) -> Settings:
        """The settings, read once per process."""
        # The mappings module lies in the user's repository, which is where workers start.
        if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds strings
            sys.path.insert(0, os.getcwd())  # noqa: PTH109 - likewise
        return self._load()

    @property
    def drain(self) -> Drain:
        """This thread's drain with its connections, which stay open between tasks.

        Two tasks must never share a claim's connection: one's commit would end the other's claim.
        """
        if not hasattr(self._own, "drain"):
            self._own.drain = build_drain(self.settings)
        drain: Drain = self._own.drain
        return drain

    @cached_property
    def doorbell(self) -> Doorbell:
        """For calling other workers to a backlog."""
        return Doorbell(DoorbellSettings(redis_url=self.settings.need("redis_url"), mode="inline"))

    @cached_property
    def redis(self) -> redis.Redis:
        """The broker's Redis, for the doorbell's key."""
        return redis.Redis.from_url(
            self.settings.need("redis_url"), socket_timeout=5, socket_connect_timeout=5
        )

    def run_drain(self, *, swept: bool = False) -> None:
        """Drain until nothing is left; ask for help, or for a successor, when there is much.

        `swept`: it was beat that rang.
        """
        try:
            acknowledge_ring(self.redis)
        except redis.RedisError as error:
            # Rings stay silent for a few seconds then; this drain and beat see to the events.
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
            # Without its trace, which could hold more than the message tells.
            log.error("events wait", reason=str(error))  # noqa: TRY400
        else:
            if done.full:
                self.doorbell.ring()
            self._sweep()
        if swept:
            with suppress(Transient):
                self._swept.beat(self.drain.queue.claims)

    def _sweep(self) -> None:
        """Remove what has expired, unless this thread has looked lately."""
        now = time.monotonic()
        if now < getattr(self._own, "sweep_after", now):
            return
        self._own.sweep_after = now + self.settings.sweep_seconds
        try:
            swept = sweep(self.drain)
        except MirrorError as error:
            log.warning("expired rows wait for the next sweep", reason=str(error))
        else:
            if swept:
                log.info("swept", expired=swept)

    def run_purge(self) -> None:
        """Forget old tombstones in the target."""
        target = build_target(self.settings)
        try:
            log.info("purged", tombstones=target.purge(self.settings.tombstone_days))
        except MirrorError as error:
            log.warning("purge waits for its next turn", reason=str(error))
        finally:
            target.close()

    def run_reconcile(self) -> None:
        """Compare the two sides and repair what differs."""
        drain = build_drain(self.settings)
        try:
            report = run_reconcile(drain, self.settings, Options(), started_by="beat")
        except AlreadyRunning as busy:
            log.info("reconcile left to another", reason=str(busy))
        except MirrorError as error:
            log.error("reconcile ended early", reason=str(error))  # noqa: TRY400 - no trace wanted
        else:
            tell = log.info if report.exit_code == 0 else log.error
            tell("reconciled", **report.as_json(keys=False))
        finally:
            drain.close()


class _App(Celery):  # type: ignore[misc]
    """A Celery app that keeps to its own broker.

    CELERY_BROKER_URL, which the backend's own app may need, would come before any setting.
    """

    def connection_for_read(self, url: str | None = None, **options: Any) -> Any:
        """Connect to consume."""
        return super().connection_for_read(url or self.conf.first("broker_url"), **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> Any:
        """Connect to produce."""
        return super().connection_for_write(url or self.conf.first("broker_url"), **options)


def create_app(load: Callable[[], Settings] = load_settings) -> Celery:
    """Return a Celery app; the settings are loaded when Celery first asks for its own."""
    app = _App("mirror")
    worker = Worker(load)
    app.add_defaults(lambda: _celery_settings(worker.settings))

    @app.task(name=TASK, bind=True)  # type: ignore[untyped-decorator]
    def drain(task: Any) -> None:
        worker.run_drain(swept=bool(task.request.get(SWEPT)))

    @app.task(name=PURGE_TASK)  # type: ignore[untyped-decorator]
    def purge() -> None:
        worker.run_purge()

    # Acknowledged at once: Redis would hand a message that is held for so long to another worker.
    @app.task(  # type: ignore[untyped-decorator]
        name=RECONCILE_TASK,
        acks_late=False,
        soft_time_limit=_RECONCILE_SECONDS,
        time_limit=_RECONCILE_SECONDS + 60,
    )
    def reconcile() -> None:
        worker.run_reconcile()

    def setup_logging(**_: Any) -> None:
        configure_logging(style=worker.settings.log_format, level=worker.settings.log_level)
        # Two lines for every ring, which say nothing that `drained` does not.
        for chatty in ("celery.worker.strategy", "celery.app.trace", "celery.beat"):
            logging.getLogger(chatty).setLevel(logging.WARNING)

    def check(*, drains: bool) -> None:
        try:
            setup_logging()
            worker.settings.need("redis_url")
            if drains:
                build_drain(worker.settings)
        except MirrorError as error:
            log.error("cannot start", reason=str(error))  # noqa: TRY400 - no trace wanted
            # Celery logs a handler's exceptions and goes on; SystemExit it lets through.
            raise SystemExit(error.exit_code) from error

    signals.setup_logging.connect(setup_logging, weak=False)
    signals.worker_init.connect(lambda **_: check(drains=True), weak=False)
    signals.beat_init.connect(lambda **_: check(drains=False), weak=False)
    return app


def _celery_settings(settings: Settings) -> dict[str, Any]:
    longest = settings.drain_seconds + 60
    url = settings.redis_url and settings.need("redis_url")
    tls = bool(url and url.startswith("rediss:"))
    return {
        # Left out if not set: `check` says so better than Celery would.
        "broker_url": url,
        # Celery's default trusts any certificate; what the URL says comes first.
        "broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_REQUIRED} if tls else None,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # A message is worth no more than the next ring: redeliver what a lost worker held.
        "broker_transport_options": {"visibility_timeout": int(longest * 4)},
        "result_backend": None,
        "task_ignore_result": True,
        "accept_content": ["json"],
        "task_serializer": "json",
        # A queue of our own: a broker shared with another app must not mix the two.
        "task_default_queue": QUEUE,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # A drain in progress needs no broker; let it finish while Redis restarts.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_prefetch_multiplier": 1,
        "task_soft_time_limit": int(longest),
        "task_time_limit": int(longest * 2),
        "worker_hijack_root_logger": False,
        "timezone": "UTC",
        # In memory: the schedule needs no file, because a missed ring is made up by the next.
        "beat_scheduler": "celery.beat:Scheduler",
        "beat_schedule": beat_schedule(settings),
    }


app = create_app()
