"""A key that may have lost access and can be neither read nor written grants nothing meanwhile."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Text, column, select, table
from sqlalchemy.orm import Session

from mappings.trips import registry as trips
from mirror.access import Membership
from mirror.capture.outbox import Lane
from mirror.devstack import PostgresCluster
from mirror.model.mapping import Column, Mapping, Parent
from mirror.model.registry import Registry
from mirror.schema.migrate import upgrade
from mirror.settings import load_settings
from mirror.sync.drain import Drain
from tests.faults.tools import HungWorker, record
from tests.support.databases import TestDatabase
from tests.support.drains import making_drains
from tests.support.factories import MembershipFactory
from tests.support.rest import ServeApi, both_transports

pytestmark = both_transports

Member = tuple[str, str]


@pytest.fixture
def members(session: Session, drain: Drain, primary: TestDatabase) -> list[Member]:
    """Three owners of one trip whom both sides know."""
    first = MembershipFactory.create(role="OWNER")
    others = MembershipFactory.create_batch(2, trip_id=first.trip_id, role="OWNER")
    session.commit()
    found = [(str(member.trip_id), str(member.user_id)) for member in (first, *others)]
    for member in found:
        record(primary, "trip_memberships", *member, lane=1)
    drain.run()
    return found


def has_access(target: TestDatabase, member: Member, noun: str = "trip") -> bool:
    """Return whether the target's helper says that the user is a member."""
    resource, user = member
    with target.acting_as(user) as connection:
        rows = connection.execute(f"select mirror.is_{noun}_member(%s)", [resource]).fetchall()
    answer: bool = rows[0][0]
    return answer


def accesses(target: TestDatabase, members: list[Member]) -> list[bool]:
    """Return for each member whether the user has access."""
    return [has_access(target, member) for member in members]


def retry(primary: TestDatabase, drain: Drain) -> None:
    """Make all events that are set apart due, and drain."""
    primary.query("update mirror.retries set due_at = now() where buried_at is null")
    drain.run()


def withheld(target: TestDatabase) -> list[tuple[str, str]]:
    """Return mapping and reason of each key that is withheld."""
    return target.query("select mapping, reason from mirror.withheld order by since")


def deactivate(primary: TestDatabase, member: Member) -> None:
    """End a membership, and record that."""
    primary.query("update trip_memberships set status = 'INACTIVE' where user_id = %s", member[1])
    record(primary, "trip_memberships", *member)


def refuse_inactive(target: TestDatabase) -> None:
    """Add a CHECK to the target that refuses the status INACTIVE."""
    target.query("alter table trip_memberships add check (status <> 'INACTIVE')")


def give_away(primary: TestDatabase, target: TestDatabase, member: Member) -> None:
    """Change the creator of a member's trip in a way that a CHECK in the target refuses."""
    trip, user = member
    target.query(f"alter table trips add constraint creator check (created_by <> '{user}')")
    primary.query("update trips set created_by = %s where id = %s", user, trip)
    record(primary, "trips", trip)


def test_a_revocation_that_cannot_be_written_ends_the_access(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member]
) -> None:
    """Somebody's CHECK refuses the new status. When the CHECK is gone, the row comes back."""
    refuse_inactive(target)
    deactivate(primary, members[0])
    drain.run()
    assert accesses(target, members) == [False, True, True]
    assert withheld(target) == [("trip_memberships", "Rejected")]
    assert primary.value("select withheld_at is not null from mirror.retries")

    target.query("alter table trip_memberships drop constraint trip_memberships_status_check")
    retry(primary, drain)
    assert withheld(target) == []
    assert target.value("select count(*) from trip_memberships where status = 'INACTIVE'") == 1
    assert primary.value("select count(*) from mirror.retries") == 0


