"""Doorbell: wakes a drain after a commit, off the request path.

A ring is a Celery message that carries nothing. Rings coalesce: whoever sets a key in Redis
publishes, everybody else relies on that message; the drain deletes the key before it claims,
so that a change committed after the claim always rings again. A ring that fails is dropped:
the events are in the outbox, and beat rings anyway.
"""

import atexit
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from mirror.errors import ConfigError
from mirror.errors.redaction import redact

# Not structlog's: this runs in the backend, whose logging is its own.
log = logging.getLogger(__name__)

TASK: Final = "mirror.drain"
QUEUE: Final = "mirror"
KEY: Final = "mirror:doorbell"

Mode = Literal["thread", "inline", "off"]
Committed = Callable[[], bool]


@dataclass(frozen=True)
class DoorbellSettings:
    """The few settings that a backend needs. Read with `from_environment`, once."""

    redis_url: str | None = field(default=None, repr=False)
    """REDIS_URL; None: nobody is rung, beat alone wakes the drain."""
    mode: Mode = "thread"
    """MIRROR_DOORBELL. `thread`: from a background thread. `inline`: in the committing thread,
    for as long as `seconds` allows. `off`: never."""
    seconds: float = 1.0
    """MIRROR_DOORBELL_SECONDS: bound on connecting to Redis and on each answer."""
    quiet_seconds: float = 10.0
    """MIRROR_DOORBELL_QUIET_SECONDS: how long an unanswered ring silences others, in case its
    message was lost."""

    @classmethod
    def from_environment(cls) -> "DoorbellSettings":
        """Read the settings.

        Raises:
            ConfigError: names the variable that is malformed, never its value.
        """
        mode = os.environ.get("MIRROR_DOORBELL") or "thread"
        if mode not in {"thread", "inline", "off"}:
            raise ConfigError("MIRROR_DOORBELL: expected thread, inline or off.")
        url = os.environ.get("REDIS_URL") or None
        if url is not None and mode != "off" and not is_redis_url(url):
            raise ConfigError(
                "REDIS_URL: expected redis://host:port/number or rediss://…; unset it, or set "
                "MIRROR_DOORBELL=off, to leave waking the drain to beat."
            )
        return cls(
            redis_url=url,
            mode=cast("Mode", mode),
            seconds=_seconds("MIRROR_DOORBELL_SECONDS", cls.seconds),
            quiet_seconds=_seconds("MIRROR_DOORBELL_QUIET_SECONDS", cls.quiet_seconds),
        )


def is_redis_url(text: str) -> bool:
    """Return whether both redis-py and Celery can use `text` as a server's address."""
    try:
        parts = urlsplit(text)
        return parts.scheme in {"redis", "rediss"} and bool(parts.netloc) and parts.port != 0
    except ValueError:
        return False


class Doorbell:
    """Rings for one process. Safe to share between threads, and to use after a fork."""

    def __init__(self, settings: DoorbellSettings) -> None:
        self.settings = settings
        # By process: neither threads nor locks nor sockets survive a fork.
        self._ringers: dict[int, _Ringer] = {}

    def ring(self, after: Committed | None = None) -> None:
        """Wake a drain, soon; never raises and, but for mode `inline`, never waits.

        `after`, if given, is asked until it returns True: the commit that the ring is for may
        still be on its way.
        """
        if self.settings.mode == "off" or self.settings.redis_url is None:
            return
        ringer = self._ringers.get(os.getpid())
        if ringer is None:
            # Atomic, so that threads which come here at once share one ringer.
            ringer = self._ringers.setdefault(os.getpid(), _Ringer(self.settings))
        if self.settings.mode == "inline" and after is None:
            ringer.publish()
        else:
            ringer.request(after)

    def flush(self, seconds: float = 1.0) -> bool:
        """Wait until no ring is outstanding; return whether that was so in time."""
        ringer = self._ringers.get(os.getpid())
        return ringer is None or ringer.idle.wait(seconds)


