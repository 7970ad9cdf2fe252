"""Bells: how a process of workers is woken, and how it wakes others when it leaves events."""

import threading
from functools import cached_property
from typing import Protocol

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from mirror.capture.doorbell import (
    Doorbell,
    DoorbellSettings,
    acknowledge_ring,
    wait_for_ring,
)
from mirror.settings import Settings

log = structlog.stdlib.get_logger(__name__)


class Bell(Protocol):
    """Wakes a drain."""

    def ring(self) -> None:
        """Wake a drain soon; rings before the next `acknowledge` count as one."""

    def acknowledge(self) -> None:
        """Say that a drain begins to look for events: what is recorded from now on rings again."""

    def wait(self, seconds: float) -> bool:
        """Wait for a ring, at most `seconds`; return whether there was one."""


class RedisBell:
    """The doorbell in Redis, which Celery workers share."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

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

    def ring(self) -> None:
        """Publish a message; another worker may take it."""
        self._doorbell.ring()

    def acknowledge(self) -> None:
        """Delete the key that suppresses messages. An error is logged, not raised."""
        try:
            acknowledge_ring(self._redis)
        except redis.RedisError as error:
            # The doorbell then suppresses rings for some seconds; this drain and beat's next ring
            # take care of the events.
            log.warning("doorbell not answered", reason=type(error).__name__)

    def wait(self, seconds: float) -> bool:
        """Wait for a ring, at most `seconds`; return whether there was one for this process."""
        try:
            return wait_for_ring(self._redis, seconds)
        except redis.RedisError:
            # The next drain says so.
            return False


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

    def wait(self, seconds: float) -> bool:
        """Wait for a ring, at most `seconds`; return whether there was one."""
        return self._rung.wait(seconds)