def test_an_event_of_a_withheld_key_is_never_given_up(
    primary: TestDatabase,
    target: TestDatabase,
    make_drain: Callable[..., Drain],
    members: list[Member],
) -> None:
    """Its success is the way back."""
    refuse_inactive(target)
    deactivate(primary, members[0])
    drain = make_drain(max_attempts=1)
    for _ in range(3):
        retry(primary, drain)
    assert primary.query("select attempts > 1, buried_at from mirror.retries") == [(True, None)]
    assert not has_access(target, members[0])


def test_a_grant_that_cannot_be_written_changes_nothing(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member]
) -> None:
    """It cannot have taken access away."""
    refuse_inactive(target)
    primary.query("update trip_memberships set status = 'INACTIVE'")
    record(primary, "trip_memberships", *members[0], lane=int(Lane.GRANT))
    drain.run()
    assert accesses(target, members) == [True, True, True]
    assert withheld(target) == []


def test_a_name_that_cannot_be_written_becomes_null(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member]
) -> None:
    """Somebody's CHECK on a descriptive column must not throw out a trip and its members."""
    target.query("alter table trips add constraint short check (length(name) < 40)")
    primary.query("update trips set name = repeat('x', 50)")
    record(primary, "trips", members[0][0])
    drain.run()
    assert accesses(target, members) == [True, True, True]
    assert target.query("select name from trips") == [(None,)]
    primary.query("update trips set name = 'short'")
    retry(primary, drain)
    assert target.query("select name from trips") == [("short",)]


def test_two_people_who_swap_unique_addresses_both_arrive(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member]
) -> None:
    """Each of the two rows is refused as long as the other has the address."""
    one, other = members[0][1], members[1][1]
    target.query("alter table users add constraint addresses unique (email)")
    primary.query("alter table users drop constraint if exists users_email_key")
    primary.query(
        "update users as u set email = o.email from users as o"
        " where (u.id, o.id) in ((%s, %s), (%s, %s))",
        *(one, other, other, one),
    )
    record(primary, "users", one, lane=1)
    record(primary, "users", other, lane=1)
    drain.run()
    retry(primary, drain)
    assert primary.value("select count(*) from mirror.retries") == 0
    rows = "select id, email from users where id in (%s, %s) order by id"
    assert target.query(rows, one, other) == primary.query(rows, one, other)
    assert target.value("select count(*) from users where email is null") == 0


def test_a_withheld_parent_closes_its_children_and_keeps_their_rows(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member]
) -> None:
    """Once the parent can be written, all of them are back at once."""
    other = MembershipFactory.create()
    MembershipFactory._meta.sqlalchemy_session.commit()
    elsewhere = str(other.trip_id), str(other.user_id)
    record(primary, "trip_memberships", *elsewhere, lane=1)
    drain.run()
    give_away(primary, target, members[0])
    drain.run()
    assert accesses(target, [*members, elsewhere]) == [False, False, False, True]
    assert target.value("select count(*) from trip_memberships") == 4
    assert withheld(target) == [("trips", "Rejected")]
    target.query("alter table trips drop constraint creator")
    retry(primary, drain)
    assert accesses(target, members) == [True, True, True]


def test_a_row_that_cannot_be_deleted_grants_nothing(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member]
) -> None:
    """A trigger of somebody's raises for it; the mark alone closes it."""
    target.query(
        "create function keep() returns trigger language plpgsql as $$ begin"
        f" if old.user_id = '{members[0][1]}' then raise exception 'kept'; end if;"
        " return old; end $$;"
        " create trigger keep before delete on trip_memberships"
        " for each row execute function keep();"
    )
    primary.query("delete from trip_memberships where user_id = %s", members[0][1])
    record(primary, "trip_memberships", *members[0])
    drain.run()
    assert target.value("select count(*) from trip_memberships") == 3
    assert accesses(target, members) == [False, True, True]


