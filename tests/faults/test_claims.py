"""Each event is claimed by one worker, revocations first, and returns when its worker fails."""

import json
import time
from collections.abc import Callable
from math import inf
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.orm import Session

from mirror.capture.outbox import Event, Lane
from mirror.errors import Transient, Unreachable, WrongMapping
from mirror.sync.claims import Claim, Queue
from mirror.sync.connections import Database
from mirror.sync.deadlines import Connection
from mirror.sync.drain import Drain
from mirror.sync.retries import ClaimedEvent
from tests.faults.tools import Intercepted, Running, record, rewrite
from tests.support.claimed import claimed, suspected
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory


@pytest.fixture
def unmirrored_members(session: Session) -> list[tuple[str, str]]:
    """Sixty members of sixty trips in the primary; none is mirrored yet."""
    members = [MembershipFactory.create() for _ in range(60)]
    session.commit()
    return [(str(member.trip_id), str(member.user_id)) for member in members]


def outbox(primary: TestDatabase) -> int:
    """Return the number of waiting events."""
    return int(primary.value("select count(*) from mirror.outbox"))


def members(target: TestDatabase) -> int:
    """Return the number of members in the target."""
    return int(target.value("select count(*) from trip_memberships"))


def test_revocations_are_taken_first(
    primary: TestDatabase,
    make_drain: Callable[..., Drain],
    unmirrored_members: list[tuple[str, str]],
) -> None:
    """Earlier grants wait, however many they are."""
    for member in unmirrored_members[:20]:
        record(primary, "trip_memberships", *member, lane=1)
    for member in unmirrored_members[20:23]:
        record(primary, "trip_memberships", *member, lane=0)
    claim = make_drain().queue.claim(20)
    assert claim is not None
    # The claim takes few grants, so that no revocation waits for a whole batch of them.
    assert [event.lane for event in claim.events] == [0, 0, 0, 1, 1]
    assert [event.key for event in claim.events] == unmirrored_members[20:23] + unmirrored_members[
        :2
    ]
    assert claim.full
    claim.release()


