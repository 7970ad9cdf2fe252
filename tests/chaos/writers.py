"""Writers: threads of a backend whose changes are captured in one of three ways.

The third invariant: no writer fails, or waits longer than a bound, because of the mirror.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Literal
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from mappings.trips import registry
from mirror import hooks
from mirror.capture.doorbell import Doorbell, DoorbellSettings
from mirror.capture.orm.listeners import attach
from mirror.capture.receipts import Receipt
from mirror.capture.recorder import LaneName
from mirror.errors import MirrorError, StillWaiting, Unreachable, UsageError
from mirror.schema.migrate import upgrade
from tests.chaos.access import Denials, Pair
from tests.chaos.changes import Change, Changes
from tests.chaos.report import Report
from tests.chaos.servers import Servers

Way = Literal["hooks", "orm", "triggers"]
WAYS: tuple[Way, ...] = ("hooks", "orm", "triggers")
_RECEIPT_SECONDS = 5.0


class Backend:
    """Sessions whose changes are captured in one way."""

    def __init__(self, servers: Servers, way: Way, engine: Engine) -> None:
        # The backend reaches Redis by the same bad network as the workers.
        doorbell = Doorbell(DoorbellSettings(redis_url=servers.links["redis"].url))
        self.hooks = hooks.Hooks(registry, doorbell)
        self.way = way
        self.sessions = sessionmaker(engine)

    def record(self, session: Session, mapping: str, key: UUID | Pair, lane: LaneName) -> None:
        """Call a hook, if that is the way."""
        if self.way == "hooks":
            self.hooks.changed(session, mapping, key, lane)


@contextmanager
def backend(servers: Servers, way: Way) -> Iterator[Backend]:
    """Yield a backend; install the triggers if they are the way (they stay)."""
    if way == "triggers":
        with servers.primary.migrating() as connection:
            upgrade(connection, "primary", registry, triggers=True)
    found = Backend(servers, way, servers.primary.engine())
    capture = attach(found.sessions, hooks=found.hooks) if way == "orm" else None
    yield found
    if capture is not None:
        capture.detach()


class Writer(threading.Thread):
    """Commits one random change after the other until `stop`."""

    def __init__(
        self,
        servers: Servers,
        backend: Backend,
        random: Random,
        denials: Denials,
        report: Report,
        *,
        bound: float,
    ) -> None:
        super().__init__(daemon=True)
        self.changes = Changes(random, backend.record, bulk=backend.way == "triggers")
        self._servers = servers
        self._backend = backend
        self._random = random
        self._denials = denials
        self._report = report
        self._bound = bound
        self._stopping = threading.Event()
        self._receipts: deque[Receipt] = deque()
        """Those of transactions that are not known to be mirrored, in order."""

    def run(self) -> None:
        """Write; a change that the primary's crash prevents is made again."""
        change = self.changes.first()
        while not self._stopping.is_set():
            self._carry_out(change, wait=self._random.random() < 0.3)
            change = self.changes.next()

    def stop(self) -> None:
        """End the thread after its present change."""
        self._stopping.set()
        self.join()

    def _carry_out(self, change: Change, *, wait: bool) -> None:
        for pair in change.granted:
            self._denials.granted(pair)
        while not self._commit(change):
            if self._stopping.wait(0.05):
                return
        self._report.commits[self._backend.way] += 1
        if wait and change.revoked and self._all_acknowledged():
            self._report.acknowledged += 1
            for pair in change.revoked:
                self._denials.revoked(pair)

    def _all_acknowledged(self) -> bool:
        """Wait for the present transaction, and for the earlier ones.

        An earlier one may have made the same change already. Then the present one has no event.
        """
        while self._receipts:
            try:
                self._backend.hooks.wait(self._receipts[0], _RECEIPT_SECONDS)
            except (StillWaiting, Unreachable):
                return False
            except UsageError:
                pass  # It was rolled back, by a crash of the primary.
            except MirrorError as error:
                self._report.violated("writers", f"a receipt failed: {error}")
            self._receipts.popleft()
        return True

    def _commit(self, change: Change) -> bool:
        """Make a change and commit it; return whether that succeeded."""
        outages, began = self._servers.outages, time.monotonic()
        failed = ""
        try:
            with self._backend.sessions() as session:
                change.make(session)
                self._receipts.append(self._backend.hooks.receipt(session))
                session.commit()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
            failed = type(error).__name__
        took = time.monotonic() - began
        if self._servers.outages == outages and not self._servers.primary_is_down.is_set():
            self._report.slowest = max(self._report.slowest, took)
            if failed:
                self._report.violated("writers", f"a transaction failed: {failed}")
            elif took > self._bound:
                self._report.violated("writers", f"a transaction took more than {self._bound} s")
        return not failed
