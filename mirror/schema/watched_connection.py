"""Watched connection: waits for as long as its server works on a statement, and no longer.

A migration may build an index or wait for a lock for hours, so no deadline fits its statements. But
a server that is halted, or a proxy that swallows bytes, never answers, while TCP goes on
acknowledging. So a connection that has waited for a while asks the server over a second one.
"""

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg

from mirror.capture.timeouts import call_within

_Result = TypeVar("_Result")

_IS_ACTIVE = "select state = 'active' from pg_stat_activity where pid = %s"


class WatchedConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that closes itself if its server has stopped to work on its statement."""

    url = ""
    """For the second connection."""
    seconds = 5
    """The pause between two looks at the server, and the time limit of each look."""
    process: int | None = None
    """The server process, which only a query tells where a pooler lies between."""

    def wait(self, gen: Generator[Any, Any, _Result], *limits: Any, **named: Any) -> _Result:
        """Wait until the server has answered; psycopg calls this for whatever it sends."""
        return super().wait(self._watched(gen), *limits, **named)

    def _watched(self, gen: Generator[Any, Any, _Result]) -> Generator[Any, Any, _Result]:
        """Run psycopg's generator; it is resumed when bytes come, and at least ten times a second.

        Raises:
            psycopg.OperationalError: no answer can be expected any more; the connection is closed.
        """
        idle = 0
        next_look = time.monotonic() + self.seconds
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                wanted = gen.send(ready)
                if time.monotonic() > next_look:
                    # After the first look, the answer may be on its way.
                    idle = 0 if self._is_active() else idle + 1
                    if idle > 1:
                        raise self._silent()
                    next_look = time.monotonic() + self.seconds
        except StopIteration as ended:
            result: _Result = ended.value
            return result

    def _is_active(self) -> bool:
        """Return whether the server works on this connection's statement; True if it tells nothing.

        Raises:
            psycopg.OperationalError: the server does not answer; the connection is closed.
        """
        process = self.process or self.info.backend_pid

        def ask() -> bool:
            with psycopg.connect(self.url, connect_timeout=self.seconds, autocommit=True) as other:
                return other.execute(_IS_ACTIVE, [process]).fetchone() == (True,)

        try:
            return call_within(self.seconds + 1, ask)
        except (TimeoutError, psycopg.Error) as error:
            if getattr(error, "sqlstate", None) is not None:
                # It refuses, because it has too many connections for example: so it is alive.
                return True
            raise self._silent() from None

    def _silent(self) -> psycopg.OperationalError:
        self.close()
        return psycopg.OperationalError("no answer, and the server does not work on it")
