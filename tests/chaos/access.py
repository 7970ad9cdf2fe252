"""The second invariant: after an acknowledged revocation, no access until it is granted again."""

import threading
from uuid import UUID

import psycopg

from mirror.devstack.caller import become
from tests.chaos.report import Report
from tests.support.databases import TestDatabase

Pair = tuple[UUID, UUID]
"""A trip and a user."""

_ASK = (
    "select mirror.has_trip_role(%(trip)s, 'MEMBER')"
    " or exists (select from trips where id = %(trip)s)"
    " or exists (select from trip_memberships where trip_id = %(trip)s)"
)


class Denials:
    """The pairs whose revocation was acknowledged, and that were not granted since."""

    def __init__(self) -> None:
        self._denied: dict[Pair, object] = {}
        self._lock = threading.Lock()

    def granted(self, pair: Pair) -> None:
        """Note, before the commit, that a change gives access."""
        with self._lock:
            self._denied.pop(pair, None)

    def revoked(self, pair: Pair) -> None:
        """Note that the target has acknowledged a revocation."""
        with self._lock:
            self._denied[pair] = object()

    def now(self) -> dict[Pair, object]:
        """Return the pairs, each with a mark that changes with every revocation."""
        with self._lock:
            return dict(self._denied)


class Checker(threading.Thread):
    """Asks the target's row-level security, as the users, until `stop`."""

    def __init__(self, target: TestDatabase, denials: Denials, report: Report) -> None:
        super().__init__(daemon=True)
        self._target = target
        self._denials = denials
        self._report = report
        self._stopping = threading.Event()

    def run(self) -> None:
        """Check again and again; while the target is down, wait."""
        while not self._stopping.wait(0.02):
            try:
                self.check()
            except psycopg.OperationalError:
                continue
            except Exception as error:  # noqa: BLE001 - a run that checks nothing must not pass
                self._report.violated("access", f"the check failed: {type(error).__name__}")

    def check(self) -> None:
        """Ask about each denied pair once."""
        with self._target.connect(autocommit=False) as connection:
            for pair, mark in self._denials.now().items():
                trip, user = pair
                become(connection, user)
                allowed = connection.execute(_ASK, {"trip": trip}).fetchall()[0][0]
                connection.rollback()
                self._report.checks += 1
                # A grant that began in the meantime explains the access.
                if allowed and self._denials.now().get(pair) is mark:
                    self._report.violated("access", f"user {user} still reads trip {trip}")

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self.join()
