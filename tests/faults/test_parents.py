"""A deleted parent takes its children along, and brings them when it comes back."""

from collections.abc import Callable
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb
from sqlalchemy.orm import Session

from examples.trip_chat import services
from mirror import hooks
from mirror.errors import Unreachable
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.sync.drain import Drain
from mirror.sync.row_queries import BoundQuery, Row
from mirror.sync.snapshot import Snapshot
from tests.faults import teams
from tests.faults.tools import (
    DirectWriter,
    HungWorker,
    Intercepted,
    Running,
    record,
    rewrite,
    waiting,
)
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory, TripFactory, UserFactory
from tests.support.rest import both_transports
from tests.support.waiting import until

pytestmark = both_transports


USER, TRIP = str(uuid4()), str(uuid4())
MEMBER = (TRIP, USER)
ROW = (TRIP, USER, "OWNER", "ACTIVE")


def parents(writer: DirectWriter, fence: int) -> None:
    """Write the trip and the user."""
    writer.apply(fence, users={USER: (USER, "e", "n")}, trips={TRIP: (TRIP, "t", USER)})


def members(target: TestDatabase) -> int:
    """Return the number of members in the target."""
    return int(target.value("select count(*) from trip_memberships"))


# Deleted parents


def delete_and_undelete(writer: DirectWriter) -> None:
    """Delete a trip at 20 and restore it at 30 without its member; then write the member of 10."""
    parents(writer, 1)
    writer.apply(5, trip_memberships={MEMBER: ROW})
    writer.apply(20, trips={TRIP: None})
    parents(writer, 30)
    writer.apply(10, trip_memberships={MEMBER: ROW})