def test_if_no_row_can_be_written_the_mapping_waits_and_no_key_is_withheld(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member]
) -> None:
    """Each write of the table fails: the keys are not at fault."""
    target.query(
        "create function refuse() returns trigger language plpgsql as"
        " 'begin raise exception ''no''; end';"
        " create trigger refuse before insert or update or delete on trip_memberships"
        " for each row execute function refuse()"
    )
    for member in members:
        deactivate(primary, member)
    drain.run()
    assert withheld(target) == []
    assert primary.query("select distinct parked, buried_at from mirror.retries") == [(True, None)]
    target.query("drop trigger refuse on trip_memberships")
    retry(primary, drain)
    retry(primary, drain)
    assert primary.value("select count(*) from mirror.retries") == 0
    assert accesses(target, members) == [False, False, False]


def test_no_more_keys_are_withheld_than_single_faults_explain(
    primary: TestDatabase, target: TestDatabase, drain: Drain, session: Session
) -> None:
    """Beyond the budget, keys stay as they are, and their events are never given up."""
    first = MembershipFactory.create(role="OWNER")
    more = MembershipFactory.create_batch(24, trip_id=first.trip_id, role="OWNER")
    session.commit()
    members = [(str(member.trip_id), str(member.user_id)) for member in (first, *more)]
    for member in members:
        record(primary, "trip_memberships", *member, lane=1)
    drain.run()
    refuse_inactive(target)
    for member in members[:23]:
        deactivate(primary, member)
    # The search for the events that fail has a limit; each is found when it is retried alone.
    for _ in range(3):
        retry(primary, drain)
    assert len(withheld(target)) == 20
    assert accesses(target, members).count(True) == 5
    assert primary.value("select count(*) from mirror.retries where buried_at is null") == 23
    assert primary.value("select count(*) from mirror.retries where error like '%too many%'") == 3


def test_an_older_write_does_not_open_a_withheld_key_again(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member]
) -> None:
    """A worker read the owner, and hung until after the revocation failed."""
    worker = HungWorker(drain.source, drain.target, trips, "trips", [(members[0][0],)])
    give_away(primary, target, members[0])
    drain.run()
    worker.wake()
    assert accesses(target, members) == [False, False, False]


def test_a_key_on_which_workers_crash_grants_nothing(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member]
) -> None:
    """Nothing is known about its row, so it is closed without another attempt to read it."""
    deactivate(primary, members[0])
    claim = drain.queue.claim(10)
    assert claim is not None
    (event,) = claim.events
    claim.release()
    primary.query("delete from mirror.outbox")
    drain.queue.retries.set_apart(event, attempts=0, error=None)
    primary.query("update mirror.retries set deaths = 5")
    drain.run()
    assert accesses(target, members) == [False, True, True]
    assert withheld(target) == [("trip_memberships", "crash")]


