"""Rows that decide by their keys alone: what is left of them or their parents grants nothing."""

from collections.abc import Iterator
from dataclasses import replace
from uuid import uuid4

import pytest
from sqlalchemy import select

from mirror.access import Membership
from mirror.devstack import PostgresCluster
from mirror.diagnostics.explain import StepStatus, question_about
from mirror.diagnostics.explain.permission import explain_resource
from mirror.errors import MirrorError
from mirror.model.registry import Registry
from mirror.reconcile import Options, Throttle, reconcile, sweep
from mirror.schema.migrate import upgrade
from mirror.settings import load_settings
from mirror.sync.drain import Drain
from tests.faults.rooms import PRIMARY, registry
from tests.faults.tools import record
from tests.faults.withheld import Member, has_access, retry, withheld
from tests.support.databases import TestDatabase, primary_with
from tests.support.drains import making_drains

ROOM = str(uuid4())
GUEST, HOST = (ROOM, str(uuid4())), (ROOM, str(uuid4()))


@pytest.fixture
def primary(primary_cluster: PostgresCluster) -> Iterator[TestDatabase]:
    """A primary with a room, a guest and a host."""
    with primary_with(primary_cluster, "rooms", PRIMARY) as database:
        database.query("insert into rooms values (%s)", ROOM)
        database.query("insert into guests values (%s, %s, 'vegan')", *GUEST)
        database.query("insert into hosts values (%s, %s)", *HOST)
        database.query("insert into passes values (%s, null)", GUEST[1])
        yield database


@pytest.fixture
def target(project: TestDatabase) -> TestDatabase:
    """A Supabase project with the model `rooms`."""
    with project.migrating() as connection:
        upgrade(connection, "supabase", registry)
    return project


@pytest.fixture
def drain(primary: TestDatabase, target: TestDatabase) -> Iterator[Drain]:
    """A worker that has mirrored the room, the guest and the host."""
    urls = {"primary_database_url": primary.url, "supabase_db_url": target.url}
    with making_drains(load_settings(**urls), registry) as make:
        drain = make()
        for mapping, key in (("guests", GUEST), ("hosts", HOST), ("passes", GUEST[1:])):
            record(primary, mapping, *key)
        assert drain.run().failed == 0
        assert has_access(target, GUEST, "room")
        assert has_access(target, HOST, "room")
        yield drain


def reconciled(drain: Drain) -> str:
    """Reconcile; return the outcome."""
    throttle = Throttle(drain.queue.beside, backlog=10**9, latency_seconds=60)
    return reconcile(drain, Options(grace_seconds=0), throttle).outcome


def remove(primary: TestDatabase, drain: Drain, mapping: str, member: Member) -> None:
    """Delete a member from the primary, and mirror that."""
    primary.query(f"delete from {mapping} where user_id = %s", member[1])
    record(primary, mapping, *member)
    assert drain.run().failed == 0


def test_a_retained_row_that_has_only_a_key_grants_nothing(
    primary: TestDatabase, target: TestDatabase, drain: Drain
) -> None:
    """The ledger has it as absent; when it returns, it grants again."""
    remove(primary, drain, "hosts", HOST)
    assert target.value("select count(*) from hosts") == 1
    assert not has_access(target, HOST, "room")
    assert reconciled(drain) == "in line"
    primary.query("insert into hosts values (%s, %s)", *HOST)
    record(primary, "hosts", *HOST)
    drain.run()
    assert has_access(target, HOST, "room")


def test_a_row_that_a_foreign_key_holds_back_grants_nothing(
    primary: TestDatabase, target: TestDatabase, drain: Drain
) -> None:
    """None of the columns that became NULL decides about access."""
    target.query(
        "create table meals (room_id uuid, user_id uuid,"
        " foreign key (room_id, user_id) references guests);"
    )
    target.query("insert into meals values (%s, %s)", *GUEST)
    remove(primary, drain, "guests", GUEST)
    assert target.query("select note from guests") == [(None,)]
    assert not has_access(target, GUEST, "room")
    assert reconciled(drain) == "in line"


