"""Doorbell: wakes a drain after a commit, off the request path.

A ring is a Celery message that carries nothing. Rings coalesce: whoever sets a key in Redis
publishes, everybody else relies on that message; the drain deletes the key before it claims,
so that a change committed after the claim always rings again. A ring that fails is dropped:
the events are in the outbox, and beat rings anyway.
"""

import atexit
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import redis
import structlog

from mirror.errors import ConfigError

log = structlog.stdlib.get_logger(__name__)

TASK: Final = "mirror.drain"
QUEUE: Final = "mirror"
KEY: Final = "mirror:doorbell"

Mode = Literal["thread", "inline", "off"]


@dataclass(frozen=True)
class DoorbellSettings:
    """The few settings that a backend needs. Read with `from_environment`, once."""

    redis_url: str | None = None
    """REDIS_URL; None: nobody is rung, beat alone wakes the drain."""
    mode: Mode = "thread"
    """MIRROR_DOORBELL. `thread`: from a background thread. `inline`: in the committing thread,
    for at most `seconds`. `off`: never."""
    seconds: float = 1.0
    """MIRROR_DOORBELL_SECONDS: bound on connecting to Redis and on each answer."""
    quiet_seconds: float = 10.0
    """MIRROR_DOORBELL_QUIET_SECONDS: how long an unanswered ring silences others, in case its
    message was lost."""

    @classmethod
    def from_environment(cls) -> "DoorbellSettings":
        """Read the settings.

        Raises:
            ConfigError: names the variable that is malformed.
        """
        mode = os.environ.get("MIRROR_DOORBELL", "thread")
        if mode not in {"thread", "inline", "off"}:
            raise ConfigError("MIRROR_DOORBELL: expected thread, inline or off.")
        return cls(
            redis_url=os.environ.get("REDIS_URL") or None,
            mode=cast("Mode", mode),
            seconds=_seconds("MIRROR_DOORBELL_SECONDS", cls.seconds),
            quiet_seconds=_seconds("MIRROR_DOORBELL_QUIET_SECONDS", cls.quiet_seconds),
        )


class Doorbell:
    """Rings for one process. Safe to share between threads, and to use after a fork."""

    def __init__(self, settings: DoorbellSettings) -> None:
        self.settings = settings
        self._ringer: _Ringer | None = None
        self._lock = threading.Lock()

    def ring(self, after: Callable[[], bool] | None = None) -> None:
        """Wake a drain, soon; never raises and, but for mode `inline`, never waits.

        `after`, if given, is asked until it returns True: the commit that the ring is for may
        still be on its way.
        """
        if self.settings.mode == "off" or self.settings.redis_url is None:
            return
        ringer = self._current()
        if self.settings.mode == "inline" and after is None:
            ringer.publish()
        else:
            ringer.request(after)

    def flush(self, seconds: float = 1.0) -> bool:
        """Wait until no ring is outstanding; return whether that was so in time."""
        return self._ringer is None or self._ringer.idle.wait(seconds)

    def _current(self) -> "_Ringer":
        """Return this process's ringer: threads and sockets do not survive a fork."""
        ringer = self._ringer
        if ringer is None or ringer.pid != os.getpid():
            # A lock taken in the parent at the moment of the fork stays taken in the child.
            if ringer is not None:
                self._lock = threading.Lock()
            with self._lock:
                if self._ringer is None or self._ringer.pid != os.getpid():
                    self._ringer = _Ringer(self.settings)
                ringer = self._ringer
        return ringer


class _Ringer:
    """The thread and the connections behind a doorbell."""

    # A commit that takes longer than this is left to beat.
    _PATIENCE = 5.0

    def __init__(self, settings: DoorbellSettings) -> None:
        self.pid = os.getpid()
        self.idle = threading.Event()
        self.idle.set()
        self._settings = settings
        self._wanted = threading.Event()
        self._pending: list[Callable[[], bool]] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._redis: redis.Redis | None = None
        self._app: Any = None
        self._complained = 0.0

    def request(self, after: Callable[[], bool] | None) -> None:
        """Ask the thread for a ring."""
        with self._lock:
            # One flag is enough however many ask; commits under way are few, and bounded.
            if after is not None and len(self._pending) < 1000:  # noqa: PLR2004 - a bound
                self._pending.append(after)
            self.idle.clear()
            self._wanted.set()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="mirror-doorbell", daemon=True
                )
                self._thread.start()
                atexit.register(self._flush)

    def _flush(self) -> None:
        if self.pid == os.getpid():
            self.idle.wait(self._settings.seconds)

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            with self._lock:
                commits, self._pending = self._pending, []
            self._await(commits)
            self.publish()
            with self._lock:
                if not self._wanted.is_set():
                    self.idle.set()

    def _await(self, commits: list[Callable[[], bool]]) -> None:
        end = time.monotonic() + self._PATIENCE
        while commits and time.monotonic() < end:
            commits = [committed for committed in commits if not committed()]
            if commits:
                time.sleep(0.001)

    def publish(self) -> None:
        """Set the key and publish the message, unless a message is on its way already."""
        try:
            client = self._client()
            quiet = int(self._settings.quiet_seconds * 1000)
            if client.set(KEY, "1", nx=True, px=quiet):
                try:
                    self._celery().send_task(TASK, queue=QUEUE, retry=False, ignore_result=True)
                except Exception:
                    client.delete(KEY)
                    raise
        except Exception as error:  # noqa: BLE001 - a doorbell may fail in any way but loudly
            self._complain(error)

    def _client(self) -> redis.Redis:
        if self._redis is None:
            self._redis = redis.Redis.from_url(
                str(self._settings.redis_url),
                socket_timeout=self._settings.seconds,
                socket_connect_timeout=self._settings.seconds,
            )
        return self._redis

    def _celery(self) -> Any:
        if self._app is None:
            # Late: importing Celery costs a backend that never rings nothing.
            from celery import Celery  # noqa: PLC0415

            # set_as_current=False: the backend's own Celery app stays the current one.
            app = Celery("mirror-doorbell", broker=self._settings.redis_url, set_as_current=False)
            app.conf.update(
                task_serializer="json",
                broker_connection_retry=False,
                broker_connection_timeout=self._settings.seconds,
                broker_transport_options={
                    "socket_timeout": self._settings.seconds,
                    "socket_connect_timeout": self._settings.seconds,
                },
            )
            self._app = app
        return self._app

    def _complain(self, error: Exception) -> None:
        """Say so once a minute: the mirror is late now, but nothing is lost."""
        now = time.monotonic()
        if not self._complained or now - self._complained > 60:  # noqa: PLR2004 - seconds
            self._complained = now
            log.warning("doorbell dropped", reason=type(error).__name__)


def answered(client: redis.Redis) -> None:
    """Tell writers that their ring was heard, so that the next change rings again."""
    client.delete(KEY)


def _seconds(variable: str, default: float) -> float:
    text = os.environ.get(variable)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:  # noqa: PLR2004 - an hour
        raise ConfigError(f"{variable}: expected seconds, more than 0 and at most 3600.")
    return value
