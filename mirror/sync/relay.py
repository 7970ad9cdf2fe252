"""Relay: rings the doorbell for writers that cannot, such as triggers, psql and other languages.

It polls the primary for waiting events, and rings if there are any. With a listener (LISTEN) it
polls rarely and waits for notifications instead. The listener counts as working once it has
received a notification that the relay sent itself over the other connection; behind a transaction
pooler none arrives. Polling goes on in any case, for notifications that get lost.
"""

import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import psycopg
import structlog

from mirror.capture.statements import statement
from mirror.errors import MirrorError, TooSlow, Transient, Unexplained
from mirror.errors.sqlstates import translate
from mirror.sync.connections import Database
from mirror.sync.deadlines import Connection
from mirror.sync.floor import Floor
from mirror.sync.heartbeats import Heartbeat

log = structlog.stdlib.get_logger(__name__)

# All in seconds.
FAST: Final = 0.05
"""The pause after a poll that found new events; each poll without news doubles it."""
SLOW: Final = 10.0
"""The pause between polls while the listener works, and between rings without news."""
LEASE: Final = 3 * SLOW
"""The outbox's trigger notifies for this long after the relay's last renewal."""
# If the relay's own notification has not arrived by then, LISTEN does not work here.
_PROOF: Final = 5.0
# The longest pause while the primary does not answer, and between attempts to listen.
_AWAY: Final = 5.0
_LISTEN_AWAY: Final = 60.0
# After a notification, which has rung already: writers that commit in a burst cause one poll.
_BURST: Final = 0.25

# Where transactions may be prepared, the outbox's trigger notifies nobody. So this proves nothing
# there, and the relay polls.
_NOTIFY = "select pg_notify('mirror', '') where current_setting('max_prepared_transactions') = '0'"


class Rings(Protocol):
    """Wakes a drain: the doorbell in Redis, or a bell within this process."""

    def ring(self) -> None:
        """Wake a drain soon. Never raises."""


class Listener:
    """A connection that LISTENs; an error closes it, and `open` opens it again later.

    `name` is that of the setting which has its URL.
    """

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float] = time.monotonic,
        *,
        name: str = "PRIMARY_LISTEN_URL",
    ) -> None:
        self.database = database
        self._name = name
        self.works = False
        """The connection is open and has received a notification."""
        self.unusable = False
        """Notifications never arrive over this URL; the listener has given up."""
        # Kept here, because the database would replace a closed connection by one without LISTEN.
        self._connection: Connection | None = None
        self._clock = clock
        self._opened_at = 0.0
        self._next_attempt = 0.0
        self._pause = 1.0
        self._warned = False

    def open(self) -> bool:
        """Start to listen, unless an attempt failed a moment ago; return whether it started."""
        if self._connection is not None or self.unusable or self._clock() < self._next_attempt:
            return False
        self._next_attempt = self._clock() + self._pause
        self._pause = min(2 * self._pause, _LISTEN_AWAY)
        try:
            self.database.execute("listen mirror")
        except MirrorError as error:
            self._lose(error)
            return False
        self._connection, self._opened_at = self.database.connection, self._clock()
        return True

    def wait(self, seconds: float) -> bool | None:
        """Wait for a notification, at most `seconds`; return whether there was one.

        None, at once: it does not listen.
        """
        if self._connection is None:
            return None
        try:
            notified = bool(list(self._connection.notifies(timeout=seconds, stop_after=1)))
        except psycopg.Error as error:
            self._lose(translate(error, self.database.role))
            return False
        if notified and not self.works:
            self.works, self._warned, self._pause = True, False, 1.0
            log.info("listening")
        elif not self.works and self._clock() - self._opened_at > _PROOF:
            self.unusable = True
            self.close()
            log.warning(
                "polling instead of listening: the URL brings no notifications; does it lead "
                "through a transaction pooler, or to another database, or does that allow "
                "prepared transactions?",
                setting=self._name,
            )
        return notified

    def check(self) -> None:
        """Run a statement: a connection that is dead looks like one that has no news."""
        if self._connection is not None:
            try:
                self._connection.seconds = self.database.connect_seconds
                self._connection.execute("select 1")
            except psycopg.Error as error:
                self._lose(translate(error, self.database.role))

    def close(self) -> None:
        """Stop listening."""
        self._connection, self.works = None, False
        self.database.close()

    def _lose(self, error: MirrorError) -> None:
        self.close()
        if not self._warned:
            self._warned = True
            log.warning("polling until listening works again", reason=str(error))


