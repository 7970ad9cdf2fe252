"""Relay: rings for writers that cannot, such as triggers, psql and other languages.

It looks whether anything waits in the primary, and rings the doorbell if so. Between two looks it
sleeps, or, with an ear (LISTEN), waits to be told: then the looks are rare, for what an ear may
miss. An ear is trusted once it has heard a notification that the relay sent itself by the other
connection; behind a transaction pooler none arrives. Whatever happens to the ear, looks go on.
"""

import time
from collections.abc import Callable
from typing import Any, Final

import psycopg
import structlog

from mirror.capture.doorbell import Doorbell
from mirror.capture.statements import statement
from mirror.errors import MirrorError, TooSlow, Transient, Unexplained
from mirror.errors.sqlstates import translate
from mirror.sync.connections import Connection, Database
from mirror.sync.floor import Floor
from mirror.sync.heartbeats import Heartbeat

log = structlog.stdlib.get_logger(__name__)

# The first pause after something happened; each uneventful look doubles it.
BRISK: Final = 0.05
# Between two looks while an ear listens, and between two rings that nothing new asks for.
SLOW: Final = 10.0
# How long the outbox's trigger notifies without hearing from us.
LEASE: Final = 3 * SLOW
# An ear that has not heard by then what was sent to it is deaf.
_PROOF: Final = 5.0
# Between two attempts at a primary, or at an ear, that is away.
_AWAY: Final = 5.0
_EAR_AWAY: Final = 60.0
# Writers that commit in a burst cause one look among them.
_BREATH: Final = 0.02

_PROVE = "select pg_notify('mirror', '')"


