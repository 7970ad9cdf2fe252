"""Doorbell: wakes a drain after a commit, off the request path.

To ring means to publish a Celery message without content, or to wake a worker that holds the
doorbell (`mirror.worker.holder`), without Celery. A key in Redis keeps the messages few: the
process that sets the key publishes a message, and while the key exists, all others rely on that
message. Redis does both at once, so a process that dies silences no other. The worker deletes the
key before it claims events, so a change that commits after the claim always publishes another. A
ring that fails is dropped: the events are in the outbox, and beat wakes a worker regularly.

A process that ends waits a moment for its rings, however it ends: as a script, as a child of
`multiprocessing` or of a Celery worker. Only `os._exit` and signals that kill lose them; call
`flush` before.
"""

import atexit
import base64
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal, cast
from urllib.parse import urlsplit
from uuid import uuid4
from weakref import WeakSet

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from mirror.errors import ConfigError
from mirror.errors.redaction import one_line

# The standard library's logger: this runs in the backend, which configures logging itself.
log = logging.getLogger(__name__)

TASK: Final = "mirror.drain"
QUEUE: Final = "mirror"
KEY: Final = "mirror:doorbell"
HOLDER: Final = "mirror:waiting"
"""The key that exists while a worker holds the doorbell."""
WOKEN: Final = "mirror:woken"
"""The list with the ring for this worker."""

# The message first: if Redis refuses it, the key must not be set. If no worker holds, a ring in the
# list is that of a holder that died; then the message is for both.
_RING: Final = """
    local held = redis.call('exists', KEYS[3]) == 1
    local left = not held and redis.call('exists', KEYS[4]) == 1
    if redis.call('exists', KEYS[1]) == 1 and not left then return 0 end
    if held then
      redis.call('lpush', KEYS[4], '1')
      redis.call('ltrim', KEYS[4], 0, 0)
    else
      redis.call('lpush', KEYS[2], ARGV[1])
      redis.call('del', KEYS[4])
    end
    redis.call('set', KEYS[1], '1', 'px', ARGV[2])
    return 1
"""

Mode = Literal["thread", "inline", "off"]
Committed = Callable[[], bool]