@pytest.mark.parametrize("change", ["renamed", "deletes", "without its note"])
def test_what_is_left_of_a_row_grants_nothing_after_a_change_of_the_model(
    primary: TestDatabase, target: TestDatabase, drain: Drain, change: str
) -> None:
    """The mapping gets another name, deletes what is gone from now on, or loses a column."""
    target.query(
        "create table meals (room_id uuid, user_id uuid,"
        " foreign key (room_id, user_id) references guests);"
    )
    target.query("insert into meals values (%s, %s)", *GUEST)
    other = (ROOM, str(uuid4()))
    primary.query("insert into guests values (%s, %s)", *other)
    record(primary, "guests", *other)
    remove(primary, drain, "guests", GUEST)
    remove(primary, drain, "hosts", HOST)
    with target.migrating() as connection:
        upgrade(connection, "supabase", changed(change))
    assert not has_access(target, GUEST, "room")
    assert not has_access(target, HOST, "room")
    assert has_access(target, other, "room")


def test_a_row_that_went_under_another_name_is_absent_when_the_first_name_returns(
    primary: TestDatabase, target: TestDatabase, drain: Drain
) -> None:
    """The ledger of the first name is still there, and has the row as present."""
    with target.migrating() as connection:
        upgrade(connection, "supabase", changed("renamed"))
    target.query("update mirror.ledger_owners set present = false")
    with target.migrating() as connection:
        upgrade(connection, "supabase", registry)
    assert target.value("select count(*) from hosts") == 1
    assert not has_access(target, HOST, "room")
    assert has_access(target, GUEST, "room")


def test_two_mappings_that_swap_their_names_swap_their_marks(
    target: TestDatabase, drain: Drain
) -> None:
    """A key of the same spelling is withheld in both."""
    for mapping in ("guests", "hosts"):
        target.query(
            "insert into mirror.withheld (mapping, key, reason, epoch, fence)"
            " values (%s, %s, %s, 0, 0)",
            mapping,
            list(GUEST),
            mapping,
        )
    with target.migrating() as connection:
        upgrade(connection, "supabase", changed("swapped"))
    marks = target.query("select mapping, reason from mirror.withheld order by 1")
    assert marks == [("guests", "hosts"), ("hosts", "guests")]


def changed(change: str) -> Registry:
    """Return the model after a change."""
    rooms, guests, hosts, passes = (registry[n] for n in ("rooms", "guests", "hosts", "passes"))
    membership = registry.access[0]
    assert isinstance(membership, Membership)
    if change == "renamed":
        guests, hosts = replace(guests, name="visitors"), replace(hosts, name="owners")
        seats = (replace(membership.also[0], mapping="owners"),)
        membership = replace(membership, mapping="visitors", also=seats)
    elif change == "swapped":
        guests, hosts = replace(guests, name="hosts"), replace(hosts, name="guests")
        seats = (replace(membership.also[0], mapping="guests"),)
        membership = replace(membership, mapping="hosts", also=seats)
    elif change == "deletes":
        hosts = replace(hosts, on_delete="delete")
    else:
        query = select(*(guests.query.selected_columns[name] for name in guests.key))
        guests = replace(guests, columns=guests.columns[:2], query=query)
    mappings = [replace(each, children=()) for each in (rooms, guests, hosts, passes)]
    return Registry("rooms", mappings, access=[membership])


@pytest.mark.parametrize("mapping", ["guests", "hosts"])
def test_what_is_left_of_a_row_is_still_known_after_a_purge(
    primary: TestDatabase, target: TestDatabase, drain: Drain, mapping: str
) -> None:
    """Otherwise a reconcile would take it for a row that somebody wrote by hand."""
    member = {"guests": GUEST, "hosts": HOST}[mapping]
    other = (ROOM, str(uuid4()))
    primary.query("insert into guests values (%s, %s)", *other)
    record(primary, "guests", *other)
    drain.run()
    target.query("create table kept (room_id uuid, user_id uuid)")
    target.query("insert into kept values (%s, %s)", *member)
    target.query(f"alter table kept add foreign key (room_id, user_id) references {mapping}")
    remove(primary, drain, mapping, member)
    remove(primary, drain, "guests", other)
    target.query(f"update mirror.ledger_{mapping} set applied_at = now() - interval '8 days'")
    target.query("update mirror.ledger_guests set applied_at = now() - interval '8 days'")
    assert drain.target.purge(7) == 1
    assert drain.target.purge(7) == 0
    assert target.value(f"select count(*) from mirror.ledger_{mapping} where not present") == 1
    assert not has_access(target, member, "room")
    assert reconciled(drain) == "in line"


