"""The target never says that it is fresher than it is."""

from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

from mirror.capture.outbox import Event, Lane
from mirror.errors import Transient
from mirror.sync.drain import Drain
from mirror.sync.freshness import Look, Marks
from tests.faults.freshness_search import TRIPS, USERS, search
from tests.faults.tools import record, rewrite
from tests.faults.withheld import Member, accesses
from tests.support.databases import TestDatabase


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


@pytest.fixture
def calls(
    primary: TestDatabase, make_drain: Callable[..., Drain], monkeypatch: pytest.MonkeyPatch
) -> tuple[Drain, list[str]]:
    """A worker that took its first step 1.5 s ago, and the calls of further steps."""
    worker = make_drain()
    worker.run()
    made: list[str] = []
    for side, name in (
        (worker.source, "propose_step"),
        (worker.source, "look"),
        (worker.target, "step"),
        (worker.source, "acknowledge_step"),
    ):
        call = getattr(side, name)

        def noted(*arguments: Any, name: str = name, call: Any = call) -> Any:
            made.append(name)
            return call(*arguments)

        monkeypatch.setattr(side, name, noted)
    worker._stepping._now = lambda: 1.5
    worker._stepping._stepped_at = 0.0
    return worker, made


STEP = ["propose_step", "look", "step", "acknowledge_step"]


def test_events_wait_for_one_call_of_a_step_at_a_time(
    primary: TestDatabase, target: TestDatabase, calls: tuple[Drain, list[str]]
) -> None:
    """Each drain of a busy worker makes one, and the step ends as a whole one does."""
    worker, made = calls
    target.query("update mirror.freshness set as_of = as_of - interval '2 seconds'")
    before = fresh(target)
    for number in range(len(STEP)):
        assert made == STEP[:number]
        record(primary, "users", USERS[number])
        assert worker.run(goes_on=True).events == 1
    assert made == STEP
    assert all(moment != before[name] for name, moment in fresh(target).items())
    record(primary, "users", USERS[0])
    worker.run(goes_on=True)
    worker.rest()
    assert made == STEP


def test_a_worker_that_rests_makes_the_calls_that_are_left(
    primary: TestDatabase, calls: tuple[Drain, list[str]]
) -> None:
    """No event may follow for hours."""
    worker, made = calls
    record(primary, "users", USERS[0])
    worker.run(goes_on=True)
    worker.rest()
    assert made == STEP


def test_with_few_events_a_step_is_a_whole_one(
    primary: TestDatabase, calls: tuple[Drain, list[str]]
) -> None:
    """Otherwise it would end late."""
    worker, made = calls
    worker._stepping._now = lambda: 2.0
    record(primary, "users", USERS[0])
    worker.run(goes_on=True)
    assert made == STEP


def test_a_backlog_keeps_no_step_away(
    primary: TestDatabase, calls: tuple[Drain, list[str]]
) -> None:
    """There is no pause between full batches."""
    worker, made = calls
    worker.batch_size = 1
    for user in USERS[:5]:
        record(primary, "users", user)
    worker.run(goes_on=True)
    assert made == STEP


def test_a_step_that_fails_in_the_middle_is_begun_anew(
    primary: TestDatabase,
    target: TestDatabase,
    calls: tuple[Drain, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Primary or target may be another one by then."""
    worker, made = calls
    record(primary, "users", USERS[0])
    worker.run(goes_on=True)
    with monkeypatch.context() as broken:
        broken.setattr(worker.source, "look", Mock(side_effect=Transient("away")))
        with pytest.raises(Transient):
            worker.rest()
    record(primary, "users", USERS[1])
    worker.run(goes_on=True)
    worker.rest()
    # The target's clock as well, because no answer of before counts.
    assert made == ["propose_step", "propose_step", "step", "look", "step", "acknowledge_step"]
