"""No call is larger than allowed, and no row is left out, however much there is to write."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy.orm import Session

from mappings.trips import registry
from mirror.errors import TooLarge
from mirror.settings import Settings
from mirror.sync.drain import Drain
from mirror.sync.targets.rest import RestTarget
from mirror.sync.wiring import build_drain
from tests.faults.tools import record
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory, TripFactory, UserFactory
from tests.support.http_proxy import Proxy

SMALL = 10_000


@pytest.fixture
def proxy(rest_settings: Settings) -> Iterator[Proxy]:
    """A proxy that records each request."""
    with Proxy(rest_settings.need("supabase_url")) as proxy:
        yield proxy


@pytest.fixture
def make_limited_drain(rest_settings: Settings, proxy: Proxy) -> Iterator[Callable[..., Drain]]:
    """Return a function that makes workers whose requests have 10 kB at most."""
    made: list[Drain] = []

    def make(**changes: object) -> Drain:
        settings = {"supabase_url": proxy.url, "rest_bytes": SMALL, **changes}
        made.append(build_drain(rest_settings.model_copy(update=settings), registry))
        return made[-1]

    yield make
    for drain in made:
        drain.close()


def drain_all(drain: Drain) -> None:
    """Drain until no event is left."""
    while drain.run().events:
        pass


def test_a_batch_that_is_too_large_is_split(
    make_limited_drain: Callable[..., Drain],
    proxy: Proxy,
    session: Session,
    primary: TestDatabase,
    target: TestDatabase,
) -> None:
    """Sixty members of sixty trips are 12 kB."""
    members = MembershipFactory.create_batch(60)
    session.commit()
    for member in members:
        record(primary, "trip_memberships", member.trip_id, member.user_id)
    drain_all(make_limited_drain())
    assert target.value("select count(*) from trip_memberships") == 60
    assert primary.value("select count(*) from mirror.retries") == 0
    assert max(len(seen.body) for seen in proxy.seen) <= SMALL


def test_a_parent_of_more_children_than_one_call_holds_comes_with_all_of_them(
    make_limited_drain: Callable[..., Drain],
    proxy: Proxy,
    session: Session,
    primary: TestDatabase,
    target: TestDatabase,
) -> None:
    """Events for the remaining children are recorded before the parent is written."""
    trip = TripFactory()
    for user in UserFactory.create_batch(60):
        MembershipFactory(trip_id=trip.id, user_id=user.id, trip=trip, user=user)
    session.commit()
    record(primary, "trips", trip.id)
    drain_all(make_limited_drain())
    assert target.value("select count(*) from trip_memberships") == 60
    assert primary.value("select count(*) from mirror.retries") == 0
    assert max(len(seen.body) for seen in proxy.seen) <= SMALL


def test_a_name_that_is_too_large_becomes_null_and_blocks_no_other(
    make_limited_drain: Callable[..., Drain],
    proxy: Proxy,
    session: Session,
    primary: TestDatabase,
    target: TestDatabase,
) -> None:
    """The revocations are in force; the stored error names the setting to change."""
    giant, other = TripFactory(name="x" * SMALL), TripFactory()
    session.commit()
    record(primary, "trips", giant.id)
    record(primary, "trips", other.id)
    drain = make_limited_drain(max_attempts=1, retry_seconds=60)
    assert drain.run().failed == 1
    rows = "select id, name from trips order by name nulls last"
    assert target.query(rows) == [(other.id, other.name), (giant.id, None)]
    (noted,) = primary.query("select error, buried_at from mirror.retries")
    assert "MIRROR_REST_BYTES" in noted[0]
    for _ in range(3):
        primary.query("update mirror.retries set due_at = now()")
        assert drain.run().failed == 1
    assert primary.value("select count(*) from mirror.retries where buried_at is null") == 1

    primary.query("update mirror.retries set due_at = now()")
    assert make_limited_drain(rest_bytes=10 * SMALL).run().failed == 0
    assert target.value("select count(*) from trips where name is not null") == 2


def test_a_body_that_is_too_large_is_not_sent(rest_settings: Settings, proxy: Proxy) -> None:
    """The size is that of the whole request body."""
    target = RestTarget(proxy.url, rest_settings.need("supabase_secret_key"))
    target.http.max_bytes = 100
    with pytest.raises(TooLarge):
        target.rebase('"' * 50, 1)
    assert proxy.seen == []
    target.close()
