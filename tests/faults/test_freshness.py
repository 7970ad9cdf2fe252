"""The target never says that it is fresher than it is.

Writers with long and short transactions, two workers that hang, crash and retry, clocks that are
set forwards and back on both sides, and rows that the target refuses for a while. All run in one
thread: whenever a worker hangs, the others go on. So the order of all steps follows from the seed.
"""

from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any, Final
from uuid import UUID

import pytest
from psycopg import errors

from mirror.capture.outbox import Event, Lane
from mirror.errors import MirrorError
from mirror.sync.drain import Drain
from mirror.sync.freshness import Look, Marks
from tests.faults.tools import record, rewrite
from tests.faults.withheld import Member, accesses
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
        worker._stepping._now = lambda: float(self.tick() * 1000)
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
                part = self.random.choice(["once", "once", "retry", "step", "step", "step"])
                if part == "once":
                    worker.once()
                elif part == "retry":
                    worker._retry()
                else:
                    worker._stepping.step(working=True)
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


@pytest.mark.parametrize("seed", [3, 5])
def test_a_revocation_before_the_targets_moment_is_in_force(
    primary: TestDatabase, target: TestDatabase, make_drain: Callable[..., Drain], seed: int
) -> None:
    """After each step, for every revocation that committed before the moment was read."""
    assert search(seed, primary, target, make_drain) > 3


def forget_origins(primary: TestDatabase, target: TestDatabase) -> None:
    """Let what continues an event be an event of its own."""
    primary.query(
        "create function forget() returns trigger language plpgsql as"
        " 'begin new.origin = null; return new; end';"
        "create trigger forget before insert on mirror.outbox"
        " for each row execute function forget()"
    )


def ignore_the_outbox(primary: TestDatabase, target: TestDatabase) -> None:
    """Look at the retries alone."""
    rewrite(primary, "look", "where o.lane = 0 and o.transaction_id >= p_floor", "where false")


def test_the_search_notices_a_look_that_overlooks_something(
    primary: TestDatabase, target: TestDatabase, make_drain: Callable[..., Drain]
) -> None:
    """The same steps without one clause of the rule."""
    ignore_the_outbox(primary, target)
    with pytest.raises(AssertionError, match="read on"):
        search(3, primary, target, make_drain, steps=3_000)