@pytest.mark.parametrize("lane", [0, 1])
def test_a_large_parent_is_closed_before_its_children_are_removed(
    primary: TestDatabase,
    target: TestDatabase,
    drain: Drain,
    members: list[Member],
    lane: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its access ends in the call that finds it deleted; between the pages, other events go on."""
    trip = members[0][0]
    primary.query(
        "with u as (insert into users (id, email, username)"
        " select gen_random_uuid(), n || '@example.com', n from generate_series(1, 2100) as n"
        " returning id)"
        " insert into trip_memberships (trip_id, user_id, role, status)"
        " select %s, id, 'OWNER', 'ACTIVE' from u",
        trip,
    )
    record(primary, "trip_memberships", trip, reference="trip_id", lane=1)
    while drain.run().full:
        pass
    assert target.value("select count(*) from trip_memberships") == 2103

    monkeypatch.setattr("mirror.sync.syncer._WITHDRAWAL_SECONDS", 0.0)
    primary.query("update trips set deleted_at = now()")
    record(primary, "trips", trip, lane=lane)
    drain.once()
    assert target.value("select count(*) from trip_memberships") > 1000
    assert accesses(target, members) == [False, False, False]
    assert withheld(target) == [("trips", "withdrawing")]
    drain.run()
    assert target.value("select count(*) from trip_memberships") == 0
    assert target.value("select count(*) from trips") == 0
    assert withheld(target) == []
    assert primary.value("select count(*) from mirror.retries") == 0


def test_a_parent_that_returns_during_its_withdrawal_brings_no_earlier_child_back(
    primary: TestDatabase,
    target: TestDatabase,
    drain: Drain,
    members: list[Member],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The trip was deleted with its members, and created again with one of them."""
    trip = members[0][0]
    monkeypatch.setattr("mirror.sync.syncer._WITHDRAWAL_SECONDS", 0.0)
    _make_large(target, trip)
    primary.query("delete from trip_memberships; update trips set deleted_at = now()")
    record(primary, "trips", trip)
    drain.once()
    assert withheld(target) == [("trips", "withdrawing")]

    primary.query(
        "insert into trip_memberships (trip_id, user_id, role, status)"
        " values (%s, %s, 'MEMBER', 'ACTIVE')",
        *members[1],
    )
    primary.query("update trips set deleted_at = null")
    # The continuation of the withdrawal comes later than the event of the trip.
    waiting = primary.query("delete from mirror.outbox returning lane, mapping, reference, key")
    record(primary, "trips", trip, lane=1)
    drain.once()
    assert accesses(target, members)[0] is False
    for lane, mapping, reference, key in waiting:
        record(primary, mapping, *key, reference=reference, lane=lane)
    for _ in range(20):
        drain.once()
        assert accesses(target, members)[0] is False
    assert accesses(target, members) == [False, True, False]
    assert withheld(target) == []
    assert target.value("select count(*) from trip_memberships") == 1


def _make_large(target: TestDatabase, trip: str) -> None:
    """Give a trip 2,100 members more, in the target alone."""
    target.query(
        "with u as (insert into users (id) select gen_random_uuid() from generate_series(1, 2100)"
        " returning id), l as (insert into mirror.ledger_users (id, epoch, fence, present,"
        " applied_at) select id, 0, 1, true, now() from u), m as (insert into"
        " mirror.ledger_trip_memberships (trip_id, user_id, epoch, fence, present, applied_at)"
        " select %s, id, 0, 1, true, now() from u)"
        " insert into trip_memberships select %s, id, 'MEMBER', 'ACTIVE' from u",
        trip,
        trip,
    )


def test_a_revoked_scope_on_which_a_worker_crashed_is_replaced_by_events_of_its_keys(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member]
) -> None:
    """Its retry fails for one row; the other members' revocations do not wait for that."""
    refuse_inactive(target)
    deactivate(primary, members[0])
    primary.query("delete from mirror.outbox")
    primary.query("delete from trip_memberships where user_id = %s", members[1][1])
    record(primary, "trip_memberships", members[0][0], reference="trip_id")
    claim = drain.queue.claim(10)
    assert claim is not None
    (event,) = claim.events
    claim.release()
    primary.query("delete from mirror.outbox")
    drain.queue.retries.set_apart(event, attempts=0, error=None)
    drain.run()
    assert accesses(target, members) == [False, False, True]


# Rows that cannot be read: the trips model casts nothing.

PRIMARY = """
create table rooms (id text primary key, building text);
create table guests (
  room text, person uuid, level text, rank integer, primary key (room, person)
);
create table buildings (id text primary key);
"""
_rooms = table("rooms", column("id", Text), column("building", Text))
_guests = table("guests", *(column(name, Text) for name in ("room", "person", "level", "rank")))
_buildings = table("buildings", column("id", Text))

