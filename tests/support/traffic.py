"""Live traffic: a writer that never pauses, and a worker that mirrors its changes."""

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from mirror.sync.drain import Drain
from tests.support.databases import TestDatabase
from tests.support.waiting import until

_EVENT = "insert into mirror.outbox (lane, mapping, key) values (%s, %s, %s)"

# All values that the rows of the target have had, in order.
_HISTORY = """
create table public.history (
  at bigint generated always as identity, mapping text, id uuid, value text
);
create function public.remember() returns trigger language plpgsql as $$
begin
  if tg_table_name = 'users' then
    insert into public.history (mapping, id, value) values ('users', new.id, new.username);
  else
    insert into public.history (mapping, id, value) values ('trips', new.id, new.name);
  end if;
  return null;
end $$;
create trigger remember after insert or update on public.users
for each row execute function public.remember();
create trigger remember after insert or update on public.trips
for each row execute function public.remember();
"""


class Traffic:
    """Writes and mirrors changes until its exit.

    Names of users and trips are numbers that count up; members are removed and restored.
    """

    def __init__(
        self,
        primary: TestDatabase,
        target: TestDatabase,
        drain: Drain,
        *,
        users: Sequence[UUID],
        trips: Sequence[UUID],
        members: Sequence[tuple[UUID, UUID]] = (),
    ) -> None:
        self.primary = primary
        self.target = target
        self.changes = 0
        self._drain = drain
        self._users = users
        self._trips = trips
        self._members = members
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), daemon=True)
            for work in (self._write, self._mirror)
        ]

    def __enter__(self) -> Self:
        self.target.query(_HISTORY)
        for thread in self._threads:
            thread.start()
        self.wait_for_changes(5)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.wait_for_changes(5)
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        assert not self._errors, self._errors
        self._drain.run()

    def wait_for_changes(self, changes: int) -> None:
        """Wait until `changes` more transactions are committed, or the traffic has failed."""
        before = self.changes
        until(lambda: self._errors or self.changes >= before + changes)

    def set_back(self) -> list[Any]:
        """Return the target's rows whose name ever went back to a lower number."""
        return self.target.query(
            "select mapping, id, value, earlier from ("
            "  select *, lag(value) over (partition by mapping, id order by at) as earlier"
            "  from history where value ~ '^[0-9]+$'"
            ") as h where earlier ~ '^[0-9]+$' and value::bigint < earlier::bigint"
        )

    def _guarded(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            self._errors.append(error)

    def _write(self) -> None:
        with self.primary.connect(autocommit=False) as connection:
            while not self._stop.is_set():
                number = self.changes
                user = self._users[number % len(self._users)]
                trip = self._trips[number % len(self._trips)]
                connection.execute(
                    "update users set username = %s where id = %s", [str(number), user]
                )
                connection.execute(_EVENT, [1, "users", [str(user)]])
                connection.execute("update trips set name = %s where id = %s", [str(number), trip])
                connection.execute(_EVENT, [1, "trips", [str(trip)]])
                if self._members:
                    member = self._members[number % len(self._members)]
                    connection.execute(
                        "update trip_memberships"
                        " set deleted_at = case when deleted_at is null then now() end"
                        " where (trip_id, user_id) = (%s, %s)",
                        member,
                    )
                    connection.execute(_EVENT, [0, "trip_memberships", list(map(str, member))])
                connection.commit()
                self.changes += 1

    def _mirror(self) -> None:
        while not self._stop.is_set():
            self._drain.run(seconds=1)
