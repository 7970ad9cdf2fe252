"""A search for a moment at which the target says that it is fresher than it is.

Writers with long and short transactions, two workers that hang, crash and retry, clocks that are
set forwards and back on both sides, and rows that the target refuses for a while. All run in one
thread: whenever a worker hangs, the others go on. So the order of all steps follows from the seed.
"""

from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any, Final
from uuid import UUID

from psycopg import errors

from mirror.errors import MirrorError
from mirror.sync.drain import Drain
from tests.faults.tools import record, rewrite
from tests.support.databases import TestDatabase

Key = tuple[str, str]
"""A trip and a user."""

TRIPS: Final = [str(UUID(int=number)) for number in range(1, 4)]
USERS: Final = [str(UUID(int=number)) for number in range(11, 17)]

# A user whose membership the target refuses to delete, for a while.
_POISON = """
create table poison (user_id uuid);
create function refuse() returns trigger language plpgsql security definer as $$
begin
  if exists (select from public.poison where user_id = old.user_id) then
    raise exception 'refused';
  end if;
  return old;
end $$;
create trigger refuse before delete or update on trip_memberships
for each row execute function refuse();
"""


# A clock that somebody sets, forwards and back.
_SKEW = """
create table public.skew (seconds float not null);
insert into public.skew values (0);
create function public.skewed() returns timestamptz language sql as
$$ select clock_timestamp() + seconds * interval '1 second' from public.skew $$;
grant select on public.skew to public
"""


class Crash(BaseException):
    """Ends a worker where it stands."""