class Relay:
    """Rings a doorbell for the events of one primary.

    Args:
        primary: the connection for polling; it may lead through a transaction pooler.
        doorbell: is rung when events wait.
        seconds: the longest pause between polls without a working listener.
        listener: its connection must not lead through a transaction pooler; None: only poll.
        clock: returns the time in seconds.
        sleep: pauses for some seconds.
    """

    def __init__(
        self,
        primary: Database,
        doorbell: Rings,
        *,
        seconds: float,
        listener: Listener | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.primary = primary
        self.doorbell = doorbell
        self.seconds = seconds
        self.listener = listener
        self._clock = clock
        self._sleep = sleep
        self._pause = FAST
        self._polled_at = clock()
        self._floor = Floor(primary, clock)
        self._floor_at = clock()
        self._mark: Any = None
        """Changes when new events come."""
        self._rung_at = clock()
        self._ring_pause = FAST
        self._renewed_at: float | None = None
        self._away = False
        self._heartbeat = Heartbeat("relay", clock)

    def close(self) -> None:
        """Close the connections."""
        self.primary.close()
        if self.listener is not None:
            self.listener.close()

    def run(self) -> None:
        """Poll and listen until interrupted.

        Raises:
            MirrorError: an error that does not pass by itself, such as NotMigrated.
        """
        log.info("watching", interval=self.seconds, listens=self.listener is not None)
        # Events may be waiting already; and the first ring is slow, because it loads Celery.
        self.doorbell.ring()
        while True:
            self.turn()

    def turn(self) -> None:
        """Poll, ring if there is a reason, and wait until the next poll is due."""
        try:
            self._listen()
            self._poll()
        except (Transient, TooSlow, Unexplained) as error:
            self._pause = min(2 * self._pause, _AWAY)
            self.primary.close()
            self._floor.reset()
            if not self._away:
                self._away = True
                log.warning("waiting for the primary", reason=str(error))
        else:
            if self._away:
                self._away = False
                log.info("the primary is back")
        self._wait(self._pause)

    def _listen(self) -> None:
        """Open the listener if needed, and renew the lease with which the trigger notifies."""
        # Not while the primary does not answer: one warning is enough.
        if self.listener is None or self._away:
            return
        if self.listener.open():
            self._renewed_at = None
            try:
                self._query(_NOTIFY)
            except MirrorError:
                self.listener.close()
                raise
        if not self.listener.works:
            return
        if self._renewed_at is None or self._clock() - self._renewed_at >= SLOW:
            self.listener.check()
            self._query(statement("renew_listening"), str(LEASE))
            if self._renewed_at is None:
                # Transactions in progress may have found no lease and do not notify. The pauses
                # grow from here, so that a commit N seconds later is found after about N more.
                self._pause = FAST / 2
            self._renewed_at = self._clock()

    def _poll(self) -> None:
        ((events, mark, due),) = self._query(statement("poll_events"), str(self._floor.value))
        self._heartbeat.beat(self.primary)
        now = self._polled_at = self._clock()
        if now > self._floor_at + SLOW:
            self._floor.advance()
            self._floor_at = now
        news = events > 0 and mark != self._mark
        self._mark = mark
        if news or self._away:
            self._pause = self._ring_pause = FAST
        else:
            self._pause = min(2 * self._pause, self._longest_pause)
        waiting = events > 0 or (due is not None and due <= 0)
        # Events that still wait after a ring wait for something else, such as the target: a ring
        # for each poll would only fill the workers' logs. Retries that are postponed again and
        # again are no news either.
        if news or (waiting and now - self._rung_at >= self._ring_pause):
            self._ring_pause = FAST if news else min(2 * self._ring_pause, SLOW)
            self._rung_at = now
            self.doorbell.ring()
        if due is not None and due > 0:
            self._pause = min(self._pause, max(due, FAST))

    @property
    def _longest_pause(self) -> float:
        if self.listener is None or self.listener.unusable:
            return self.seconds
        return SLOW if self.listener.works else min(self.seconds, SLOW)

    def _query(self, query: str, *arguments: str) -> list[Any]:
        try:
            return self.primary.call(query, arguments)
        except Transient:
            # The server may have closed an idle connection; a new connection shows whether.
            self.primary.close()
            return self.primary.call(query, arguments)

    def _wait(self, seconds: float) -> None:
        notified = None if self.listener is None else self.listener.wait(seconds)
        if self.listener is None or notified is None:
            self._sleep(seconds)
            return
        while notified:
            self.doorbell.ring()
            left = self._polled_at + _BURST - self._clock()
            notified = left > 0 and self.listener.wait(left)
