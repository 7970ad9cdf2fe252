"""Broker: the worker's side of Redis. No answer and no item of Redis ends a worker or beat."""

from contextlib import suppress
from typing import Any

import structlog
from celery import beat
from kombu.transport import redis

log = structlog.stdlib.get_logger(__name__)


class Transport(redis.Transport):
    """Redis, of which no item of the queue ends the worker.

    Celery ends a worker at an error that its transport does not list, and gives a message back to
    the queue whose handling failed, so that the next worker ends, too.
    """

    # Those of parsing an item; it has left the queue by then. The worker connects again.
    channel_errors = (*redis.Transport.channel_errors, RecursionError, ValueError)

    def _deliver(self, message: Any, queue: str) -> None:
        try:
            super()._deliver(message, queue)  # type: ignore[no-untyped-call]
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            log.warning("odd message dropped", queue=queue, reason=type(error).__name__)
            with suppress(AttributeError, LookupError, TypeError):
                tag = message["properties"]["delivery_tag"]
                for channel in self.channels:
                    channel.basic_reject(tag, requeue=False)


class Scheduler(beat.Scheduler):  # type: ignore[misc]
    """Beat's schedule in memory. A message that could not be sent is one line in the log."""

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send the message of one entry; the next one follows at the entry's next turn."""
        try:
            self.apply_async(entry, producer=producer, advance=False)
        except Exception as error:  # noqa: BLE001 - beat goes on
            # Celery wraps the error in one of its own.
            cause = error.__cause__ or error.__context__ or error
            log.warning("beat's message not sent", task=entry.task, reason=type(cause).__name__)
