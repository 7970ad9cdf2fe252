"""Holder: a worker that holds the doorbell gets the rings from Redis itself, without Celery.

A thread of a worker begins to hold with a drain, if no other holds, and goes on while it waits for
the next ring: one that comes during a drain ends the wait at once. A key in Redis has the token of
the only holder. It expires, so a process that dies or is stopped does not hold for long.

A holder hands over at the end of its work, when it leaves events for other workers, and when a
batch takes long. Then rings publish messages again, and a ring that has come becomes a message: so
another worker is never idle while a ring waits for a holder that hangs. A worker whose batches take
long anyway holds only while it waits.
"""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

import redis

from mirror.capture.doorbell import HOLDER, KEY, QUEUE, WOKEN, acknowledge_ring, message

# In seconds. A batch of a few events is shorter if the servers are near.
_LONG: Final = 0.03
# The watcher looks so often, so it hands over at most one step after _LONG.
_STEP: Final = 0.02
# A hold expires so long after its last drain began: later than a drain and a wait end that are not
# handed over.
_EXPIRES_MS: Final = 1500

_LEFT: Final = 2
# If no worker holds, a ring in the list is that of a holder that died. A ring that no worker has
# acknowledged, or any message, needs a worker that does not hold.
_BEGIN: Final = f"""
    if redis.call('exists', KEYS[3]) == 1 then return 0 end
    if redis.call('del', KEYS[4]) == 1 then return {_LEFT} end
    if redis.call('exists', KEYS[1]) == 1 or redis.call('llen', KEYS[2]) > 0 then return 0 end
    redis.call('set', KEYS[3], ARGV[1], 'px', ARGV[2])
    return 1
"""
# A ring that is in the list is one for the drain that begins now.
_BEGIN_WITH_DRAIN: Final = """
    redis.call('del', KEYS[1])
    if redis.call('exists', KEYS[3]) == 1 then return 0 end
    redis.call('del', KEYS[4])
    if redis.call('llen', KEYS[2]) > 0 then return 0 end
    redis.call('set', KEYS[3], ARGV[1], 'px', ARGV[2])
    return 1
"""
# Without milliseconds, the hold ends. It also does if there is a message, which needs a worker that
# does not hold. A ring that is in the list then is one for the drain that begins now.
_ACKNOWLEDGE: Final = """
    redis.call('del', KEYS[1])
    if redis.call('get', KEYS[3]) ~= ARGV[1] then return 0 end
    if ARGV[2] == '0' or redis.call('llen', KEYS[2]) > 0 then
      redis.call('del', KEYS[3], KEYS[4])
      return 0
    end
    redis.call('pexpire', KEYS[3], ARGV[2])
    return 1
"""
# If another worker holds, the ring is for that one. The doorbell's key stays, because the message
# takes the place of the ring.
_HAND_OVER: Final = """
    local holder = redis.call('get', KEYS[3])
    if holder and holder ~= ARGV[1] then return 0 end
    redis.call('del', KEYS[3])
    if redis.call('exists', KEYS[4]) == 0 then return 0 end
    redis.call('lpush', KEYS[2], ARGV[2])
    redis.call('del', KEYS[4])
    redis.call('set', KEYS[1], '1', 'px', ARGV[3])
    return 1
"""


@dataclass
class _Hold:
    """A hold as the process knows it; in Redis it may have expired."""

    thread: int
    token: str = field(default_factory=lambda: str(uuid4()))
    busy_since: float | None = None
    """When the batch began, or the last wait ended; None: a wait is in progress."""


class _Last(threading.local):
    """A thread's last batch. If it took long, the next one probably will: servers may be far."""

    began = float("inf")
    long = False
    acknowledged = False
    """Whether the wait before it has acknowledged the ring."""