def test_after_a_revocation_batches_are_small_for_some_seconds(
    primary: TestDatabase,
    make_drain: Callable[..., Drain],
    unmirrored_members: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next revocation waits for a batch that has begun; later, batches are full again."""
    for number, member in enumerate(unmirrored_members[:50]):
        record(primary, "trip_memberships", *member, lane=1 if number else 0)
    queue = make_drain().queue
    assert [len(taken(queue)) for _ in range(3)] == [3, 3, 3]
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 10)
    monkeypatch.setattr("mirror.sync.claims.time", later)
    assert len(taken(queue)) == 20


def test_many_revocations_are_taken_in_full_batches(
    primary: TestDatabase,
    make_drain: Callable[..., Drain],
    unmirrored_members: list[tuple[str, str]],
) -> None:
    """A small batch would be faster for one of them, and slower for all."""
    for number, member in enumerate(unmirrored_members):
        record(primary, "trip_memberships", *member, lane=1 if 10 <= number < 23 else 0)
    queue = make_drain().queue
    assert [len(taken(queue)) for _ in range(3)] == [20, 20, 9]
    # Seven revocations came last, with a tenth of a batch of grants; eleven grants are left.
    assert [len(taken(queue)) for _ in range(4)] == [3, 3, 3, 2]


def taken(queue: Queue) -> list[ClaimedEvent]:
    """Claim up to twenty events, and acknowledge them unread; return them."""
    claim = queue.claim(20)
    assert claim is not None
    events = claim.events
    claim.acknowledge()
    return events


def test_two_workers_take_different_events(
    primary: TestDatabase,
    make_drain: Callable[..., Drain],
    unmirrored_members: list[tuple[str, str]],
) -> None:
    """No worker waits for the other; a third worker finds no event."""
    for member in unmirrored_members[:10]:
        record(primary, "trip_memberships", *member)
    first, second = make_drain().queue.claim(5), make_drain().queue.claim(5)
    assert first is not None
    assert second is not None
    assert make_drain().queue.claim(5) is None
    assert not {event.id for event in first.events} & {event.id for event in second.events}
    first.release()
    second.release()


def test_several_workers_on_one_backlog_mirror_all_of_it(
    primary: TestDatabase,
    target: TestDatabase,
    make_drain: Callable[..., Drain],
    unmirrored_members: list[tuple[str, str]],
) -> None:
    """Each event is mirrored by one of the workers."""
    for member in unmirrored_members:
        record(primary, "trip_memberships", *member)
    workers = [Running(make_drain(batch_size=4).run) for _ in range(3)]
    assert sum(worker.wait().events for worker in workers) == 60
    assert members(target) == 60
    assert outbox(primary) == 0


def test_duplicates_become_one_write(
    primary: TestDatabase,
    target: TestDatabase,
    drain: Drain,
    unmirrored_members: list[tuple[str, str]],
) -> None:
    """Fifty events of one key cause one read and one write."""
    record(primary, "trip_memberships", *unmirrored_members[0])
    drain.run()
    primary.query("update trip_memberships set role = 'ADMIN'")
    for _ in range(50):
        record(primary, "trip_memberships", *unmirrored_members[0])
    drain.target = spy = Intercepted(drain.target)
    assert drain.run().events == 50
    ((section,),) = spy.calls
    rows, deleted = section.as_json()
    assert (len(json.loads(rows)), deleted) == (1, "[]")
    assert target.query("select role from trip_memberships") == [("ADMIN",)]


def test_events_are_given_back_when_the_target_is_away(
    primary: TestDatabase,
    target: TestDatabase,
    drain: Drain,
    unmirrored_members: list[tuple[str, str]],
) -> None:
    """They return unchanged, and no failure is counted."""
    for member in unmirrored_members[:3]:
        record(primary, "trip_memberships", *member)
    before = primary.query("select * from mirror.outbox order by id")

    def fail() -> None:
        raise Unreachable("target: away")

    # Twice, because a run tries once more with new connections.
    real = drain.target
    drain.target = Intercepted(Intercepted(real, before=fail), before=fail)
    with pytest.raises(Unreachable):
        drain.run()
    assert primary.query("select * from mirror.outbox order by id") == before
    assert (claimed(primary), suspected(primary)) == (0, 0)
    drain.target = real
    assert drain.run().failed == 0
    assert members(target) == 3


def test_while_the_target_is_away_one_event_is_claimed_at_a_time(
    primary: TestDatabase,
    target: TestDatabase,
    drain: Drain,
    unmirrored_members: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each claim is given back, which writes the row of each of its events anew."""
    for member in unmirrored_members[:5]:
        record(primary, "trip_memberships", *member)
    sizes: list[int] = []
    claim = drain.queue.claim

    def counting(*arguments: Any) -> Claim | None:
        claimed = claim(*arguments)
        sizes.append(0 if claimed is None else len(claimed))
        return claimed

    def fail() -> None:
        raise Unreachable("target: away")

    monkeypatch.setattr(drain.queue, "claim", counting)
    real = drain.target
    drain.target = Intercepted(Intercepted(real, before=fail), before=fail)
    with pytest.raises(Unreachable):
        drain.run()
    assert sizes == [5, 1]
    drain.target = real
    assert drain.run().events == 5
    assert sizes == [5, 1, 1, 4, 0]
    assert members(target) == 5


@pytest.mark.parametrize(
    ("mapping", "reference", "key"),
    [
        ("no_such_mapping", None, "{x}"),
        ("trip_memberships", None, "{}"),
        ("trip_memberships", None, "{not-a-uuid,neither}"),
        ("trip_memberships", None, "{null,null}"),
        ("trip_memberships", None, "{{a,b},{c,d}}"),
        ("trips", None, "{00000000-0000-0000-0000-000000000001,more}"),
        ("trip_memberships", "no_such_reference", "{x}"),
        ("trip_memberships", "trip_id", "{}"),
        ("trip_memberships", "trip_id", "{'; drop table users; --}"),
        ("trip_memberships", "trip_id", "{00000000-0000-0000-0000-000000000001,x}"),
        (
            "trip_memberships",
            "user_id",
            "{00000000-0000-0000-0000-000000000001,00000000-0000-0000-0000-000000000001}",
        ),
        ("trip_memberships", "*", "{x}"),
        ("trip_memberships", "*", "{x,y,z}"),
    ],
)
def test_a_malformed_event_is_set_apart_and_the_others_go_through(
    primary: TestDatabase,
    target: TestDatabase,
    drain: Drain,
    unmirrored_members: list[tuple[str, str]],
    mapping: str,
    reference: str | None,
    key: str,
) -> None:
    """A user wrote it with psql. It does not stop the mirror, and it is not lost."""
    for member in unmirrored_members[:3]:
        record(primary, "trip_memberships", *member)
    primary.query(
        "insert into mirror.outbox (mapping, reference, key) values (%s, %s, %s::text[])",
        mapping,
        reference,
        key,
    )
    for member in unmirrored_members[3:6]:
        record(primary, "trip_memberships", *member)
    assert drain.run().failed == 1
    assert members(target) == 6
    assert outbox(primary) == 0
    assert primary.query("select mapping, reference from mirror.retries") == [(mapping, reference)]


def give_the_target_a_newer_digest(target: TestDatabase) -> None:
    """Give the target a newer declaration than the worker's."""
    target.query("update mirror.mappings set digest = 'newer' where name = 'trip_memberships'")


def test_a_worker_with_older_declarations_is_refused(
    primary: TestDatabase,
    target: TestDatabase,
    drain: Drain,
    unmirrored_members: list[tuple[str, str]],
) -> None:
    """The error names the mapping, the events stay, and no row of the batch is written."""
    give_the_target_a_newer_digest(target)
    record(primary, "trip_memberships", *unmirrored_members[0])
    record(primary, "trips", unmirrored_members[0][0])
    with pytest.raises(WrongMapping, match=r"trip_memberships.*migrate"):
        drain.run()
    assert outbox(primary) == 2
    assert target.value("select (select count(*) from trips) + (select count(*) from users)") == 0


def test_a_scope_of_a_worker_with_older_declarations_is_refused(
    primary: TestDatabase,
    target: TestDatabase,
    drain: Drain,
    unmirrored_members: list[tuple[str, str]],
) -> None:
    """The worker would close a scope that it cannot read correctly."""
    give_the_target_a_newer_digest(target)
    record(primary, "trip_memberships", unmirrored_members[0][0], reference="trip_id")
    with pytest.raises(WrongMapping):
        drain.run()
    assert target.value("select count(*) from mirror.scopes") == 0


def test_without_digests_an_old_worker_undoes_a_new_mapping(
    primary: TestDatabase,
    target: TestDatabase,
    drain: Drain,
    unmirrored_members: list[tuple[str, str]],
) -> None:
    """The same steps without the rule."""
    rewrite(target, "admit", "if wrong is not null then", "if false then")
    give_the_target_a_newer_digest(target)
    record(primary, "trip_memberships", *unmirrored_members[0])
    drain.run()
    assert members(target) == 1


def test_a_member_who_does_not_exist_is_no_error(
    primary: TestDatabase, target: TestDatabase, drain: Drain
) -> None:
    """An event of a savepoint that was rolled back may name a key that never existed."""
    record(primary, "trip_memberships", uuid4(), uuid4())
    assert drain.run().failed == 0
    assert members(target) == 0


def test_an_event_is_mirrored_in_two_round_trips(
    primary: TestDatabase,
    target: TestDatabase,
    drain: Drain,
    unmirrored_members: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Claim and read, write. Between regions, a revocation waits for each round trip."""
    for trip, user in unmirrored_members[:2]:
        record(primary, "trip_memberships", trip, user)
        # The first run opens connections and mirrors the parents.
        drain.run()
        primary.query("update trip_memberships set role = 'ADMIN' where trip_id = %s", trip)
        record(primary, "trip_memberships", trip, user)
    calls: list[str] = []

    def counted(database: Database, name: str) -> None:
        call = getattr(database, name)

        def count(*arguments: Any, **options: Any) -> Any:
            calls.append(database.role)
            return call(*arguments, **options)

        monkeypatch.setattr(database, name, count)

    for database in (drain.queue.claims, drain.queue.beside, drain.source.database):
        counted(database, "execute")
        counted(database, "together")
    apply = drain.target.apply

    def last(*arguments: Any) -> Any:
        answer = apply(*arguments)
        calls.append("target")
        return answer

    monkeypatch.setattr(drain.target, "apply", last)
    assert drain.once().events == 1
    # The last call ends the claim.
    assert calls == ["primary", "target", "primary"]
    assert target.value("select count(*) from trip_memberships where role = 'ADMIN'") == 2


def test_a_drain_of_one_event_takes_four_round_trips(
    primary: TestDatabase,
    make_drain: Callable[..., Drain],
    unmirrored_members: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Claim and read, write; the commit with the next claim; and the end of that empty claim."""
    drain = make_drain()
    trip, user = unmirrored_members[0]
    for role in ("MEMBER", "ADMIN"):
        # The first run opens connections and mirrors the parents.
        drain.run()
        primary.query("update trip_memberships set role = %s where trip_id = %s", role, trip)
        record(primary, "trip_memberships", trip, user)
    # No step and no history in this drain.
    monkeypatch.setattr("mirror.sync.stepping._SECONDS", 3600.0)
    monkeypatch.setattr(drain.queue.history, "_write_after", inf)
    waits: list[Connection] = []
    wait = Connection.wait

    def counted(connection: Connection, *arguments: Any, **named: Any) -> Any:
        waits.append(connection)
        return wait(connection, *arguments, **named)

    monkeypatch.setattr(Connection, "wait", counted)
    assert drain.run().events == 1
    assert len(waits) == 4


@pytest.mark.parametrize("lost", ["connection", "process"])
def test_a_claim_whose_commit_was_left_for_later_waits_again_if_that_is_lost(
    primary: TestDatabase,
    make_drain: Callable[..., Drain],
    unmirrored_members: list[tuple[str, str]],
    lost: str,
) -> None:
    """Its worker is not taken for crashed."""
    for member in unmirrored_members[:3]:
        record(primary, "trip_memberships", *member)
    drain = make_drain(batch_size=1)
    assert drain.once(settle=False).events == 1
    if lost == "connection":
        primary.query(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where state = 'idle in transaction' and datname = current_database()"
        )
        with pytest.raises(Transient):
            drain.queue.claim(1)
    else:
        drain.close()
    assert outbox(primary) == 3
    assert make_drain().run().events == 3
    assert primary.query("select from mirror.retries") == []


def test_a_drain_that_ends_leaves_no_commit_for_later(
    primary: TestDatabase,
    make_drain: Callable[..., Drain],
    unmirrored_members: list[tuple[str, str]],
) -> None:
    """Not if it is stopped after its first batch either."""
    for member in unmirrored_members[:3]:
        record(primary, "trip_memberships", *member)
    make_drain(batch_size=1).run(stopping=lambda: True)
    assert outbox(primary) == 2
    assert (claimed(primary), suspected(primary)) == (0, 0)


def test_an_announcement_repeats_a_retry_that_is_under_way(
    primary: TestDatabase, make_drain: Callable[..., Drain]
) -> None:
    """It may have read before the change for which the scope is announced."""
    scope = Event(Lane.REVOCATION, "trip_memberships", (str(uuid4()),), "trip_id")
    queue = make_drain().queue
    primary.query(
        "insert into mirror.retries (id, lane, recorded_at, mapping, reference, key, attempts,"
        " due_at, error) values (1, 0, now(), 'trip_memberships', 'trip_id', %s, 1, now(), 'x')",
        list(scope.key),
    )
    leased = queue.lease_retry()
    assert leased is not None
    make_drain().queue.announce([scope])
    assert outbox(primary) == 0
    queue.complete_retry(leased)
    again = queue.lease_retry()
    assert again is not None
    assert (again.event.id, again.number) == (1, leased.number)
    queue.complete_retry(again)
    assert primary.value("select count(*) from mirror.retries") == 0


def test_an_announcement_is_not_lost_to_an_event_that_is_being_processed(
    primary: TestDatabase, make_drain: Callable[..., Drain]
) -> None:
    """Its worker may have read before. One that waits or is set apart is not repeated."""
    trip = str(uuid4())
    scope = Event(Lane.GRANT, "trip_memberships", (trip,), "trip_id")
    queue = make_drain().queue

    def announced() -> int:
        before = outbox(primary)
        queue.announce([scope])
        return outbox(primary) - before

    assert [announced(), announced()] == [1, 0]
    claim = make_drain().queue.claim(10)
    assert claim is not None
    assert [announced(), announced()] == [1, 0]
    claim.release()
    primary.query("delete from mirror.outbox")
    # Set apart, leased, buried: otherwise failing events would announce each other for ever.
    for state in ("0, null", "1, null", "0, now()"):
        primary.query(
            "insert into mirror.retries (id, lane, recorded_at, mapping, reference, key, attempts,"
            " due_at, error, deaths, buried_at) values (1, 1, now(), 'trip_memberships',"
            f" 'trip_id', array[%s], 1, now(), 'x', {state})",
            trip,
        )
        assert announced() == 0
        primary.query("delete from mirror.outbox; delete from mirror.retries")
