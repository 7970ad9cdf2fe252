"""Celery app: the tasks that keep the target up to date, and when beat starts them.

The broker is Redis, the queue is `mirror`, and messages have no content. If a task crashes, no
event is lost: the transaction that claimed its events rolls back, and beat starts a task again.
"""

import logging
import mmap
import ssl
from collections.abc import Callable
from typing import Any

import structlog
from celery import Celery, signals

from mirror.capture.doorbell import QUEUE, TASK
from mirror.errors import MirrorError
from mirror.settings import Settings, load_settings, unknown_variables
from mirror.settings.logs import configure_logging
from mirror.sync.schedule import (
    EXPIRES,
    FROM_BEAT,
    MADE_UP,
    PURGE_TASK,
    RECONCILE_TASK,
    beat_schedule,
)
from mirror.sync.wiring import build_drain, check_fresh_seconds
from mirror.worker.chores import Worker

# Longer than a reconcile of a large target takes; ends one that hangs.
_RECONCILE_SECONDS = 6 * 3600

log = structlog.stdlib.get_logger(__name__)


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
    # One byte that the processes of a pool share. Celery lets their tasks run to their end, which
    # would take `drain_seconds`; a platform may not wait as long.
    stopping = mmap.mmap(-1, 1)
    worker = Worker(load, stopping=lambda: stopping[0] == 1)
    app.add_defaults(lambda: _celery_settings(worker.settings))

    _add_tasks(app, worker)

    def setup_logging(**_: Any) -> None:
        configure_logging(style=worker.settings.log_format, level=worker.settings.log_level)
        # These log two lines for each task, where our own record `drained` says the same, and one
        # for each message of beat that has expired, which is meant to happen.
        for name in (
            "celery.worker.strategy",
            "celery.worker.request",
            "celery.app.trace",
            "celery.beat",
        ):
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

    def stop(**_: Any) -> None:
        stopping[0] = 1

    signals.setup_logging.connect(setup_logging, weak=False)
    signals.worker_shutting_down.connect(stop, weak=False)
    signals.worker_init.connect(lambda **_: check(drains=True), weak=False)
    # Events may wait already; and if a database is not migrated, the worker says so now.
    signals.worker_ready.connect(lambda **_: worker.bell.ring(), weak=False)
    signals.beat_init.connect(lambda **_: check(drains=False), weak=False)
    return app


def _add_tasks(app: Celery, worker: Worker) -> None:
    # Not shared: by default, every other app of the process gets these tasks, too.
    @app.task(name=TASK, bind=True, shared=False)  # type: ignore[untyped-decorator]
    def drain(task: Any) -> None:
        from_beat = bool(task.request.get(FROM_BEAT))
        worker.run_drains(from_beat=from_beat)
        if from_beat:
            for name in worker.missed_tasks():
                log.info("turn made up", task=name)
                app.send_task(name, headers={MADE_UP: True}, expires=EXPIRES)

    def needless(task: Any) -> bool:
        """Return whether another message has made the missed turn up already."""
        return bool(task.request.get(MADE_UP)) and task.name not in worker.missed_tasks()

    @app.task(name=PURGE_TASK, bind=True, shared=False)  # type: ignore[untyped-decorator]
    def purge(task: Any) -> None:
        if not needless(task):
            worker.run_purge()

    # Acknowledged at the start: Redis delivers a message a second time if it is not acknowledged
    # for long, and a reconcile may take long.
    @app.task(  # type: ignore[untyped-decorator]
        name=RECONCILE_TASK,
        bind=True,
        shared=False,
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