hotel = Registry(
    "hotel",
    [
        Mapping(
            name="buildings",
            table="buildings",
            key=("id",),
            columns=(Column("id", "text"),),
            query=select(_buildings.c.id),
        ),
        Mapping(
            name="rooms",
            table="rooms",
            key=("id",),
            columns=(Column("id", "text"), Column("building", "text")),
            query=select(_rooms.c.id, _rooms.c.building),
            parents=(Parent("buildings", "building"),),
        ),
        Mapping(
            name="guests",
            table="guests",
            key=("room", "person"),
            columns=(
                Column("room", "text"),
                Column("person", "uuid"),
                Column("level", "text"),
                Column("rank", "smallint"),
            ),
            query=select(_guests),
            parents=(Parent("rooms", "room"),),
        ),
    ],
    access=[
        Membership(
            mapping="guests",
            resource="room",
            user="person",
            role="level",
            levels=("GUEST",),
            noun="room",
        )
    ],
)
ANN = "00000000-0000-0000-0000-00000000000a"
BEN = "00000000-0000-0000-0000-00000000000b"


@pytest.fixture
def house(primary_cluster: PostgresCluster) -> Iterator[TestDatabase]:
    """A primary with a room in a building, and two guests of the room."""
    primary_cluster.create_database("house")
    database = TestDatabase(primary_cluster.url("house"))
    database.query(PRIMARY)
    with database.migrating() as connection:
        upgrade(connection)
    database.query(
        "insert into buildings values ('b'); insert into rooms values ('r', 'b');"
        f" insert into guests values ('r', '{ANN}', 'GUEST', 1), ('r', '{BEN}', 'GUEST', 1)"
    )
    yield database
    primary_cluster.drop_database("house")


@pytest.fixture
def hotel_target(project: TestDatabase) -> TestDatabase:
    """A Supabase project with the hotel's model."""
    with project.migrating() as connection:
        upgrade(connection, "supabase", hotel)
    return project


@pytest.fixture
def hotel_drain(
    transport: str, serve_api: ServeApi, house: TestDatabase, hotel_target: TestDatabase
) -> Iterator[Drain]:
    """A worker that has mirrored the hotel."""
    settings = load_settings(primary_database_url=house.url, supabase_db_url=hotel_target.url)
    if transport == "rest":
        api = serve_api(hotel_target)
        settings = load_settings(
            primary_database_url=house.url,
            supabase_url=api.url,
            supabase_secret_key=api.secret_key,
        )
    with making_drains(settings, hotel) as make:
        drain = make()
        record(house, "guests", "r", ANN, lane=1)
        record(house, "guests", "r", BEN, lane=1)
        drain.run()
        yield drain


def guests(target: TestDatabase) -> list[bool]:
    """Return whether Ann and Ben are guests of the room."""
    return [has_access(target, ("r", guest), "room") for guest in (ANN, BEN)]


def test_a_revocation_that_cannot_be_read_ends_the_access(
    house: TestDatabase, hotel_target: TestDatabase, hotel_drain: Drain
) -> None:
    """One UPDATE takes the level away and makes the rank too large for its type."""
    assert guests(hotel_target) == [True, True]
    house.query("update guests set level = null, rank = 70000 where person = %s", ANN)
    record(house, "guests", "r", ANN)
    hotel_drain.run()
    assert guests(hotel_target) == [False, True]
    assert withheld(hotel_target) == [("guests", "Rejected")]
    house.query("update guests set rank = 1")
    retry(house, hotel_drain)
    assert hotel_target.value("select count(*) from guests") == 2
    assert withheld(hotel_target) == []


def test_if_no_key_can_be_read_the_mapping_waits(
    house: TestDatabase, hotel_target: TestDatabase, hotel_drain: Drain
) -> None:
    """All keys fail alike, so no key is withheld; also grants are never given up."""
    house.query("update guests set rank = 70000")
    record(house, "guests", "r", ANN)
    record(house, "guests", "r", BEN, lane=1)
    for _ in range(6):
        retry(house, hotel_drain)
    assert guests(hotel_target) == [True, True]
    assert house.query("select distinct parked, buried_at from mirror.retries") == [(True, None)]
    house.query("update guests set rank = 2")
    retry(house, hotel_drain)
    retry(house, hotel_drain)
    assert house.value("select count(*) from mirror.retries") == 0
    assert hotel_target.query("select distinct rank from guests") == [(2,)]