class Listener:
    """A connection that LISTENs; after an error it is closed, and opened again later."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self.database = database
        self.hears = False
        """It is open, and has heard something."""
        self.deaf = False
        """Nothing ever arrives by this URL; given up."""
        # Kept here, because the database would replace it by one that does not listen.
        self._connection: Connection | None = None
        self._clock = clock
        self._opened_at = 0.0
        self._next_attempt = 0.0
        self._timeout_factor = 1.0
        self._complained = False

    def open(self) -> bool:
        """Start to listen, unless that failed a moment ago; return whether it just began."""
        if self._connection is not None or self.deaf or self._clock() < self._next_attempt:
            return False
        self._next_attempt = self._clock() + self._timeout_factor
        self._timeout_factor = min(2 * self._timeout_factor, _EAR_AWAY)
        try:
            self.database.execute("listen mirror")
        except MirrorError as error:
            self._lose(error)
            return False
        self._connection, self._opened_at = self.database.connection, self._clock()
        return True

    def wait(self, seconds: float) -> bool:
        """Return at the next notification, or after `seconds`; False at once if it is not open."""
        if self._connection is None:
            return False
        try:
            heard = bool(list(self._connection.notifies(timeout=seconds, stop_after=1)))
        except psycopg.Error as error:
            self._lose(translate(error, self.database.role))
            return True
        if heard and not self.hears:
            self.hears, self._complained, self._timeout_factor = True, False, 1.0
            log.info("listening")
        elif not self.hears and self._clock() - self._opened_at > _PROOF:
            self.deaf = True
            self.close()
            log.warning(
                "polling instead of listening: PRIMARY_LISTEN_URL brings no notifications; does it "
                "lead through a transaction pooler, or to another database?"
            )
        return True

    def close(self) -> None:
        """Stop listening."""
        self._connection, self.hears = None, False
        self.database.close()

    def _lose(self, error: MirrorError) -> None:
        self.close()
        if not self._complained:
            self._complained = True
            log.warning("polling until listening works again", reason=str(error))


class Relay:
    """Watches one primary.

    Args:
        primary: may lead through a pooler.
        doorbell: what to ring.
        seconds: the longest pause between two looks without an ear.
        ear: a connection that may not lead through a pooler; None: looks alone.
        clock, sleep: the time in seconds, and how it passes.
    """

    def __init__(
        self,
        primary: Database,
        doorbell: Doorbell,
        *,
        seconds: float,
        ear: Listener | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.primary = primary
        self.doorbell = doorbell
        self.seconds = seconds
        self.ear = ear
        self._clock = clock
        self._sleep = sleep
        self._pause = BRISK
        self._looked_at = clock()
        self._floor = Floor(primary, clock)
        self._floor_at = clock()
        self._mark: Any = None
        self._rung_at = clock()
        self._ring_pause = BRISK
        self._renewed_at: float | None = None
        self._away = False
        self._heartbeat = Heartbeat("relay", clock)

    def close(self) -> None:
        """Close the connections."""
        self.primary.close()
        if self.ear is not None:
            self.ear.close()

    def run(self) -> None:
        """Watch until interrupted.

        Raises:
            MirrorError: what no waiting will mend, such as NotMigrated.
        """
        log.info("watching", interval=self.seconds, listens=self.ear is not None)
        # Whatever waits; and the first ring takes longest, because it loads Celery.
        self.doorbell.ring()
        while True:
            self.turn()

    def turn(self) -> None:
        """Look once, ring if there is reason to, and wait until it is time to look again."""
        try:
            self._listen()
            self._look()
        except (Transient, TooSlow, Unexplained) as error:
            self._pause = min(2 * self._pause, _AWAY)
            self.primary.close()
            self._floor.forget()
            if not self._away:
                self._away = True
                log.warning("waiting for the primary", reason=str(error))
        else:
            if self._away:
                self._away = False
                log.info("the primary is back")
        self._wait(self._pause)

    def _listen(self) -> None:
        """Open the ear if need be, and have the outbox's trigger notify it."""
        # Not while the primary is away: one complaint is enough.
        if self.ear is None or self._away:
            return
        if self.ear.open():
            self._renewed_at = None
            try:
                self._ask(_PROVE)
            except MirrorError:
                self.ear.close()
                raise
        if not self.ear.hears:
            return
        if self._renewed_at is None or self._clock() - self._renewed_at >= SLOW:
            self._ask(statement("renew_listening"), str(LEASE))
            if self._renewed_at is None:
                # Writers under way may have found no lease. The pauses that grow from here find
                # what they commit about as soon as they were late.
                self._pause = BRISK / 2
            self._renewed_at = self._clock()

    def _look(self) -> None:
        ((events, mark, due),) = self._ask(statement("look_for_events"), str(self._floor.value))
        self._heartbeat.beat(self.primary)
        now = self._looked_at = self._clock()
        if now > self._floor_at + SLOW:
            self._floor.advance()
            self._floor_at = now
        news = events > 0 and mark != self._mark
        self._mark = mark
        if news or self._away:
            self._pause = self._ring_pause = BRISK
        else:
            self._pause = min(2 * self._pause, self._longest)
        waits = events > 0 or (due is not None and due <= 0)
        # What waits though it was rung for waits for something else, such as the target: a ring
        # for each look would only fill the workers' logs. Retries that come due again and again,
        # because they are postponed, are no news either.
        if news or (waits and now - self._rung_at >= self._ring_pause):
            self._ring_pause = BRISK if news else min(2 * self._ring_pause, SLOW)
            self._rung_at = now
            self.doorbell.ring()
        if due is not None and due > 0:
            self._pause = min(self._pause, max(due, BRISK))

    @property
    def _longest(self) -> float:
        if self.ear is None or self.ear.deaf:
            return self.seconds
        return SLOW if self.ear.hears else min(self.seconds, SLOW)

    def _ask(self, query: str, *arguments: str) -> list[Any]:
        try:
            return self.primary.call(query, arguments)
        except Transient:
            # The connection may have sat idle for too long; a new one tells.
            self.primary.close()
            return self.primary.call(query, arguments)

    def _wait(self, seconds: float) -> None:
        if self.ear is not None and self.ear.wait(seconds):
            seconds = max(0.0, self._looked_at + _BREATH - self._clock())
        self._sleep(seconds)
