"""A survey may first read the primary without its parents, and misses nothing by that."""

import pytest
from sqlalchemy.orm import Session

from examples.trip_chat import services
from examples.trip_chat.models import Membership
from mappings.trips import registry
from mirror.reconcile.primary_reader import PrimaryReader
from mirror.sync.drain import Drain
from tests.support.databases import TestDatabase
from tests.support.reconciling import EQUAL, Reconciling, compare, differing


def test_orphans_that_the_target_lacks_are_no_drift(
    monkeypatch: pytest.MonkeyPatch,
    session: Session,
    members: list[Membership],
    drain: Drain,
    reconcile: Reconciling,
) -> None:
    """The rows of a deleted trip's three members stay in the primary, and do not count."""
    services.delete_trip(session, members[0].trip_id)
    session.commit()
    drain.run()
    compare(monkeypatch, by_survey=True)
    report = reconcile()
    assert report.outcome == "in line"
    assert (report.mappings[2].rows, report.mappings[2].target_rows) == (57, 57)


def test_orphans_that_the_target_has_are_found_because_their_parent_is_extra(
    monkeypatch: pytest.MonkeyPatch,
    primary: TestDatabase,
    target: TestDatabase,
    members: list[Membership],
    reconcile: Reconciling,
) -> None:
    """They count for the limit of deletes, which the deleted trip alone does not reach."""
    primary.query("update trips set deleted_at = now() where id = %s", members[0].trip_id)
    compare(monkeypatch, by_survey=True)
    report = reconcile(max_deletes=2)
    assert [part.extra for part in report.mappings] == [0, 1, 3]
    assert report.mappings[2].causes == {"orphan": 3}
    assert report.outcome == "held back"
    assert reconcile(max_deletes=3).outcome == "repaired"
    assert differing(primary, target) == EQUAL


def test_orphans_are_expected_where_parents_are_soft_deleted(
    primary: TestDatabase, members: list[Membership], drain: Drain
) -> None:
    """The planner knows by the statistics of the tables."""
    reader = PrimaryReader(registry, drain.source)
    primary.query("analyze")
    assert not any(reader.expects_orphans(mapping) for mapping in registry)
    primary.query("update trips set deleted_at = now() where id = %s", members[0].trip_id)
    primary.query("analyze")
    assert reader.expects_orphans(registry["trip_memberships"])