def test_the_search_notices_marks_that_count_whatever_waits(
    primary: TestDatabase,
    target: TestDatabase,
    make_drain: Callable[..., Drain],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The newest mark, although an event waits that is older."""

    def fresh(self: Marks, clock: str, look: Look, mappings: list[str]) -> dict[str, str]:
        return dict.fromkeys(mappings, clock)

    monkeypatch.setattr(Marks, "fresh", fresh)
    with pytest.raises(AssertionError, match="read on"):
        search(3, primary, target, make_drain, steps=3_000)


def fresh(target: TestDatabase) -> dict[str, str]:
    """Return as of which moment each mapping is fresh."""
    return dict(target.query("select mapping, as_of::text from mirror.freshness"))


def step(primary: TestDatabase, target: TestDatabase, worker: Drain) -> set[str]:
    """Take a step, as if a second had passed; return the mappings that are fresher than before."""
    target.query("update mirror.freshness set as_of = as_of - interval '2 seconds'")
    before = fresh(target)
    worker._stepping._stepped_at = None
    worker._stepping.step(working=True)
    return {name for name, moment in fresh(target).items() if moment != before.get(name)}


def set_apart(primary: TestDatabase, state: str = "") -> None:
    """Add a revocation that was set apart, with values for further columns."""
    primary.query(
        "insert into mirror.retries (id, transaction_id, lane, recorded_at, mapping, key, attempts,"
        " due_at, error) values (-1, 5, 0, now(), 'trips', '{x}', 1, 'infinity', 'x')"
    )
    if state:
        primary.query(f"update mirror.retries set {state}")


EVERY = {"users", "trips", "trip_memberships"}


def test_an_idle_pair_is_fresh(primary: TestDatabase, target: TestDatabase, drain: Drain) -> None:
    """As of the look."""
    assert step(primary, target, drain) == EVERY
    assert target.value("select max(now() - as_of) < '10 seconds' from mirror.freshness")


@pytest.mark.parametrize("state", ["", "parked = true", "buried_at = now()"])
def test_a_revocation_that_was_set_apart_holds_its_mapping_back(
    primary: TestDatabase, target: TestDatabase, drain: Drain, state: str
) -> None:
    """Also one that is parked or buried; the other mappings go on."""
    set_apart(primary, state)
    assert step(primary, target, drain) == EVERY - {"trips"}


def test_a_look_finds_the_oldest_of_each_mapping(primary: TestDatabase, drain: Drain) -> None:
    """It goes from mapping to mapping, because one may have any number of events."""
    primary.query(
        "insert into mirror.retries (id, transaction_id, origin, lane, recorded_at, mapping, key,"
        " attempts, due_at, error) select -row_number() over (), transaction_id, origin, 0, now(),"
        " mapping, '{x}', 1, now(), 'x' from (values ('trips', 9, 7), ('trips', 8, null),"
        " ('users', 5, 2), ('trip_memberships', 4, null), ('users', 3, null)"
        ") as v (mapping, transaction_id, origin)"
    )
    assert drain.source.look(0).retries == {"trips": 7, "users": 2, "trip_memberships": 4}


@pytest.mark.parametrize("state", ["withheld_at = now()", "lane = 1"])
def test_what_grants_nothing_meanwhile_holds_nothing_back(
    primary: TestDatabase, target: TestDatabase, drain: Drain, state: str
) -> None:
    """A key that the target withholds, and a grant that is late."""
    set_apart(primary, state)
    assert step(primary, target, drain) == EVERY


def test_a_claimed_revocation_still_waits(
    primary: TestDatabase, target: TestDatabase, make_drain: Callable[..., Drain]
) -> None:
    """Until the claim commits."""
    one, other = make_drain(), make_drain()
    assert step(primary, target, other) == EVERY
    record(primary, "users", USERS[0])
    claim = one.queue.claim(10)
    assert claim is not None
    # The present mark does not count; the one from before the event does.
    moment = target.value("select now()")
    step(primary, target, other)
    assert target.value("select max(as_of) < %s from mirror.freshness", moment)
    claim.acknowledge()
    assert step(primary, target, other) == EVERY


@pytest.mark.parametrize("forgotten", [False, True])
def test_the_rest_of_a_scope_waits_since_its_beginning(
    primary: TestDatabase,
    target: TestDatabase,
    make_drain: Callable[..., Drain],
    members: list[Member],
    *,
    forgotten: bool,
) -> None:
    """Without origins, it would count from the transaction that recorded it."""
    if forgotten:
        forget_origins(primary, target)
    worker = make_drain(batch_size=1)
    primary.query("delete from trip_memberships")
    record(primary, "trip_memberships", members[0][0], reference="trip_id")
    moment = target.value("select clock_timestamp()")
    step(primary, target, worker)
    worker.once()
    assert accesses(target, members).count(True) == 2
    step(primary, target, worker)
    covered = target.value("select bool_or(as_of > %s) from mirror.freshness", moment)
    assert covered is forgotten


def test_an_announcement_that_waits_already_waits_for_more(
    primary: TestDatabase, target: TestDatabase, drain: Drain
) -> None:
    """It continues the older of the two changes."""
    drain.queue._origin = 900
    scope = Event(Lane.REVOCATION, "trip_memberships", (TRIPS[0],), "trip_id")
    drain.queue.announce([scope])
    drain.queue._origin = 700
    drain.queue.announce([scope])
    drain.queue._origin = 800
    drain.queue.announce([scope])
    assert primary.query("select origin from mirror.outbox") == [(700,)]


def test_a_revocation_is_not_left_to_a_grant_that_waits(
    primary: TestDatabase, target: TestDatabase, drain: Drain
) -> None:
    """A look does not see grants."""
    scope = (TRIPS[0],)
    drain.queue.announce([Event(Lane.GRANT, "trip_memberships", scope, "trip_id")])
    drain.queue.announce([Event(Lane.REVOCATION, "trip_memberships", scope, "trip_id")])
    assert primary.query("select lane from mirror.outbox order by lane") == [(0,), (1,)]


def test_what_commits_after_the_look_is_not_covered(
    primary: TestDatabase, target: TestDatabase, drain: Drain
) -> None:
    """The target's clock was read before the look."""
    look = drain.source.look
    moments = []

    def late(floor: int) -> Look:
        found = look(floor)
        record(primary, "users", USERS[0])
        moments.append(target.value("select now()"))
        return found

    drain.source.look = late  # type: ignore[method-assign]
    assert step(primary, target, drain) == EVERY
    assert target.value("select max(as_of) < %s from mirror.freshness", moments[0])


def test_a_worker_without_work_looks_at_each_ring_of_beat(
    primary: TestDatabase, target: TestDatabase, make_drain: Callable[..., Drain]
) -> None:
    """Its last look was a little after the last ring, so the next one comes a little too early."""
    worker = make_drain(fresh_seconds=20.0)
    worker._stepping._now = lambda: 0.0
    worker.run()
    target.query("update mirror.freshness set as_of = as_of - interval '20 seconds'")
    worker._stepping._now = lambda: 19.9
    worker.run()
    assert target.value("select min(as_of) > now() - interval '15 seconds' from mirror.freshness")