class World:
    """The databases, the writers, the workers, and the order in which things happened."""

    def __init__(
        self,
        seed: int,
        primary: TestDatabase,
        target: TestDatabase,
        make_drain: Callable[..., Drain],
    ) -> None:
        self.random = Random(seed)
        self.primary, self.target = primary, target
        self.make_drain = make_drain
        self.now = 0
        self.revoked: dict[Key, int] = {}
        """When each revocation committed; those that a later grant undid are not in it."""
        self.clocks: dict[str, int] = {}
        """When the call began that answered with this clock of the target."""
        self.claims = 0
        """How often the target said that it was fresh as of another moment than before."""
        self._seen = ""
        self.reader = target.connect()
        self.writers = [Writer(self) for _ in range(3)]
        self.idle = [self._worker(size) for size in (2, 50)]
        self.left = 0

    def close(self) -> None:
        """Close the connections."""
        for connection in (self.reader, *(writer.connection for writer in self.writers)):
            connection.close()

    def tick(self) -> int:
        """Return a later moment than all before."""
        self.now += 1
        return self.now

    def run(self, steps: int) -> None:
        """Make steps, and check the claims after each that no worker hangs in."""
        self.left = steps
        while self.left:
            self._steps(1)
            self.check()

    def check(self) -> None:
        """Assert that each revocation before the moment that the target names is in force."""
        with self.reader.transaction():
            self.reader.execute("set transaction isolation level repeatable read")
            ((clock,),) = self.reader.execute(
                "select to_jsonb(as_of) from mirror.freshness where mapping = 'trip_memberships'"
            ).fetchall()
            members = self.reader.execute(
                "select trip_id::text, user_id::text from trip_memberships as m where not exists ("
                " select from mirror.withheld as w where w.mapping = 'trip_memberships'"
                " and w.key = array[m.trip_id::text, m.user_id::text])"
            ).fetchall()
        self.claims += clock != self._seen
        self._seen = clock
        # Before the search began, nothing was revoked.
        moment = self.clocks.get(clock, 0)
        late = {key for key in members if self.revoked.get(key, self.now + 1) < moment}
        assert not late, f"{late} were revoked before the target's moment {moment}, and read on"

    def _worker(self, batch_size: int) -> Drain:
        worker = self.make_drain(batch_size=batch_size, max_attempts=20, retry_seconds=0.001)
        source, target = worker.source, worker.target
        source._begin = self._hanging(source._begin)  # type: ignore[method-assign]
        source.look = self._hanging(source.look)  # type: ignore[method-assign]
        target._call = self._hanging(target._call)  # type: ignore[method-assign]
        target.step = self._timed(target.step)  # type: ignore[method-assign]
        # A step is due by then, and its calls may still come one by one.
        worker._stepping._now = lambda: 1.0
        return worker

    def _hanging(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def hang(*arguments: Any, **options: Any) -> Any:
            self._steps(self.random.choice([0, 0, 1, 3, 8]))
            answer = call(*arguments, **options)
            self._steps(self.random.choice([0, 0, 0, 3]))
            if self.left and self.random.random() < 0.02:
                raise Crash
            return answer

        return hang

    def _timed(self, step: Callable[..., str]) -> Callable[..., str]:
        def timed(*arguments: Any, **options: Any) -> str:
            began = self.tick()
            clock = step(*arguments, **options)
            # A clock that was set back may show a moment twice.
            self.clocks[clock] = min(began, self.clocks.get(clock, began))
            return clock

        return timed

    def _steps(self, steps: int) -> None:
        while steps and self.left:
            self.left -= 1
            steps -= 1
            actions = [self._work, self._write, self._poison, self._set_clock]
            action = self.random.choices(actions, [12, 6, 2, 1])[0]
            action()

    def _write(self) -> None:
        self.random.choice(self.writers).step()

    def _work(self) -> None:
        if not self.idle:
            return
        worker = self.idle.pop(self.random.randrange(len(self.idle)))
        try:
            with suppress(MirrorError):
                parts = ["once", "once", "retry", "step", "step", "call", "call", "call"]
                part = self.random.choice(parts)
                if part == "once":
                    worker.once()
                elif part == "retry":
                    worker._retry()
                else:
                    if worker._stepping._stepped_at is not None:
                        worker._stepping._stepped_at = 0.0
                    worker._stepping.step(working=True, whole=part == "step")
        except Crash:
            worker.close()
            worker = self._worker(worker.batch_size)
        self.idle.append(worker)

    def _set_clock(self) -> None:
        side = self.random.choice([self.primary, self.target])
        side.query("update public.skew set seconds = %s", self.random.uniform(-5, 5))

    def _poison(self) -> None:
        self.primary.query("update mirror.retries set due_at = now() where buried_at is null")
        if self.random.random() < 0.8:
            self.reader.execute("delete from poison")
        else:
            self.reader.execute("insert into poison values (%s)", [self.random.choice(USERS)])


class Writer:
    """Revokes and grants memberships in transactions of its own."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.connection = world.primary.connect(autocommit=False)
        # Only another writer can hold a lock, and it does not go on meanwhile.
        self.connection.execute("set lock_timeout = '5ms'")
        self.connection.commit()
        self.changes: dict[Key, bool] = {}
        """The keys that this transaction has changed, and whether it granted them last."""

    def step(self) -> None:
        """Make one change, or end the transaction."""
        choose = self.world.random.choices
        choose([self._revoke, self._revoke_all, self._grant, self._commit], [4, 2, 3, 3])[0]()

    def _key(self) -> Key:
        return self.world.random.choice(TRIPS), self.world.random.choice(USERS)

    def _revoke(self) -> None:
        self._delete(None, self._key(), "trip_id = %s and user_id = %s")

    def _revoke_all(self) -> None:
        self._delete("trip_id", (self.world.random.choice(TRIPS),), "trip_id = %s")

    def _delete(self, reference: str | None, key: tuple[str, ...], where: str) -> None:
        deleted = self._run(
            f"delete from trip_memberships where {where} returning trip_id::text, user_id::text",
            *key,
        )
        if deleted:
            self._record(0, reference, key)
            self.changes |= dict.fromkeys(deleted, False)

    def _grant(self) -> None:
        key = self._key()
        inserted = self._run(
            "insert into trip_memberships (trip_id, user_id, role, status)"
            " values (%s, %s, 'MEMBER', 'ACTIVE') on conflict do nothing"
            " returning trip_id::text, user_id::text",
            *key,
        )
        if inserted:
            self._record(1, None, key)
            self.changes[key] = True

    def _commit(self) -> None:
        self.connection.commit()
        moment = self.world.tick()
        for key, granted in self.changes.items():
            if granted:
                self.world.revoked.pop(key, None)
            else:
                self.world.revoked[key] = moment
        self.changes = {}

    def _run(self, statement: str, *values: str) -> list[Key]:
        try:
            return list(self.connection.execute(statement, values))
        except errors.LockNotAvailable:
            # Another writer holds the row. All changes are undone.
            self.connection.rollback()
            self.changes = {}
            return []

    def _record(self, lane: int, reference: str | None, key: tuple[str, ...]) -> None:
        self.connection.execute(
            "insert into mirror.outbox (lane, mapping, reference, key)"
            " values (%s, 'trip_memberships', %s, %s)",
            [lane, reference, list(key)],
        )


def search(
    seed: int,
    primary: TestDatabase,
    target: TestDatabase,
    make_drain: Callable[..., Drain],
    steps: int = 800,
) -> int:
    """Make random steps; return how often the target said that it is fresher than before."""
    target.query(_POISON)
    for side, function in ((target, "step"), (primary, "propose_step")):
        # Otherwise a search could make only one claim a second.
        rewrite(side, function, "interval '1 second'", "interval '1 microsecond'")
        side.query(_SKEW)
        rewrite(side, function, "clock_timestamp()", "public.skewed()")
    for user in USERS:
        primary.query("insert into users (id, username, email) values (%s, %s, %s)", *[user] * 3)
    for trip in TRIPS:
        primary.query(
            "insert into trips (id, name, created_by) values (%s, 'a', %s)", trip, USERS[0]
        )
    for name in ("users", "trips"):
        record(primary, name, reference="*", lane=1)
    make_drain().run()
    world = World(seed, primary, target, make_drain)
    try:
        world.run(steps)
    finally:
        world.close()
    return world.claims
