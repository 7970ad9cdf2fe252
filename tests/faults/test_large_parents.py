"""A parent with too many children for one statement is closed at once, and removed in pages."""

import pytest

from mappings.trips import registry as trips
from mirror.reconcile import sync
from mirror.sync.drain import Drain
from tests.faults.tools import record
from tests.faults.withheld import (
    Member,
    accesses,
    withheld,
)
from tests.support.databases import TestDatabase
from tests.support.rest import both_transports

pytestmark = both_transports(rest="long")


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


def test_a_large_parent_that_is_synced_by_hand_is_left_to_workers(
    primary: TestDatabase,
    target: TestDatabase,
    drain: Drain,
    members: list[Member],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No event is recorded for its deletion. The access ends at once."""
    monkeypatch.setattr("mirror.sync.syncer._WITHDRAWAL_SECONDS", 0.0)
    trip = members[0][0]
    _make_large(target, trip)
    primary.query("delete from trip_memberships; update trips set deleted_at = now()")
    sync(drain, trips["trips"], [(trip,)])
    assert drain.announced
    assert accesses(target, members) == [False, False, False]
    drain.run()
    assert target.value("select count(*) from trip_memberships") == 0
    assert withheld(target) == []


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