def test_a_withheld_building_closes_its_rooms(
    house: TestDatabase, hotel_target: TestDatabase, hotel_drain: Drain
) -> None:
    """Helpers look at all ancestors of a row, not at its parents alone."""
    hotel_target.query("insert into mirror.withheld values ('buildings', '{b}', 'x', now(), 0, 0)")
    assert guests(hotel_target) == [False, False]
    record(house, "buildings", "b", lane=1)
    hotel_drain.run()
    assert guests(hotel_target) == [True, True]


def test_a_scope_that_cannot_be_listed_reaches_the_rows_that_the_target_has(
    house: TestDatabase, hotel_target: TestDatabase, hotel_drain: Drain
) -> None:
    """Only there can be too much: the one bad row must not hide the other's revocation."""
    house.query("update guests set rank = 70000 where person = %s", ANN)
    house.query("update guests set level = null where person = %s", BEN)
    record(house, "guests", "r", reference="room")
    hotel_drain.run()
    assert guests(hotel_target) == [False, False]
    assert withheld(hotel_target) == [("guests", "Rejected")]


# Writes that a trigger of somebody's alters


def install(target: TestDatabase, body: str, table: str = "trip_memberships") -> None:
    """Install a BEFORE trigger with this body on a mirrored table."""
    target.query(
        f"create function meddle() returns trigger language plpgsql as $$ begin {body} end $$;"
        f" create trigger meddle before insert or update or delete on {table}"
        " for each row execute function meddle()"
    )


@pytest.mark.parametrize(
    "body",
    [
        "if tg_op = 'UPDATE' then return null; end if; return new;",
        "if tg_op = 'UPDATE' then new.status = 'ACTIVE'; end if; return new;",
        "if tg_op = 'UPDATE' then return old; end if; return new;",
    ],
)
def test_a_trigger_that_alters_a_revocation_does_not_keep_the_access(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member], body: str
) -> None:
    """The target looks at what it wrote, and withholds the key until the trigger is gone."""
    install(target, body)
    deactivate(primary, members[0])
    drain.run()
    assert accesses(target, members) == [False, True, True]
    assert "trigger or a rule" in primary.value("select error from mirror.retries")
    target.query("drop trigger meddle on trip_memberships")
    retry(primary, drain)
    assert target.value("select count(*) from trip_memberships where status = 'INACTIVE'") == 1


def test_a_trigger_that_keeps_a_deleted_row_does_not_keep_the_access(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member]
) -> None:
    """It drops the DELETE without an error."""
    install(target, "if tg_op = 'DELETE' then return null; end if; return new;")
    primary.query("delete from trip_memberships where user_id = %s", members[0][1])
    record(primary, "trip_memberships", *members[0])
    drain.run()
    assert target.value("select count(*) from trip_memberships") == 3
    assert accesses(target, members) == [False, True, True]


def test_a_trigger_that_changes_nothing_is_no_fault(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member]
) -> None:
    """Such as one that keeps a history elsewhere."""
    install(target, "if tg_op = 'DELETE' then return old; end if; return new;")
    deactivate(primary, members[0])
    assert drain.run().failed == 0
    primary.query("delete from trip_memberships where user_id = %s", members[1][1])
    record(primary, "trip_memberships", *members[1])
    assert drain.run().failed == 0
    assert accesses(target, members) == [False, False, True]


def test_a_name_that_a_trigger_rewrites_becomes_null(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member]
) -> None:
    """Otherwise it would be repaired by every reconcile and never be true."""
    install(target, "new.name = lower(new.name); return new;", "trips")
    primary.query("update trips set name = 'ROME'")
    record(primary, "trips", members[0][0])
    drain.run()
    assert accesses(target, members) == [True, True, True]
    assert target.query("select name from trips") == [(None,)]


# A fault is not taken for somebody else's