class _Ringer:
    """The thread and the connections behind a doorbell, in one process."""

    # A commit that takes longer than this is left to beat.
    _PATIENCE = 60.0
    # Between two rings: whoever commits hundreds of times a second rings once for some of them.
    _PAUSE = 0.003
    # What an exiting process allows besides the wait for Redis: loading Celery takes a while.
    _LOADING = 4.0

    def __init__(self, settings: DoorbellSettings) -> None:
        self.idle = threading.Event()
        self.idle.set()
        self._pid = os.getpid()
        self._settings = settings
        # Guards the three that follow, and wakes the thread.
        self._bell = threading.Condition()
        self._wanted = False
        self._under_way: list[tuple[float, Committed]] = []
        self._thread: threading.Thread | None = None
        # Guards the connections.
        self._publishing = threading.Lock()
        self._redis: redis.Redis | None = None
        self._app: Any = None
        self._broker: Any = None
        self._owed = False
        self._complained: float | None = None

    def request(self, after: Committed | None) -> None:
        """Ask the thread for a ring."""
        with self._bell:
            try:
                self._start()
            except RuntimeError as error:  # No thread can start: too many, or at exit.
                self._complain(error)
                return
            # One flag is enough however many ask; commits under way are few, and bounded.
            if after is None or len(self._under_way) >= 1000:  # noqa: PLR2004 - a bound
                self._wanted = True
            else:
                self._under_way.append((time.monotonic() + self._PATIENCE, after))
            self.idle.clear()
            self._bell.notify()

    def publish(self) -> None:
        """Set the key and publish the message, unless a message is on its way already."""
        with self._publishing:
            try:
                if self._redis is not None:
                    # Connections that have sat idle may be dead; new ones tell.
                    with suppress(Exception):
                        self._publish()
                        return
                    self._disconnect()
                self._publish()
            except Exception as error:  # noqa: BLE001 - may fail in any way but loudly
                self._disconnect()
                self._complain(error)

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="mirror-doorbell", daemon=True)
            thread.start()
            self._thread = thread
            atexit.register(self._flush)

    def _flush(self) -> None:
        if self._pid == os.getpid():
            self.idle.wait(self._settings.seconds + self._LOADING)

    def _run(self) -> None:
        while True:
            self._await()
            self.publish()
            time.sleep(self._PAUSE)

    def _await(self) -> None:
        """Return when somebody is to be rung for."""
        with self._bell:
            while True:
                now = time.monotonic()
                under_way = []
                for timeout_factor, committed in self._under_way:
                    if committed():
                        self._wanted = True
                    elif now < timeout_factor:
                        under_way.append((timeout_factor, committed))
                self._under_way = under_way
                if self._wanted:
                    self._wanted = False
                    return
                if not under_way:
                    self.idle.set()
                # Nothing tells of a commit's end: ask often at first, then less.
                youngest = max((timeout_factor for timeout_factor, _ in under_way), default=now)
                waited = self._PATIENCE - (youngest - now)
                self._bell.wait(min(0.05, 0.001 + waited / 10) if under_way else None)

    def _publish(self) -> None:
        if self._redis is None:
            self._redis = redis.Redis.from_url(
                str(self._settings.redis_url),
                socket_timeout=self._settings.seconds,
                socket_connect_timeout=self._settings.seconds,
                # Its default tries for seconds on end.
                retry=Retry(NoBackoff(), 0),
            )
        # While the outcome of a SET is unknown, nobody else may have published for it.
        owed, self._owed = self._owed, True
        quiet = int(self._settings.quiet_seconds * 1000)
        if self._redis.set(KEY, "1", nx=True, px=quiet) or owed:
            try:
                self._send()
            except Exception:
                self._redis.delete(KEY)
                raise
        self._owed = False

    def _send(self) -> None:
        # Late: importing Celery costs a backend that never rings nothing.
        from celery import Celery  # noqa: PLC0415

        url = str(self._settings.redis_url)
        if self._app is None:
            # Without set_as_current the backend's own Celery app stays the current one.
            self._app = Celery("mirror-doorbell", set_as_current=False, fixups=[])
            self._app.conf.update(
                task_serializer="json",
                broker_connection_timeout=self._settings.seconds,
                broker_transport_options={
                    "socket_timeout": self._settings.seconds,
                    "socket_connect_timeout": self._settings.seconds,
                    # Its default tries for ever.
                    "max_retries": 1,
                    "interval_start": 0,
                },
            )
            if url.startswith("rediss:"):
                # Celery's default trusts any certificate; what the URL says comes first.
                self._app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
        if self._broker is None:
            # Named here, because CELERY_BROKER_URL, the backend's own, would override the app's.
            self._broker = self._app.connection_for_write(url)
        self._app.send_task(
            TASK, queue=QUEUE, connection=self._broker, retry=False, ignore_result=True
        )

    def _disconnect(self) -> None:
        broken, self._redis = self._redis, None
        broker, self._broker = self._broker, None
        with suppress(Exception):
            if broken is not None:
                broken.close()
        with suppress(Exception):
            if broker is not None:
                broker.release()

    def _complain(self, error: Exception) -> None:
        """Say so once a minute: the mirror is late now, but nothing is lost."""
        now = time.monotonic()
        if self._complained is None or now - self._complained > 60:  # noqa: PLR2004 - seconds
            self._complained = now
            reason = redact(f"{type(error).__name__}: {error}")
            log.warning("doorbell dropped, beat will wake the drain (%s)", reason)


def answered(client: redis.Redis) -> None:
    """Tell writers that their ring was heard, so that the next change rings again."""
    client.delete(KEY)


def _seconds(variable: str, default: float) -> float:
    text = os.environ.get(variable)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:  # noqa: PLR2004 - an hour
        raise ConfigError(f"{variable}: expected seconds, more than 0 and at most 3600.")
    return value
