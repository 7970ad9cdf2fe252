"""Every kind of drift in the target, each while the backend keeps writing."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from sqlalchemy.orm import Session

from examples.trip_chat.models import Membership
from mirror.reconcile import Report, find
from mirror.reconcile.compare import Comparison
from mirror.sync.drain import Drain
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory, TripFactory, UserFactory
from tests.support.reconciling import EQUAL, Reconciling, differing
from tests.support.rest import both_transports
from tests.support.traffic import Traffic

pytestmark = both_transports(rest="long")


@pytest.fixture(autouse=True, params=["chunks", pytest.param("survey", marks=pytest.mark.long)])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Large mappings are compared by a survey, small ones in chunks: here, one way for all."""
    rows = 1 if request.param == "survey" else 10**9
    monkeypatch.setattr(find, "Comparison", partial(Comparison, survey_rows=rows))
    return str(request.param)


@pytest.fixture
def traffic(
    session: Session,
    primary: TestDatabase,
    target: TestDatabase,
    members: list[Membership],
    reconcile: Reconciling,
    make_drain: Callable[..., Drain],
) -> Iterator[Traffic]:
    """Writes to rows that the test itself does not touch."""
    trips = [TripFactory() for _ in range(4)]
    users = [UserFactory() for _ in range(4)]
    come_and_go = [MembershipFactory(trip=trip, user=user) for trip in trips for user in users]
    session.commit()
    reconcile()
    live = Traffic(
        primary,
        target,
        make_drain(),
        users=[user.id for user in users],
        trips=[trip.id for trip in trips],
        members=[(member.trip_id, member.user_id) for member in come_and_go],
    )
    with live:
        yield live
    assert live.set_back() == []
    assert differing(primary, target) == EQUAL


def keys(report: Report, mapping: str) -> dict[tuple[str, ...], str]:
    """Return the drifted keys of a mapping, each with its kind and direction."""
    parts = {part.mapping: part for part in report.mappings}
    return {key: f"{kind}, {direction}" for kind, direction, key in parts[mapping].keys}


def key(member: Membership) -> tuple[str, str]:
    """Return a member's key."""
    return str(member.trip_id), str(member.user_id)


def test_rows_deleted_by_hand_come_back(
    traffic: Traffic, target: TestDatabase, members: list[Membership], reconcile: Reconciling
) -> None:
    """A member is missing, and a trip with its members, which it deletes by cascade."""
    target.query("delete from trips where id = %s", members[0].trip_id)
    target.query(
        "delete from trip_memberships where (trip_id, user_id) = (%s, %s)", *key(members[3])
    )
    report = reconcile()
    assert report.outcome == "repaired"
    assert keys(report, "trips") == {(str(members[0].trip_id),): "missing, under-grant"}
    assert keys(report, "trip_memberships") == {
        key(member): "missing, under-grant" for member in members[:4]
    }
    assert report.mappings[2].causes == {"by_hand": 4}


def test_rows_edited_by_hand_are_set_right(
    traffic: Traffic, target: TestDatabase, members: list[Membership], reconcile: Reconciling
) -> None:
    """One role was raised, and one status was taken away."""
    edit = "update trip_memberships set {} where (trip_id, user_id) = (%s, %s)"
    target.query(edit.format("role = 'OWNER'"), *key(members[0]))
    target.query(edit.format("status = 'INVITED'"), *key(members[1]))
    target.query(edit.format("role = 'NONE'"), *key(members[2]))
    report = reconcile()
    assert keys(report, "trip_memberships") == {
        key(members[0]): "changed, over-grant",
        key(members[1]): "changed, under-grant",
        key(members[2]): "changed, under-grant",
    }
    assert report.mappings[2].causes == {"by_hand": 3}
    assert report.outcome == "repaired"


def test_rows_inserted_by_hand_go(
    traffic: Traffic, target: TestDatabase, members: list[Membership], reconcile: Reconciling
) -> None:
    """One is a stranger in a trip; another was removed and is back."""
    stranger = key(members[5])[1]
    target.query(
        "insert into trip_memberships (trip_id, user_id, role, status)"
        " values (%s, %s, 'OWNER', 'ACTIVE')",
        members[0].trip_id,
        stranger,
    )
    report = reconcile()
    assert keys(report, "trip_memberships") == {
        (str(members[0].trip_id), stranger): "extra, over-grant"
    }
    assert report.mappings[2].causes == {"by_hand": 1}
    # The tombstone of the row stays; a second insert by hand is found, too.
    target.query(
        "insert into trip_memberships (trip_id, user_id) values (%s, %s)",
        members[0].trip_id,
        stranger,
    )
    target.query("update trip_memberships set role = 'OWNER' where user_id = %s", stranger)
    assert keys(reconcile(), "trip_memberships")[str(members[0].trip_id), stranger] == (
        "extra, over-grant"
    )