@dataclass(frozen=True)
class DoorbellSettings:
    """The few settings that a backend needs. Read with `from_environment`, once."""

    redis_url: str | None = field(default=None, repr=False)
    """REDIS_URL; None: never ring, beat alone wakes the drain."""
    mode: Mode = "thread"
    """MIRROR_DOORBELL. `thread`: ring from a background thread. `inline`: ring in the committing
    thread, within `seconds`. `off`: never ring."""
    seconds: float = 1.0
    """MIRROR_DOORBELL_SECONDS: timeout of connecting to Redis and of each answer."""
    quiet_seconds: float = 10.0
    """MIRROR_DOORBELL_QUIET_SECONDS: how long a ring that no worker has acknowledged suppresses
    others; then its message counts as lost."""

    @classmethod
    def from_environment(cls) -> "DoorbellSettings":
        """Read the settings.

        Raises:
            ConfigError: a variable is malformed; names it, never its value.
        """
        mode = os.environ.get("MIRROR_DOORBELL", "").strip() or "thread"
        if mode not in {"thread", "inline", "off"}:
            raise ConfigError("MIRROR_DOORBELL: expected thread, inline or off.")
        url = os.environ.get("REDIS_URL", "").strip() or None
        if url is not None and mode != "off" and not is_redis_url(url):
            raise ConfigError(
                "REDIS_URL: expected redis://host:port/number or rediss://…; unset it, or set "
                "MIRROR_DOORBELL=off, if beat alone should wake the drain."
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
        # An @ behind the host ends a password that has a character with a meaning, such as a slash.
        return (
            text.startswith(("redis://", "rediss://"))
            and bool(parts.netloc)
            and parts.port != 0
            and "@" not in parts.path + parts.query + parts.fragment
        )
    except ValueError:
        return False


class Doorbell:
    """Wakes workers after a process's commits. Threads may share it, and it works after a fork."""

    def __init__(self, settings: DoorbellSettings) -> None:
        self.settings = settings
        # One for each process id, because threads, locks and sockets do not survive a fork.
        self._ringers: dict[int, _Ringer] = {}

    def ring(self, after: Committed | None = None) -> None:
        """Wake a drain soon. Never raises; never waits, except in mode `inline`.

        `after` returns whether the commit has ended; the message is published once it returns True.
        None: the commit has ended.
        """
        if self.settings.mode == "off" or self.settings.redis_url is None:
            return
        ringer = self._ringers.get(os.getpid())
        if ringer is None:
            # setdefault is atomic, so concurrent threads share one ringer.
            ringer = self._ringers.setdefault(os.getpid(), _Ringer(self.settings))
        if self.settings.mode == "inline" and after is None:
            ringer.publish()
        else:
            ringer.request(after)

    def flush(self, seconds: float = 1.0) -> bool:
        """Wait until no message is left to publish; return whether that took at most `seconds`."""
        ringer = self._ringers.get(os.getpid())
        return ringer is None or ringer.idle.wait(seconds)


class _Ringer:
    """The thread and the connection behind a doorbell, in one process."""

    # For a commit that takes longer, beat wakes the drain.
    _MAX_COMMIT_SECONDS = 60.0
    # Pause between two rings: one ring then serves several of hundreds of commits in a second.
    _MIN_INTERVAL = 0.003
    # At exit, the process waits this long in addition, for a new connection.
    _EXIT_SECONDS = 2.0

    def __init__(self, settings: DoorbellSettings) -> None:
        self.idle = threading.Event()
        self.idle.set()
        self._pid = os.getpid()
        self._settings = settings
        # Protects the next three attributes, and wakes the thread.
        self._condition = threading.Condition()
        self._requested = False
        self._commits: list[tuple[float, Committed]] = []
        self._thread: threading.Thread | None = None
        # Protects the attributes below.
        self._publishing = threading.Lock()
        self._redis: redis.Redis | None = None
        self._warned_at: float | None = None
        _ringers.add(self)
        _finish_in_children()

    def request(self, after: Committed | None) -> None:
        """Have the thread publish a message: soon, or once `after` returns True."""
        with self._condition:
            # No thread can start if there are too many, or the process exits. Then the next request
            # starts it, or the end of the process publishes the message.
            with suppress(RuntimeError):
                self._start()
            # One flag serves any number of requests; commits in progress are few, and bounded.
            if after is None or len(self._commits) >= 1000:  # noqa: PLR2004 - a bound
                self._requested = True
            else:
                self._commits.append((time.monotonic() + self._MAX_COMMIT_SECONDS, after))
            self.idle.clear()
            self._condition.notify()

    def publish(self) -> None:
        """Set the key and publish the message; do nothing if the key exists. Never raises."""
        with self._publishing:
            try:
                if self._redis is not None:
                    # An idle connection may be dead; if so, try once more with new ones.
                    with suppress(Exception):
                        self._publish()
                        return
                    self._disconnect()
                self._publish()
            except Exception as error:  # noqa: BLE001 - no failure may reach the backend
                self._disconnect()
                self._warn(error)

    def finish(self) -> None:
        """At the end of the process: publish what is left, within a limited time."""
        if self._pid != os.getpid():
            return
        if self._thread is None:
            with self._condition:
                self._collect()
                requested, self._requested = self._requested, False
            if requested:
                self.publish()
        else:
            self.idle.wait(self._settings.seconds + self._EXIT_SECONDS)

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="mirror-doorbell", daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while True:
            self._wait_for_request()
            self.publish()
            time.sleep(self._MIN_INTERVAL)

    def _wait_for_request(self) -> None:
        """Block until a message has to be published: a request came, or a commit has ended."""
        with self._condition:
            while True:
                now = time.monotonic()
                commits = self._collect()
                if self._requested:
                    self._requested = False
                    return
                if not commits:
                    self.idle.set()
                # A commit's end causes no notification, so poll: often at first, then less.
                youngest = max((deadline for deadline, _ in commits), default=now)
                waited = self._MAX_COMMIT_SECONDS - (youngest - now)
                self._condition.wait(min(0.05, 0.001 + waited / 10) if commits else None)

    def _collect(self) -> list[tuple[float, Committed]]:
        """Request a message if a commit has ended; return the commits that have not."""
        now = time.monotonic()
        commits = []
        for deadline, committed in self._commits:
            if committed():
                self._requested = True
            elif now < deadline:
                commits.append((deadline, committed))
        self._commits = commits
        return commits

    def _publish(self) -> None:
        if self._redis is None:
            self._redis = redis.Redis.from_url(
                str(self._settings.redis_url),
                socket_timeout=self._settings.seconds,
                socket_connect_timeout=self._settings.seconds,
                # By default, redis-py retries for seconds.
                retry=Retry(NoBackoff(), 0),
            )
        quiet = int(self._settings.quiet_seconds * 1000)
        self._redis.eval(_RING, 4, KEY, QUEUE, HOLDER, WOKEN, message(), quiet)

    def _disconnect(self) -> None:
        broken, self._redis = self._redis, None
        with suppress(Exception):
            if broken is not None:
                broken.close()

    def _warn(self, error: Exception) -> None:
        """Log a failure at most once a minute: the mirror is late, but nothing is lost."""
        now = time.monotonic()
        if self._warned_at is None or now - self._warned_at > 60:  # noqa: PLR2004 - seconds
            self._warned_at = now
            reason = one_line(f"{type(error).__name__}: {error}")
            log.warning("doorbell dropped, beat will wake the drain (%s)", reason)


# Those of this process, and copies of its parent's.
_ringers: WeakSet[_Ringer] = WeakSet()
_prepared_pids: set[int] = set()


def _finish(**_: object) -> None:
    """Finish the ringers of this process."""
    for ringer in list(_ringers):
        ringer.finish()


def _finish_in_children() -> None:
    """Call `_finish` where this process ends without the functions of `atexit`."""
    if os.getpid() in _prepared_pids:
        return
    _prepared_pids.add(os.getpid())
    # Children of these two end with `os._exit`. The parent's finalizers are not theirs.
    for name in ("multiprocessing.util", "billiard.util"):
        if (util := sys.modules.get(name)) is not None:
            util.Finalize(None, _finish, exitpriority=10)
    # A process of a Celery worker runs no finalizers either.
    if (signals := sys.modules.get("celery.signals")) is not None:
        signals.worker_process_shutdown.connect(_finish, weak=False)


# Now: functions that are registered later, such as one that commits, run earlier.
atexit.register(_finish)


def message() -> str:
    """Return a message for QUEUE: of Celery's protocol 2, as kombu stores it in a list of Redis."""
    task_id = str(uuid4())
    body = json.dumps([[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    return json.dumps(
        {
            "body": base64.b64encode(body.encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {
                "lang": "py",
                "task": TASK,
                "id": task_id,
                "root_id": task_id,
                "parent_id": None,
                "group": None,
                "argsrepr": "()",
                "kwargsrepr": "{}",
                "ignore_result": True,
            },
            "properties": {
                "correlation_id": task_id,
                "reply_to": task_id,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": QUEUE},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid4()),
            },
        }
    )


def acknowledge_ring(client: redis.Redis) -> None:
    """Delete the doorbell's key, so that the next change publishes a message again."""
    client.delete(KEY)


def _seconds(variable: str, default: float) -> float:
    text = os.environ.get(variable, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:  # noqa: PLR2004 - an hour
        raise ConfigError(f"{variable}: expected seconds, more than 0 and at most 3600.")
    return value
