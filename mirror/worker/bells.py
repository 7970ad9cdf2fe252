"""Bells: how a process of workers is woken, and how it wakes others when it leaves events."""

import os
import threading
from functools import cached_property
from typing import Protocol

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from mirror.capture.doorbell import Doorbell, DoorbellSettings
from mirror.settings import Settings
from mirror.worker.holder import Holder

log = structlog.stdlib.get_logger(__name__)


class Bell(Protocol):
    """Wakes a drain."""

    def ring(self) -> None:
        """Wake a drain soon, that of another worker if there is one.

        Rings before the next `acknowledge` count as one.
        """

    def acknowledge(self) -> None:
        """Say that a drain begins to look for events: what is recorded from now on rings again."""

    def go_on(self) -> None:
        """Say that the drain looks for events again, after a batch."""

    def wait(self, seconds: float) -> bool:
        """Wait for a ring, at most `seconds`; return whether there was one."""

    def hand_over(self) -> None:
        """Say that the calling thread waits no more: rings are for others."""


class RedisBell:
    """The doorbell in Redis, which Celery workers share."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # One for each process id, because threads and locks do not survive a fork.
        self._holders: dict[int, Holder] = {}

    @cached_property
    def _doorbell(self) -> Doorbell:
        url = self._settings.need("redis_url")
        return Doorbell(DoorbellSettings(redis_url=url, mode="inline"))

    @cached_property
    def _redis(self) -> redis.Redis:
        return redis.Redis.from_url(
            self._settings.need("redis_url"),
            socket_timeout=5,
            socket_connect_timeout=5,
            # By default the client retries for several times as long.
            retry=Retry(NoBackoff(), 0),
        )

    @property
    def _holder(self) -> Holder:
        holder = self._holders.get(os.getpid())
        if holder is None:
            made = Holder(self._redis, self._doorbell.settings.quiet_seconds)
            # setdefault is atomic, so concurrent threads share one holder.
            holder = self._holders.setdefault(os.getpid(), made)
        return holder

    def ring(self) -> None:
        """Wake another worker. The calling thread hands over, or it would get the ring itself."""
        self.hand_over()
        self._doorbell.ring()

    def acknowledge(self) -> None:
        """Delete the key that suppresses rings. An error is logged, not raised."""
        try:
            self._holder.acknowledge()
        except redis.RedisError as error:
            # The doorbell then suppresses rings for some seconds; this drain and beat's next ring
            # take care of the events.
            log.warning("doorbell not answered", reason=type(error).__name__)

    def go_on(self) -> None:
        """Tell the holder that its batch did not hang."""
        self._holder.go_on()

    def wait(self, seconds: float) -> bool:
        """Wait for a ring, at most `seconds`; return whether there was one for this process."""
        try:
            return self._holder.wait(seconds)
        except redis.RedisError:
            # The next drain says so.
            return False

    def hand_over(self) -> None:
        """End the hold of the calling thread, if it has one. A ring that has come is published."""
        try:
            self._holder.hand_over()
        except redis.RedisError as error:
            # The hold expires. A ring that has come waits for the next one, or for beat.
            log.warning("doorbell not handed over", reason=type(error).__name__)


class LocalBell:
    """Wakes a thread of this process."""

    def __init__(self) -> None:
        self._rung = threading.Event()

    def ring(self) -> None:
        """Wake the thread, now or when it next waits."""
        self._rung.set()

    def acknowledge(self) -> None:
        """Forget the rings until now."""
        self._rung.clear()

    def go_on(self) -> None:
        """Do nothing: nobody else waits for this thread."""

    def wait(self, seconds: float) -> bool:
        """Wait for a ring, at most `seconds`; return whether there was one."""
        return self._rung.wait(seconds)

    def hand_over(self) -> None:
        """Do nothing: no other thread drains."""