class Holder:
    """A process whose threads can hold the doorbell, one at a time. Its children need their own.

    `acknowledge`, `wait` and `hand_over` may raise `redis.RedisError`. They are about the hold of
    the calling thread.

    Args:
        client: the connections to Redis; threads share it.
        quiet_seconds: how long a ring that was handed over suppresses others.
    """

    def __init__(self, client: redis.Redis, quiet_seconds: float) -> None:
        self._redis = client
        self._quiet = int(quiet_seconds * 1000)
        # Protects the attributes below and `busy_since`. No thread calls Redis while it has it.
        self._lock = threading.Lock()
        self._hold: _Hold | None = None
        # Set while there is a hold, and shortly afterwards.
        self._holding = threading.Event()
        self._watcher: threading.Thread | None = None
        self._last = _Last()

    def acknowledge(self) -> None:
        """Say that a drain begins: what is recorded from now on rings again.

        A hold begins, or goes on, unless the thread's last batch took long.
        """
        self._last.began = time.monotonic()
        acknowledged, self._last.acknowledged = self._last.acknowledged, False
        with self._lock:
            hold = self._own()
        if acknowledged and not (hold is not None and self._last.long):
            return
        if hold is None:
            self._begin_with_drain()
        elif not self._eval(_ACKNOWLEDGE, hold.token, 0 if self._last.long else _EXPIRES_MS):
            self._forget(hold)

    def go_on(self) -> None:
        """Say that the drain looks for events again, after a batch."""
        self._time_batch()
        self._last.began = time.monotonic()
        with self._lock:
            hold = self._own()
            if hold is not None:
                hold.busy_since = self._last.began

    def _begin_with_drain(self) -> None:
        # No hold without a watcher.
        if self._last.long or not self._start_watcher():
            acknowledge_ring(self._redis)
            return
        hold = _Hold(threading.get_ident(), busy_since=time.monotonic())
        if self._begin(_BEGIN_WITH_DRAIN, hold) == 1:
            self._keep(hold)

    def wait(self, seconds: float) -> bool:
        """Wait for a ring, at most `seconds`; return whether there may have been one.

        Afterwards the thread may hold the doorbell, so it has to call `hand_over` in the end.
        Returns False at once if another worker holds, or if a message waits. If this process dies
        meanwhile, a ring that comes within `seconds` and one more waits for the next ring.
        """
        self._time_batch()
        self._last.began = float("inf")
        with self._lock:
            hold = self._own()
            if hold is not None:
                hold.busy_since = None
        if hold is None:
            hold = _Hold(threading.get_ident())
            if not self._start_watcher():
                return False
            begun = self._begin(_BEGIN, hold)
            if begun != 1:
                return begun == _LEFT
            self._keep(hold)
        # Redis runs the second command when the first one has ended.
        waiting = self._redis.pipeline(transaction=False)
        waiting.brpop([WOKEN], seconds)
        waiting.eval(_ACKNOWLEDGE, 4, KEY, QUEUE, HOLDER, WOKEN, hold.token, _EXPIRES_MS)
        try:
            rung, kept = waiting.execute()
        except redis.ResponseError:
            # Redis before version 6 refuses parts of a second.
            return False
        finally:
            with self._lock:
                hold.busy_since = time.monotonic()
        if not kept:
            self._forget(hold)
        # Where a message has ended the hold, it has taken a ring with it that came after the wait.
        self._last.acknowledged = rung is not None or not kept
        return self._last.acknowledged

    def hand_over(self) -> None:
        """End the hold, if there is one; a ring that has come becomes a message."""
        self._time_batch()
        with self._lock:
            hold = self._own()
            if hold is None:
                return
            self._hold = None
        self._give(hold)

    def _begin(self, script: str, hold: _Hold) -> object:
        try:
            return self._eval(script, hold.token, _EXPIRES_MS)
        except redis.RedisError:
            # Redis may have begun the hold. To hand over one that it has not begun does no harm.
            hold.busy_since = time.monotonic()
            if self._hold is None:
                self._keep(hold)
            raise

    def _time_batch(self) -> None:
        if self._last.began < float("inf"):
            self._last.long = time.monotonic() - self._last.began >= _LONG

    def _keep(self, hold: _Hold) -> None:
        with self._lock:
            self._hold = hold
            self._holding.set()

    def _forget(self, hold: _Hold) -> None:
        with self._lock:
            # The watcher may have been first, and another thread may hold since then.
            if self._hold is hold:
                self._hold = None

    def _own(self) -> _Hold | None:
        """Return the hold if it is that of the calling thread, which has locked."""
        hold = self._hold
        return hold if hold is not None and hold.thread == threading.get_ident() else None

    def _give(self, hold: _Hold) -> None:
        self._eval(_HAND_OVER, hold.token, message(), self._quiet)

    def _eval(self, script: str, *arguments: str | int) -> object:
        return self._redis.eval(script, 4, KEY, QUEUE, HOLDER, WOKEN, *arguments)

    # The watcher

    def _start_watcher(self) -> bool:
        """Start the thread at the first call; return whether it runs."""
        with self._lock:
            if self._watcher is None:
                watcher = threading.Thread(target=self._watch, name="mirror-holder", daemon=True)
                try:
                    watcher.start()
                except RuntimeError:
                    # There are too many threads, or the process exits.
                    return False
                self._watcher = watcher
            return True

    def _watch(self) -> None:
        """Hand over whenever a batch of a thread that holds takes long. Costs nothing otherwise."""
        while True:
            self._holding.wait()
            time.sleep(_STEP)
            with self._lock:
                hold = self._hold
                if hold is None:
                    self._holding.clear()
                    continue
                since = hold.busy_since
                if since is None or time.monotonic() - since < _LONG:
                    continue
                self._hold = None
            # If Redis fails, the hold expires. The next ring is also for one that is left.
            with suppress(Exception):
                self._give(hold)