def test_children_go_with_their_parent_and_leave_tombstones_at_its_fence(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """An older read of a child is refused."""
    delete_and_undelete(writer)
    assert members(target) == 0


def test_children_are_found_by_a_column_that_only_the_mirrored_table_indexes(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """A row that was deleted by hand is not found; it grants nothing."""
    other = str(uuid4())
    parents(writer, 1)
    writer.apply(5, trips={other: (other, "t", USER)})
    writer.apply(6, trip_memberships={MEMBER: ROW, (other, USER): (other, *ROW[1:])})
    target.query("delete from trip_memberships where trip_id = %s", other)
    writer.apply(20, users={USER: None})
    assert members(target) == 0
    known = "select trip_id::text, present, fence from mirror.ledger_trip_memberships"
    assert set(target.query(known)) == {(TRIP, False, 20), (other, True, 6)}
    writer.apply(21, users={USER: (USER, "e", "n")})
    stale = writer.apply(10, trip_memberships={MEMBER: ROW, (other, USER): (other, *ROW[1:])})
    assert stale
    assert members(target) == 0


def test_without_these_tombstones_a_hung_write_brings_a_child_back(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """The same steps without the rule, and without the closed scope, which has the same effect."""
    rewrite(
        target,
        "withdraw",
        "fence = case when l.epoch = $1 then greatest(l.fence, $2) else $2 end",
        "fence = l.fence",
    )
    rewrite(
        target,
        "withdraw",
        "from jsonb_array_elements(p_keys) as k",
        "from jsonb_array_elements(p_keys) as k where false",
    )
    delete_and_undelete(writer)
    assert members(target) == 1


def delete_a_trip_whose_member_is_unknown(writer: DirectWriter) -> None:
    """The member was read at 10, and did not arrive before the trip was deleted and restored."""
    parents(writer, 1)
    writer.apply(20, trips={TRIP: None})
    parents(writer, 30)
    writer.apply(10, trip_memberships={MEMBER: ROW})


def test_a_child_that_the_target_never_had_stays_out_too(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """It has no tombstone, but the deletion of its parent closed its scope."""
    delete_a_trip_whose_member_is_unknown(writer)
    assert members(target) == 0


def test_without_closing_the_scope_an_unknown_child_comes_in(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """The same steps without the rule."""
    rewrite(
        target,
        "withdraw",
        "from jsonb_array_elements(p_keys) as k",
        "from jsonb_array_elements(p_keys) as k where false",
    )
    delete_a_trip_whose_member_is_unknown(writer)
    assert members(target) == 1


def test_a_parent_that_the_target_never_had_closes_its_scope_too(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """It was created and deleted before a drain ran."""
    writer.apply(20, trips={TRIP: None})
    parents(writer, 30)
    writer.apply(10, trip_memberships={MEMBER: ROW})
    assert members(target) == 0


def test_a_deleted_creator_takes_neither_the_trip_nor_its_members_along(
    session: Session, drain: Drain, target: TestDatabase
) -> None:
    """`created_by` describes the trip; it is not the trip's parent."""
    creator, guest = UserFactory.create(), UserFactory.create()
    session.flush()
    trip = services.create_trip(session, creator.id, "Lisbon")
    services.invite(session, trip.id, guest.id)
    services.accept_invitation(session, trip.id, guest.id)
    hooks.user_created(session, guest.id)
    hooks.user_created(session, creator.id)
    session.commit()
    drain.run()
    services.delete_user(session, creator.id)
    session.commit()
    drain.run()
    assert target.query("select user_id from trip_memberships") == [(guest.id,)]


# Restored parents


@pytest.fixture
def trip_and_users(session: Session, drain: Drain) -> tuple[str, list[str]]:
    """A trip with thirty members, all mirrored: the trip's id and the users' ids."""
    trip = TripFactory.create()
    members = [MembershipFactory.create(trip=trip) for _ in range(30)]
    session.flush()
    for member in members:
        hooks.member_added(session, member.trip_id, member.user_id)
    session.commit()
    drain.run()
    return str(trip.id), [str(member.user_id) for member in members]


def test_undeleting_a_trip_brings_its_members_back(
    session: Session, drain: Drain, target: TestDatabase, trip_and_users: tuple[str, list[str]]
) -> None:
    """Only the trip has an event; its members are read as a scope in the same drain."""
    trip = UUID(trip_and_users[0])
    services.delete_trip(session, trip)
    session.commit()
    drain.run()
    assert members(target) == 0
    services.restore_trip(session, trip)
    session.commit()
    drain.run()
    assert members(target) == 30


def test_a_trip_of_more_members_than_a_batch_comes_back_with_all_of_them(
    session: Session,
    make_drain: Callable[..., Drain],
    target: TestDatabase,
    trip_and_users: tuple[str, list[str]],
) -> None:
    """Events for the remaining members are recorded before the trip is written."""
    drain = make_drain(batch_size=3)
    services.delete_trip(session, UUID(trip_and_users[0]))
    session.commit()
    drain.run()
    services.restore_trip(session, UUID(trip_and_users[0]))
    session.commit()
    drain.run()
    assert members(target) == 30


def fail_after_the_first_call(drain: Drain) -> None:
    """Let the drain lose its target after the first call that changed rows."""

    def fail() -> None:
        raise Unreachable("target: the test took it away")

    target = drain.target
    drain.target = Intercepted(target, after=fail)
    with pytest.raises(Unreachable):
        drain.once()
    drain.target = target


@pytest.mark.parametrize("batch_size", [3, 500])
def test_members_come_back_though_the_worker_died_in_between(
    session: Session,
    make_drain: Callable[..., Drain],
    target: TestDatabase,
    trip_and_users: tuple[str, list[str]],
    batch_size: int,
) -> None:
    """The event is delivered again, and no call was applied in part."""
    drain = make_drain(batch_size=batch_size)
    services.delete_trip(session, UUID(trip_and_users[0]))
    session.commit()
    drain.run()
    services.restore_trip(session, UUID(trip_and_users[0]))
    session.commit()
    fail_after_the_first_call(drain)
    drain.run()
    assert members(target) == 30


def test_a_parent_written_alone_loses_its_children_when_its_worker_dies(
    session: Session, drain: Drain, target: TestDatabase, trip_and_users: tuple[str, list[str]]
) -> None:
    """The same steps without the rule: at the second delivery the trip is not new any more."""
    rewrite(target, "apply_trips", "k.present and not k.was_present and not k.whole", "false")
    services.delete_trip(session, UUID(trip_and_users[0]))
    session.commit()
    drain.run()
    services.restore_trip(session, UUID(trip_and_users[0]))
    session.commit()
    fail_after_the_first_call(drain)
    drain.run()
    assert members(target) == 0


def test_a_trip_that_is_deleted_and_created_again_does_not_keep_its_old_members(
    primary: TestDatabase, drain: Drain, target: TestDatabase, trip_and_users: tuple[str, list[str]]
) -> None:
    """The cascade recorded no event for them, and no worker saw the trip absent."""
    trip, users = trip_and_users
    primary.query("delete from trips where id = %s", trip)
    primary.query("insert into trips (id, name, created_by) values (%s, 'new', %s)", trip, users[0])
    record(primary, "trips", trip)
    drain.run()
    assert members(target) == 0


def test_a_member_read_before_the_trip_was_created_again_stays_out(
    primary: TestDatabase, drain: Drain, target: TestDatabase, trip_and_users: tuple[str, list[str]]
) -> None:
    """This holds for a member that the target does not know yet, too."""
    trip, users = trip_and_users
    guest = str(uuid4())
    primary.query("insert into users (id, email, username) values (%s, 'g', 'g')", guest)
    record(primary, "users", guest)
    drain.run()
    primary.query("insert into trip_memberships values (%s, %s, 'OWNER', 'ACTIVE')", trip, guest)
    worker = HungWorker(
        drain.source, drain.target, drain.registry, "trip_memberships", [(trip, guest)]
    )
    primary.query("delete from trips where id = %s", trip)
    primary.query("insert into trips (id, name, created_by) values (%s, 'new', %s)", trip, users[0])
    record(primary, "trips", trip)
    drain.run()
    assert worker.wake() == [(trip, guest)]
    assert members(target) == 0


# Missing parents


def test_a_child_whose_parents_are_missing_brings_them(
    session: Session, drain: Drain, target: TestDatabase
) -> None:
    """Only the membership has an event; those of the trip and the user come later."""
    membership = MembershipFactory.create()
    session.flush()
    hooks.member_added(session, membership.trip_id, membership.user_id)
    session.commit()
    assert drain.run().failed == 0
    assert members(target) == 1


@pytest.mark.parametrize("recorded", ["users", "trip_memberships"])
def test_many_new_parents_are_read_together(
    session: Session,
    primary: TestDatabase,
    target: TestDatabase,
    drain: Drain,
    monkeypatch: pytest.MonkeyPatch,
    recorded: str,
) -> None:
    """Events come about them, or about their children. A query for each would take too long."""
    trip = TripFactory()
    made = MembershipFactory.create_batch(30, trip=trip)
    session.commit()
    for member in made:
        key = [member.user_id] if recorded == "users" else [trip.id, member.user_id]
        record(primary, recorded, *key, lane=1)
    queries: list[str] = []
    read = Snapshot._read

    def counting(snapshot: Snapshot, mapping: Mapping, query: BoundQuery) -> dict[Key, Row]:
        queries.append(mapping.name)
        return read(snapshot, mapping, query)

    monkeypatch.setattr(Snapshot, "_read", counting)
    drain.run()
    assert members(target) == 30
    assert len(queries) < 15, queries


def test_a_child_of_a_deleted_parent_is_skipped_and_is_no_error(
    session: Session, drain: Drain, target: TestDatabase, primary: TestDatabase
) -> None:
    """It is written when its trip is restored."""
    membership = MembershipFactory.create()
    session.flush()
    services.delete_trip(session, membership.trip_id)
    hooks.member_added(session, membership.trip_id, membership.user_id)
    session.commit()
    assert drain.run().failed == 0
    assert members(target) == 0
    services.restore_trip(session, membership.trip_id)
    session.commit()
    drain.run()
    assert members(target) == 1
    assert primary.value("select count(*) from mirror.outbox") == 0


def test_a_row_that_moves_under_a_missing_parent_leaves_the_old_one(
    teams_primary: TestDatabase, teams_target: TestDatabase, teams_drain: Drain
) -> None:
    """Otherwise users who see the old folder still see the document."""
    teams_primary.query("insert into folders values (1, 'a', false), (2, 'b', true)")
    teams_primary.query("insert into documents values (5, 1, 'secret')")
    record(teams_primary, "documents", 5)
    teams_drain.run()
    assert teams_target.query("select id, folder_id from documents") == [(5, 1)]
    teams_primary.query("update documents set folder_id = 2")
    record(teams_primary, "documents", 5)
    teams_drain.run()
    assert teams_target.query("select id from documents") == []
    teams_primary.query("update folders set deleted = false")
    record(teams_primary, "folders", 2, lane=1)
    teams_drain.run()
    assert teams_target.query("select id, folder_id from documents") == [(5, 2)]


# Parents that a foreign key holds back


@pytest.fixture(params=["", "deferrable initially deferred"])
def pinned(
    request: pytest.FixtureRequest, writer: DirectWriter, target: TestDatabase
) -> tuple[str, str]:
    """Two trips with a member each; a table outside the mirror refers to the first trip."""
    other = str(uuid4())
    parents(writer, 1)
    writer.apply(2, trips={other: (other, "u", USER)})
    writer.apply(5, trip_memberships={MEMBER: ROW, (other, USER): (other, *ROW[1:])})
    target.query(f"create table albums (trip_id uuid references trips {request.param})")
    target.query("insert into albums values (%s)", TRIP)
    return TRIP, other


def test_a_parent_that_is_held_back_loses_its_children_and_its_content(
    writer: DirectWriter, target: TestDatabase, pinned: tuple[str, str]
) -> None:
    """Its bare key stays for the table that refers to it; the children and other columns go."""
    answer = writer.apply(20, trips=dict.fromkeys(pinned))["trips"]
    assert answer.retained == {"trips": [(TRIP,)]}
    assert members(target) == 0
    assert target.query("select id::text, name, created_by from trips") == [(TRIP, None, None)]


def test_an_unhandled_foreign_key_would_stop_the_revocation(
    writer: DirectWriter, target: TestDatabase, pinned: tuple[str, str]
) -> None:
    """The same steps without the rule: the call fails, and the members stay."""
    rewrite(
        target,
        "withdraw",
        "foreign_key_violation or restrict_violation",
        "division_by_zero",
    )
    with pytest.raises(Exception, match="albums"):
        writer.apply(20, trips=dict.fromkeys(pinned))
    assert members(target) == 2


def test_a_parent_that_is_held_back_counts_as_absent(
    writer: DirectWriter, target: TestDatabase, pinned: tuple[str, str]
) -> None:
    """Its foreign key would admit a member; old and new reads of the member stay out."""
    writer.apply(20, trips={TRIP: None})
    assert writer.apply(10, trip_memberships={MEMBER: ROW})["trip_memberships"].stale == [MEMBER]
    assert writer.apply(20, trip_memberships={MEMBER: ROW})["trip_memberships"].orphans == [MEMBER]
    assert writer.apply(30, trip_memberships={MEMBER: ROW})["trip_memberships"].orphans == [MEMBER]
    assert target.query("select trip_id::text from trip_memberships") == [(pinned[1],)]


def test_a_foreign_key_alone_would_let_children_of_a_held_back_parent_in(
    writer: DirectWriter, target: TestDatabase, pinned: tuple[str, str]
) -> None:
    """The same steps without the rule: the row exists, so the foreign key is satisfied."""
    rewrite(
        target,
        "apply_trip_memberships",
        "where p.id = k.trip_id and p.present",
        "where p.id = k.trip_id",
    )
    writer.apply(20, trips={TRIP: None})
    writer.apply(30, trip_memberships={MEMBER: ROW})
    assert members(target) == 2


def test_a_parent_that_was_held_back_comes_back_with_its_content(
    writer: DirectWriter, target: TestDatabase, pinned: tuple[str, str]
) -> None:
    """Its members can follow."""
    writer.apply(20, trips={TRIP: None})
    assert writer.apply(30, alone=True, trips={TRIP: (TRIP, "t", USER)})["trips"].new_parents == [
        (TRIP,)
    ]
    writer.apply(30, trips={TRIP: (TRIP, "t", USER)}, trip_memberships={MEMBER: ROW})
    assert target.value("select name from trips where id = %s", TRIP) == "t"
    assert members(target) == 2


# Parents and children at the same time


def go_during_a_childs_write(writer: DirectWriter, target: TestDatabase, *, waits: bool) -> None:
    """Withdraw a folder, which a foreign key holds back, during a write of its document."""
    writer.apply(1, folders={1: ("1", "a")})
    target.query("create table pins (folder_id bigint references folders)")
    target.query("insert into pins values (1)")
    digest = teams.registry["documents"].digest
    request = (
        '{"identity": "a primary", "epoch": 0, "fence": 10, "sections": [{"mapping": "documents",'
        f' "digest": "{digest}", "rows": [["5", "1", "secret"]], "gone": []}}]}}'
    )
    other = DirectWriter.at(target.url, writer.registry)
    with target.connect(autocommit=False) as writing:
        writing.execute("select public.mirror_apply(%s)", [request])
        going = Running(lambda: other.apply(20, folders={1: None}))
        if waits:
            until(lambda: waiting(target))
        else:
            until(lambda: going.ended or waiting(target))
        writing.commit()
    try:
        going.wait()
    finally:
        other.target.close()


def test_a_parent_waits_for_the_writes_of_its_children(
    teams_writer: DirectWriter, teams_target: TestDatabase
) -> None:
    """Otherwise its deletion would not see them."""
    go_during_a_childs_write(teams_writer, teams_target, waits=True)
    assert teams_target.query("select id from documents") == []


def test_without_that_lock_a_child_outlives_its_parent(
    teams_writer: DirectWriter, teams_target: TestDatabase
) -> None:
    """The same steps without the rule."""
    rewrite(teams_target, "apply", "where m.is_parent and", "where false and")
    go_during_a_childs_write(teams_writer, teams_target, waits=False)
    assert teams_target.query("select id from documents") == [(5,)]


def test_several_workers_write_a_trip_and_its_members_at_once(
    session: Session, make_drain: Callable[..., Drain], target: TestDatabase, primary: TestDatabase
) -> None:
    """Each worker has some of the members. No worker fails, and all members are mirrored."""
    trip = TripFactory.create()
    joined = [MembershipFactory.create(trip=trip) for _ in range(40)]
    session.flush()
    for member in joined:
        hooks.member_added(session, member.trip_id, member.user_id)
    session.commit()
    workers = [Running(make_drain(batch_size=4).run) for _ in range(3)]
    for worker in workers:
        assert worker.wait().failed == 0
    assert members(target) == 40
    assert primary.value("select count(*) from mirror.retries") == 0


def test_deleting_a_trip_and_writing_its_members_never_deadlock(
    writer: DirectWriter, target: TestDatabase
) -> None:
    """One worker deletes and restores the trip; two others write its members."""
    parents(writer, 1)
    users = [str(uuid4()) for _ in range(20)]
    writer.apply(2, users={user: (user, "e", "n") for user in users})

    def delete_and_restore() -> None:
        worker = DirectWriter.at(target.url, writer.registry)
        for fence in range(10, 60):
            worker.apply(fence, trips={TRIP: None if fence % 2 else (TRIP, "t", USER)})
        worker.target.close()

    def join(first: int) -> None:
        worker = DirectWriter.at(target.url, writer.registry)
        for fence in range(10 + first, 60, 2):
            rows = {(TRIP, user): (TRIP, user, "MEMBER", "ACTIVE") for user in users}
            worker.apply(fence, trip_memberships=rows)
        worker.target.close()

    calls: list[Callable[[], None]] = [delete_and_restore, lambda: join(0), lambda: join(1)]
    for running in [Running(call) for call in calls]:
        try:
            running.wait()
        except psycopg.errors.DeadlockDetected:
            pytest.fail("deadlock")
    assert members(target) == 0, "at 59 the trip was gone"


def test_a_parent_deleted_by_hand_is_written_again_with_its_child(
    session: Session, drain: Drain, recorder: hooks.Hooks, target: TestDatabase
) -> None:
    """All of its children return: no event named those that the foreign key's cascade deleted."""
    trip = TripFactory()
    first, _second = MembershipFactory.create_batch(2, trip=trip)
    recorder.scope_changed(session, "trip_memberships", trip_id=trip.id)
    session.commit()
    drain.run()
    target.query("delete from trips")
    assert members(target) == 0
    session.connection()
    recorder.changed(session, "trip_memberships", (trip.id, first.user_id))
    session.commit()
    assert drain.run().failed == 0
    assert members(target) == 2


# Migrations


@pytest.mark.parametrize("setting", ["", "true"])
def test_a_call_that_began_before_a_migration_leaves_no_row_of_a_deleted_parent(
    setting: str, writer: DirectWriter, target: TestDatabase
) -> None:
    """Its `mirror.apply` is of an earlier version and leaves rows that are gone to this function.

    Those of a leaf it deletes; the rest it refuses, so that the worker tries again.
    """
    parents(writer, 1)
    writer.apply(5, trip_memberships={MEMBER: ROW})
    (epoch,) = target.query("select epoch from mirror.state")[0]
    call = "select mirror.apply_{}(%s, 20, '[]', %s)"
    with target.connect(autocommit=False) as connection:
        connection.execute("select set_config('mirror.withdraws', %s, true)", [setting])
        connection.execute(call.format("trip_memberships").encode(), [epoch, Jsonb([MEMBER])])
        count = connection.execute("select count(*) from trip_memberships").fetchone()
        assert count == (0,)
        if setting:
            connection.execute(call.format("trips").encode(), [epoch, Jsonb([[TRIP]])])
        else:
            with pytest.raises(psycopg.errors.SerializationFailure, match="was migrated"):
                connection.execute(call.format("trips").encode(), [epoch, Jsonb([[TRIP]])])