def test_members_of_a_room_that_has_ended_lose_access_without_a_worker(
    primary: TestDatabase, target: TestDatabase, drain: Drain
) -> None:
    """Their rows have no end of their own, and are deleted with the room's later."""
    with target.acting_as(GUEST[1]) as connection:
        assert connection.execute("select user_id from guests").fetchall()
    ends = "update rooms set ends_at = now() - interval '1 s'"
    primary.query(ends)
    target.query(ends)
    assert not has_access(target, GUEST, "room")
    with target.acting_as(GUEST[1]) as connection:
        assert connection.execute("select mirror.my_rooms('GUEST')").fetchall() == [([],)]
        assert connection.execute("select user_id from guests").fetchall() == []
    assert has_access(target, HOST, "room"), "a host needs no parent"
    primary.query("update rooms set ends_at = now() + interval '1 hour'")
    record(primary, "rooms", ROOM)
    drain.run()
    assert has_access(target, GUEST, "room")


@pytest.mark.parametrize("operation", ["DELETE", "UPDATE"])
def test_a_trigger_that_keeps_the_children_of_a_deleted_parent_does_not_keep_their_access(
    primary: TestDatabase, target: TestDatabase, drain: Drain, operation: str
) -> None:
    """It drops the statement without an error; the event fails, and the parent is withheld."""
    if operation == "UPDATE":
        target.query(
            "create table meals (room_id uuid, user_id uuid,"
            " foreign key (room_id, user_id) references guests);"
        )
        target.query("insert into meals values (%s, %s)", *GUEST)
    target.query(
        "create function keep() returns trigger language plpgsql as"
        " $$ begin return null; end $$;"
        f" create trigger keep before {operation} on guests for each row execute function keep()"
    )
    primary.query("delete from rooms")
    primary.query("delete from guests")
    record(primary, "rooms", ROOM)
    assert drain.run().failed
    errors = primary.query("select error from mirror.retries where mapping = 'rooms'")
    assert "a trigger or a rule of table public.guests" in errors[0][0]
    assert not has_access(target, GUEST, "room")
    assert ("rooms", "Rejected") in withheld(target)
    target.query("drop trigger keep on guests")
    retry(primary, drain)
    assert not has_access(target, GUEST, "room")
    assert withheld(target) == []


def test_an_explanation_agrees_with_the_helpers_about_rows_below_an_expired_one(
    primary: TestDatabase, target: TestDatabase, drain: Drain
) -> None:
    """It finds nothing broken: the next sweep removes these rows."""
    ends = "update rooms set ends_at = now() - interval '1 s'"
    primary.query(ends)
    target.query(ends)
    question = question_about(registry, "room")
    page = explain_resource(drain, question, GUEST[1], ROOM)
    assert (page.primary_grants, page.allowed) == (False, False)
    assert page.first is not None
    assert "its parent rooms" in page.first.says
    assert [step for step in page.steps if step.status is StepStatus.BROKEN] == []
    assert sweep(drain) == 1
    assert target.value("select count(*) from guests") == 0


def test_a_mapping_whose_expired_rows_cannot_be_searched_does_not_stop_the_sweep(
    primary: TestDatabase, target: TestDatabase, drain: Drain
) -> None:
    """Those of the other mappings are removed; then the error is raised."""
    primary.query("update passes set until = now() - interval '1 s'")
    target.query("update passes set until = now() - interval '1 s'")
    target.query("alter table rooms drop ends_at")
    with pytest.raises(MirrorError, match="ends_at"):
        sweep(drain)
    assert target.value("select count(*) from passes") == 0
