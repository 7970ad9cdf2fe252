"""Lease: one reconcile at a time, and what has to happen if that one dies.

A row that expires: a session's lock would not survive a pooler.
"""

import os
import socket
import time
from collections.abc import Container, Iterable
from uuid import uuid4

from mirror.capture.outbox import Lane
from mirror.errors import Transient
from mirror.model.mapping import EVERYTHING
from mirror.sync.connections import Database

_TAKE = """
insert into mirror.leases as l (name, token, holder, expires_at)
values ('reconcile', %(token)s, %(holder)s, now() + %(seconds)s * interval '1 second')
on conflict (name) do update
set token = excluded.token, holder = excluded.holder, expires_at = excluded.expires_at
where l.expires_at < now() or l.token = excluded.token
returning true
"""

# A retry that is due only once nobody renews it any more: then the workers read these mappings.
_INTEND = """
insert into mirror.retries (id, lane, recorded_at, mapping, reference, key, attempts, due_at, error)
select nextval(pg_get_serial_sequence('mirror.outbox', 'id')), %(lane)s, now(), mapping,
  %(everything)s, '{}', 0, now() + %(seconds)s * interval '1 second', %(mark)s
from unnest(%(mappings)s::text[]) as mapping
returning id, mapping
"""
_MARK = "for the case that the reconcile which is loading this ends before its time"


class LeaseLost(Transient):
    """Raised when another reconcile took over, because this one did not renew in time."""


class Lease:
    """The right to reconcile, for as long as it is renewed."""

    def __init__(self, database: Database, *, seconds: float = 120.0) -> None:
        self.database = database
        self.seconds = seconds
        self.holder = f"{socket.gethostname()}:{os.getpid()}"
        self.intents: dict[int, str] = {}
        """Retries that wait for this process's death, and the mapping of each."""
        self._token = uuid4()
        self._renewed = 0.0

    def take(self) -> bool:
        """Take or renew the lease; False if somebody else holds it."""
        self._renewed = time.monotonic()
        parameters = {"token": self._token, "holder": self.holder, "seconds": self.seconds}
        if not self.database.execute(_TAKE, parameters):
            return False
        # What another intended that died is now this one's to do.
        found = self.database.execute(
            "update mirror.retries set due_at = now() + %s * interval '1 second'"
            " where error = %s and buried_at is null returning id, mapping",
            [self.seconds, _MARK],
        )
        self.intents.update(found)
        return True

    def held_by(self) -> str | None:
        """Return who holds it."""
        found = self.database.execute(
            "select holder from mirror.leases where name = 'reconcile' and expires_at > now()"
        )
        return found[0][0] if found else None

    def renew(self) -> None:
        """Renew in good time.

        Raises:
            LeaseLost: somebody else has it.
        """
        if time.monotonic() < self._renewed + self.seconds / 4:
            return
        if not self.take():
            raise LeaseLost(f"primary: {self.held_by() or 'somebody'} reconciles now; run it again")

    def release(self) -> None:
        """Give it back, and let workers see to what was not finished."""
        self.database.execute(
            "update mirror.retries set due_at = now() where id = any(%s)", [list(self.intents)]
        )
        self.intents.clear()
        self.database.execute(
            "delete from mirror.leases where name = 'reconcile' and token = %s", [self._token]
        )

    def intend(self, mappings: Iterable[str]) -> None:
        """Have workers read these mappings as a whole, should this process die."""
        found = self.database.execute(
            _INTEND,
            {
                "lane": int(Lane.GRANT),
                "everything": EVERYTHING,
                "mappings": sorted(set(mappings) - set(self.intents.values())),
                "seconds": self.seconds,
                "mark": _MARK,
            },
        )
        self.intents.update(found)

    def done(self, mappings: Container[str]) -> None:
        """Nothing of these mappings is left for the workers."""
        finished = [number for number, name in self.intents.items() if name in mappings]
        self.database.execute("delete from mirror.retries where id = any(%s)", [finished])
        for number in finished:
            del self.intents[number]