def test_changes_without_a_hook_are_caught_up_with(
    traffic: Traffic,
    primary: TestDatabase,
    members: list[Membership],
    reconcile: Reconciling,
) -> None:
    """In psql, one member is removed, one is added, one promoted and one demoted."""
    change = "update trip_memberships set {} where (trip_id, user_id) = (%s, %s)"
    primary.query(change.format("deleted_at = now()"), *key(members[0]))
    primary.query(change.format("role = 'OWNER'"), *key(members[1]))
    primary.query(change.format("status = 'INVITED'"), *key(members[2]))
    added = (str(members[0].trip_id), key(members[9])[1])
    primary.query(
        "insert into trip_memberships (trip_id, user_id, role, status)"
        " values (%s, %s, 'MEMBER', 'ACTIVE')",
        *added,
    )
    report = reconcile()
    assert keys(report, "trip_memberships") == {
        key(members[0]): "extra, over-grant",
        key(members[1]): "changed, under-grant",
        key(members[2]): "changed, over-grant",
        added: "missing, under-grant",
    }
    assert report.mappings[2].causes == {"missed": 3, "new": 1}


@pytest.mark.parametrize("only", [(), ("trip_memberships",)])
def test_orphans_go_with_their_parent(
    traffic: Traffic,
    primary: TestDatabase,
    members: list[Membership],
    reconcile: Reconciling,
    only: tuple[str, ...],
) -> None:
    """A trip was deleted without a hook; its members' rows are still in the primary."""
    gone = members[0].trip_id
    primary.query("update trips set deleted_at = now() where id = %s", gone)
    report = reconcile(mappings=only)
    assert keys(report, "trip_memberships") == {
        key(member): "extra, over-grant" for member in members[:3]
    }
    assert report.mappings[-1].causes == {"orphan": 3}
    assert report.outcome == "repaired"


@pytest.mark.parametrize("ledger", ["", ", mirror.ledger_trip_memberships"])
def test_a_mapping_that_was_emptied_is_filled(
    traffic: Traffic,
    target: TestDatabase,
    members: list[Membership],
    reconcile: Reconciling,
    way: str,
    ledger: str,
) -> None:
    """It is emptied by hand, with or without the mirror's ledger.

    A survey that finds both empty names no keys: all rows are loaded as one range.
    """
    target.query(f"truncate trip_memberships{ledger}")
    report = reconcile()
    if way == "chunks" or not ledger:
        assert set(keys(report, "trip_memberships")) >= {key(member) for member in members}
    assert report.mappings[2].missing >= len(members)
    rows = set(target.query("select trip_id::text, user_id::text from trip_memberships"))
    assert rows >= {key(member) for member in members}
    assert report.mappings[0].drifted == report.mappings[1].drifted == 0


def test_a_target_that_was_truncated_is_filled(
    traffic: Traffic, target: TestDatabase, members: list[Membership], reconcile: Reconciling
) -> None:
    """All tables are truncated at once."""
    target.query("truncate users, trips, trip_memberships")
    report = reconcile()
    assert report.outcome == "repaired"
    assert all(part.missing for part in report.mappings)


def test_an_emptied_primary_deletes_nothing_in_the_target(
    traffic: Traffic,
    primary: TestDatabase,
    target: TestDatabase,
    members: list[Membership],
    reconcile: Reconciling,
) -> None:
    """The deletes wait until a user confirms them."""
    before = target.value("select count(*) from trip_memberships")
    raised = key(members[0])
    primary.query("delete from trip_memberships")
    target.query("update users set username = 'Eve' where id = %s", raised[1])
    report = reconcile()
    assert report.exit_code == 3
    assert "--confirm trip_memberships" in str(report.mappings[2].held)
    assert keys(report, "users") == {(raised[1],): "changed, neither"}
    assert target.value("select username <> 'Eve' from users where id = %s", raised[1])
    assert target.value("select count(*) from trip_memberships") >= before - 16

    assert reconcile(confirm=frozenset({"trip_memberships"})).outcome == "repaired"
    assert target.value("select count(*) from trip_memberships") == 0


def test_a_row_without_its_ledger_row_gets_one(
    traffic: Traffic, target: TestDatabase, members: list[Membership], reconcile: Reconciling
) -> None:
    """The row is right, but a query of the ledger for the trip's members would miss it."""
    forget = "delete from mirror.ledger_trip_memberships where (trip_id, user_id) = (%s, %s)"
    target.query(forget, *key(members[0]))
    report = reconcile()
    assert keys(report, "trip_memberships") == {key(members[0]): "ledger, neither"}
    assert target.value(
        "select present from mirror.ledger_trip_memberships where (trip_id, user_id) = (%s, %s)",
        *key(members[0]),
    )
