"""Two equal databases, ways to make them differ, and the reconcile that compares them."""

from collections.abc import Callable

import pytest
from sqlalchemy.orm import Session

from examples.trip_chat.models import Membership
from mirror.reconcile import Options, Report, Throttle
from mirror.reconcile import reconcile as run
from mirror.sync.drain import Drain
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory, TripFactory, UserFactory

Reconciling = Callable[..., Report]


@pytest.fixture
def reconciler(make_drain: Callable[..., Drain]) -> Drain:
    """The connections of a reconcile, over the test's transport."""
    return make_drain()


@pytest.fixture
def reconcile(reconciler: Drain) -> Reconciling:
    """Return a function that reconciles; keyword arguments are options."""

    def reconcile(**options: object) -> Report:
        # No pause for waiting events: these tests are not about pauses.
        throttle = Throttle(reconciler.queue.beside, backlog=10**9, latency_seconds=60)
        chosen = Options(**{"grace_seconds": 0.0, "keys": 1000, **options})  # type: ignore[arg-type]
        return run(reconciler, chosen, throttle)

    return reconcile


@pytest.fixture
def members(session: Session, reconcile: Reconciling) -> list[Membership]:
    """Sixty members of twenty trips, mirrored."""
    # All rows of a table at once: one after the other would take most of a test's time.
    users = UserFactory.build_batch(80)
    trips = [TripFactory.build(creator=user) for user in users[60:]]
    made = [MembershipFactory.build(trip=trips[n // 3], user=users[n]) for n in range(60)]
    for rows in (users, trips, made):
        session.add_all(rows)
        session.flush()
    session.commit()
    assert reconcile().outcome == "repaired"
    return made


_DESIRED = {
    "users": "select id::text, email, username from users where deleted_at is null",
    "trips": "select id::text, name, created_by::text from trips where deleted_at is null",
    "trip_memberships": "select m.trip_id::text, m.user_id::text, m.role::text, m.status::text"
    " from trip_memberships as m join trips as t on t.id = m.trip_id"
    " join users as u on u.id = m.user_id"
    " where m.deleted_at is null and t.deleted_at is null and u.deleted_at is null",
}
_MIRRORED = {
    "users": "select id::text, email, username from users",
    "trips": "select id::text, name, created_by::text from trips",
    "trip_memberships": "select trip_id::text, user_id::text, role, status from trip_memberships",
}


def differing(primary: TestDatabase, target: TestDatabase) -> dict[str, set[tuple[str, ...]]]:
    """Return by mapping the rows that only one side has; they are read with plain SQL."""
    return {
        name: set(primary.query(_DESIRED[name])) ^ set(target.query(_MIRRORED[name]))
        for name in _DESIRED
    }


EQUAL: dict[str, set[tuple[str, ...]]] = {name: set() for name in _DESIRED}
