"""Deadlines: a connection that does not wait for ever.

The server itself limits the time of a statement. But a server that is halted, or a proxy that
swallows bytes, never answers, while TCP goes on acknowledging. So each statement has a deadline on
our side, too.
"""

import math
import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg

_Result = TypeVar("_Result")


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that closes itself if an answer takes too long."""

    seconds = math.inf
    """How long the next statement may take, until its last row."""

    def wait(self, gen: Generator[Any, Any, _Result], *limits: Any, **named: Any) -> _Result:
        """Wait until the server has answered; psycopg calls this for whatever it sends."""
        # `notifies` limits its waits itself: if nothing comes, nothing need be wrong.
        if not limits and not named:
            gen = self._until(time.monotonic() + self.seconds, gen)
        return super().wait(gen, *limits, **named)

    def _until(
        self, deadline: float, gen: Generator[Any, Any, _Result]
    ) -> Generator[Any, Any, _Result]:
        """Run psycopg's generator; it is resumed when bytes come, and at least ten times a second.

        Raises:
            psycopg.OperationalError: the deadline is over; the connection is closed.
        """
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                wanted = gen.send(ready)
                if time.monotonic() > deadline:
                    self.close()
                    raise psycopg.OperationalError(f"no answer within {self.seconds:g} s")
        except StopIteration as ended:
            result: _Result = ended.value
            return result
