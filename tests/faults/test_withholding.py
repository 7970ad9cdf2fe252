"""A key that may have lost access and cannot be written grants nothing meanwhile."""

from collections.abc import Callable
from dataclasses import replace

from sqlalchemy.orm import Session

from mappings.trips import registry as trips
from mirror.capture.outbox import Lane
from mirror.model.mapping import Readable
from mirror.model.registry import Registry
from mirror.schema.migrate import upgrade
from mirror.sync.drain import Drain
from tests.faults.tools import HungWorker, record
from tests.faults.withheld import (
    Member,
    accesses,
    deactivate,
    give_away,
    refuse_inactive,
    retry,
    withheld,
)
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory
from tests.support.reconciling import Reconciling
from tests.support.rest import both_transports

pytestmark = both_transports(rest="long")


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
    assert accesses(target, members)[0] is False


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
    # So it does not hold back how fresh the mapping is.
    assert primary.value("select withheld_at is not null from mirror.retries")
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


def test_a_parent_on_which_workers_crashed_brings_no_earlier_child_back(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member]
) -> None:
    """Another event of it opens it again, but its children may have gone with it before."""
    primary.query("delete from trip_memberships where user_id = %s", members[0][1])
    record(primary, "trips", members[0][0])
    claim = drain.queue.claim(10)
    assert claim is not None
    (event,) = claim.events
    claim.release()
    primary.query("delete from mirror.outbox")
    drain.queue.retries.set_apart(event, attempts=0, error=None)
    primary.query("update mirror.retries set deaths = 5")
    drain.run()
    assert withheld(target) == [("trips", "crash")]
    record(primary, "trips", members[0][0], lane=1)
    drain.run()
    assert withheld(target) == []
    assert accesses(target, members) == [False, True, True]


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


def test_a_parent_that_waited_for_its_mapping_brings_no_earlier_child_back(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member]
) -> None:
    """Its first own attempt is the one after the mapping was mended."""
    primary.query("alter table trips rename to absent")
    primary.query("delete from trip_memberships where user_id = %s", members[0][1])
    record(primary, "trips", members[0][0])
    drain.run()
    assert primary.query("select parked, attempts from mirror.retries") == [(True, 1)]
    primary.query("alter table absent rename to trips")
    primary.query("delete from mirror.outbox")
    give_away(primary, target, members[0])
    primary.query("delete from mirror.outbox")
    drain.close()
    drain._parked.clear()
    retry(primary, drain)
    assert withheld(target) == [("trips", "Rejected")]
    target.query("alter table trips drop constraint creator")
    record(primary, "trips", members[0][0], lane=1)
    drain.once()
    assert accesses(target, members) == [False, True, True]


def test_a_withheld_parents_own_row_is_not_shown_either(
    primary: TestDatabase, target: TestDatabase, drain: Drain, members: list[Member]
) -> None:
    """A `readable` condition of a user's may call no helper; here it shows every trip."""
    shown_to_all = [replace(each, readable=Readable(each.key, "true")) for each in trips]
    with target.migrating() as connection:
        upgrade(connection, "supabase", Registry("trips", shown_to_all, access=trips.access))

    def shown(table: str) -> int:
        with target.acting_as(members[1][1]) as client:
            return int(client.execute(f"select count(*) from {table}").fetchall()[0][0])

    assert (shown("trips"), shown("trip_memberships")) == (1, 3)
    give_away(primary, target, members[0])
    drain.run()
    assert withheld(target) == [("trips", "Rejected")]
    assert (shown("trips"), shown("trip_memberships")) == (0, 0)
    target.query("alter table trips drop constraint creator")
    retry(primary, drain)
    assert (shown("trips"), shown("trip_memberships")) == (1, 3)


# A reconcile


def test_a_reconcile_counts_withheld_keys_apart(
    primary: TestDatabase,
    target: TestDatabase,
    drain: Drain,
    members: list[Member],
    reconcile: Reconciling,
) -> None:
    """They are neither drift nor a change that will soon be there."""
    reconcile()
    verified = drain.target.describe().verified
    refuse_inactive(target)
    deactivate(primary, members[0])
    give_away(primary, target, members[0])
    drain.run()
    report = reconcile()
    assert [(part.withheld, part.in_flight) for part in report.mappings] == [(0, 0), (1, 0), (1, 0)]
    assert (report.outcome, drain.target.describe().verified) == ("in line", verified)


def test_a_reconcile_brings_back_keys_whose_event_was_discarded(
    primary: TestDatabase,
    target: TestDatabase,
    drain: Drain,
    members: list[Member],
    reconcile: Reconciling,
) -> None:
    """Of a parent the row is equal on both sides, and of a deleted key neither side has one."""
    reconcile()
    refuse_inactive(target)
    deactivate(primary, members[0])
    deactivate(primary, members[1])
    give_away(primary, target, members[0])
    drain.run()
    assert len(withheld(target)) == 3
    primary.query("delete from mirror.retries")
    primary.query("update trips set created_by = %s", members[1][1])
    target.query("alter table trips drop constraint creator")
    target.query("update trips set created_by = %s", members[1][1])
    primary.query("delete from trip_memberships where user_id = %s", members[1][1])
    target.query("alter table trip_memberships drop constraint trip_memberships_status_check")
    report = reconcile()
    assert [part.causes for part in report.mappings] == [{}, {"withheld": 1}, {"withheld": 2}]
    assert (report.outcome, withheld(target)) == ("repaired", [])
    assert accesses(target, members) == [False, False, True]
    assert target.value("select count(*) from trip_memberships") == 2