def test_a_childs_row_that_cannot_be_read_is_not_blamed_on_its_parent(
    house: TestDatabase, hotel_target: TestDatabase, hotel_drain: Drain
) -> None:
    """The event of a room looks at its guests, too. One of them is odd; the other one stays."""
    house.query("update guests set level = null, rank = 70000 where person = %s", ANN)
    record(house, "rooms", "r")
    hotel_drain.run()
    assert guests(hotel_target) == [False, True]
    assert withheld(hotel_target) == [("guests", "Rejected")]


def test_a_value_that_no_cast_supports_does_not_hide_the_rest_of_its_scope(
    house: TestDatabase, hotel_target: TestDatabase, hotel_drain: Drain
) -> None:
    """PostgreSQL reports NaN as an integer like a missing feature, not like a wrong value."""
    house.query("alter table guests alter rank type numeric")
    house.query("update guests set rank = 'NaN' where person = %s", ANN)
    house.query("update guests set level = null where person = %s", BEN)
    record(house, "guests", "r", reference="room")
    hotel_drain.run()
    assert guests(hotel_target)[1] is False


def test_a_column_that_no_row_can_be_written_without_is_the_mappings_fault(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member]
) -> None:
    """Somebody added it, and gave the rows that were there a value: an UPDATE of them works."""
    target.query(
        "alter table trip_memberships add note text;"
        " update trip_memberships set note = 'x' where true;"
        " alter table trip_memberships alter note set not null"
    )
    for member in members:
        deactivate(primary, member)
    drain.run()
    assert withheld(target) == []
    assert primary.query("select distinct parked from mirror.retries") == [(True,)]


def test_a_parent_that_is_mended_by_a_grant_brings_no_earlier_child_back(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member]
) -> None:
    """It was deleted with its members, and created again with a value that is refused."""
    primary.query("delete from trip_memberships where user_id = %s", members[0][1])
    give_away(primary, target, members[0])
    drain.run()
    assert withheld(target) == [("trips", "Rejected")]
    target.query("alter table trips drop constraint creator")
    record(primary, "trips", members[0][0], lane=1)
    drain.once()
    assert withheld(target) == []
    assert accesses(target, members) == [False, True, True]


def test_a_whole_mapping_of_which_a_row_is_odd_stays_set_apart(
    house: TestDatabase, hotel_target: TestDatabase, hotel_drain: Drain
) -> None:
    """The primary could not list its keys: rows that only it has are not there yet."""
    house.query("update guests set rank = 70000 where person = %s", ANN)
    house.query("delete from guests where person = %s", BEN)
    house.query("insert into guests values ('r', gen_random_uuid(), 'GUEST', 1)")
    record(house, "guests", reference="*")
    hotel_drain.run()
    assert guests(hotel_target)[1] is False
    assert house.value("select count(*) from mirror.retries where reference = '*'") == 1
    house.query("update guests set rank = 1")
    retry(house, hotel_drain)
    assert hotel_target.value("select count(*) from guests") == 2


def test_one_retry_stands_for_all_events_of_a_mapping_that_cannot_be_read(
    house: TestDatabase, hotel_target: TestDatabase, hotel_drain: Drain
) -> None:
    """Otherwise thousands of them would fail again and again, in front of other events."""
    house.query("alter table guests rename column rank to place")
    record(house, "guests", "r", ANN)
    hotel_drain.run()
    record(house, "guests", "r", BEN)
    hotel_drain.run()
    late = "select due_at > now() + interval '1 year' from mirror.retries order by id"
    assert house.query(late) == [(False,), (True,)]
    house.query("alter table guests rename column place to rank")
    house.query("update guests set level = null")
    house.query(
        "update mirror.retries set due_at = now() where id = (select min(id) from mirror.retries)"
    )
    hotel_drain.run()
    assert house.value("select count(*) from mirror.retries") == 0
    assert guests(hotel_target) == [False, False]
