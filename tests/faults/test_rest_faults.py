"""What a network and a gateway can do to a call: nothing is lost, nothing happens twice."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy.orm import Session

from mappings.trips import registry
from mirror.errors import (
    Halted,
    MirrorError,
    NotMigrated,
    StaleCache,
    TooLarge,
    Transient,
    Unexplained,
    Unreachable,
    WrongKey,
)
from mirror.settings import Settings
from mirror.sync.drain import Drain
from mirror.sync.targets.http import HttpClient
from mirror.sync.targets.rest import RestTarget
from mirror.sync.wiring import build_drain
from tests.faults.tools import record
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory
from tests.support.http_proxy import (
    Deed,
    Proxy,
    answering,
    cut_before,
    cut_in_the_body,
    dripping,
    never_ending_body,
    through,
    truncated,
)

PAGE = b"<!doctype html><title>Not here</title>"
MISSING = b'{"code":"PGRST202","message":"Could not find the function public.mirror_apply"}'


@pytest.fixture
def proxy(rest_settings: Settings) -> Iterator[Proxy]:
    """What stands between the worker and the API."""
    with Proxy(rest_settings.need("supabase_url")) as proxy:
        yield proxy


@pytest.fixture
def drain(rest_settings: Settings, proxy: Proxy, pauses: list[float]) -> Iterator[Drain]:
    """A worker that reaches the API through the proxy."""
    drain = build_drain(rest_settings.model_copy(update={"supabase_url": proxy.url}), registry)
    line(drain).pause = pauses.append
    yield drain
    drain.close()


@pytest.fixture
def pauses() -> list[float]:
    """The pauses that the worker would have made."""
    return []


def line(drain: Drain) -> HttpClient:
    """Return how a worker reaches the API."""
    assert isinstance(drain.target, RestTarget)
    return drain.target.http


@pytest.fixture
def member(session: Session, primary: TestDatabase) -> tuple[str, str]:
    """A member whose event waits."""
    made = MembershipFactory.create()
    session.commit()
    record(primary, "trip_memberships", made.trip_id, made.user_id, lane=1)
    return (str(made.trip_id), str(made.user_id))


def mirrored(target: TestDatabase) -> list[tuple[str, str]]:
    """Return the members in the target."""
    return target.query("select trip_id::text, user_id::text from trip_memberships")


def waiting(primary: TestDatabase) -> tuple[int, int]:
    """Return how many events wait, and how many are set apart."""
    return (
        primary.value("select count(*) from mirror.outbox"),
        primary.value("select count(*) from mirror.retries"),
    )


@pytest.mark.parametrize(
    "script",
    [
        [answering(503), answering(502), answering(504)],
        [answering(429)],
        [answering(503, b'{"code":"PGRST002","message":"no schema cache"}')],
        [answering(520, PAGE, kind="text/html")],
        [cut_before],
        [cut_in_the_body],
        [cut_in_the_body, cut_in_the_body, cut_before],
    ],
    ids=["503 502 504", "429", "no cache", "520", "cut", "cut in the body", "cut thrice"],
)
def test_a_short_fault_is_waited_out_in_the_call(
    drain: Drain,
    proxy: Proxy,
    pauses: list[float],
    primary: TestDatabase,
    target: TestDatabase,
    member: tuple[str, str],
    script: list[Deed],
) -> None:
    """Also where the call went through and only its answer was lost: it is fenced."""
    proxy.script.extend(script)
    assert drain.run().failed == 0
    assert mirrored(target) == [member]
    assert waiting(primary) == (0, 0)
    assert len(pauses) == len(script)
    # Half of each is chance.
    for number, pause in enumerate(pauses):
        assert 0.125 * 2**number <= pause <= 0.25 * 2**number


def test_retry_after_is_honoured(
    drain: Drain,
    proxy: Proxy,
    pauses: list[float],
    target: TestDatabase,
    member: tuple[str, str],
) -> None:
    """A little later rather than earlier, in seconds or as a date that has passed."""
    proxy.script.append(answering(429, Retry_After="3"))
    proxy.script.append(answering(503, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"))
    assert drain.run().failed == 0
    assert mirrored(target) == [member]
    assert 3 <= pauses[0] <= 3.3
    assert pauses[1] == 0


def test_who_asks_for_a_long_time_is_left_alone(
    drain: Drain,
    proxy: Proxy,
    pauses: list[float],
    primary: TestDatabase,
    member: tuple[str, str],
) -> None:
    """No claim is held open for it, and no call made before."""
    proxy.script.append(answering(429, Retry_After="120"))
    for _ in range(3):
        with pytest.raises(Transient):
            drain.run()
    assert len(proxy.seen) == 1
    assert pauses == []
    assert waiting(primary) == (1, 0)


@pytest.mark.parametrize(
    ("deed", "kind", "told"),
    [
        (answering(503), Transient, "busy"),
        (answering(500), Transient, "HTTP 500"),
        (answering(200, PAGE, kind="text/html"), Unreachable, "is SUPABASE_URL right"),
        (answering(404, PAGE, kind="text/html"), Unreachable, "no Supabase API at SUPABASE_URL"),
        (answering(301, Location="https://elsewhere.example"), Unreachable, "redirects"),
        (answering(540, PAGE, kind="text/html"), Unreachable, "paused"),
        (truncated, Transient, "damaged"),
        (never_ending_body, Transient, "did not answer in time"),
        (dripping, Transient, "did not answer in time"),
        (cut_before, Unreachable, "cannot be reached"),
        (answering(401, b'{"message":"Invalid API key"}'), WrongKey, "refuses the key"),
        (
            answering(401, b'{"code":"PGRST303","message":"JWT expired"}'),
            WrongKey,
            "token has expired",
        ),
        (answering(406, b'{"code":"PGRST106","message":"x"}'), Halted, "expose"),
        (answering(404, MISSING), StaleCache, "reload schema"),
    ],
)
def test_a_longer_fault_leaves_everything_waiting(
    drain: Drain,
    proxy: Proxy,
    primary: TestDatabase,
    target: TestDatabase,
    member: tuple[str, str],
    deed: Deed,
    kind: type[MirrorError],
    told: str,
) -> None:
    """It is blamed on no event, however often; afterwards everything arrives, once."""
    line(drain).statement_seconds = line(drain).grace = 0.1
    for _ in range(3):
        # As often as a call is tried, and a run that finds its connection dead. Whoever misses a
        # function asks another one whether it is there.
        proxy.script.extend([deed, through] * 2 if kind is StaleCache else [deed] * 8)
        with pytest.raises(kind, match=told) as raised:
            drain.run()
        assert type(raised.value) is kind
        proxy.script.clear()
    assert waiting(primary) == (1, 0)
    line(drain).statement_seconds = line(drain).grace = 8
    assert drain.run().failed == 0
    assert mirrored(target) == [member]
    assert waiting(primary) == (0, 0)
    assert target.value("select count(*) from mirror.ledger_trip_memberships") == 1


@pytest.mark.parametrize(
    ("deed", "kind"),
    [
        (answering(413, PAGE, kind="text/html"), TooLarge),
        (answering(403, PAGE, kind="text/html"), Unexplained),
        (answering(418), Unexplained),
    ],
)
def test_what_one_row_may_be_the_reason_of_is_retried_alone_and_never_buried(
    drain: Drain,
    proxy: Proxy,
    primary: TestDatabase,
    target: TestDatabase,
    member: tuple[str, str],
    deed: Deed,
    kind: type[MirrorError],
) -> None:
    """A firewall in between may dislike what a row looks like."""
    proxy.script.extend([deed] * 8)
    assert drain.run().failed > 0
    (noted,) = primary.query("select error, buried_at from mirror.retries")
    assert noted[0].startswith(kind.__name__)
    assert noted[1] is None
    proxy.script.clear()
    primary.query("update mirror.retries set due_at = now()")
    assert drain.run().failed == 0
    assert mirrored(target) == [member]


def test_a_function_that_is_missing_means_not_migrated(
    drain: Drain, proxy: Proxy, target: TestDatabase, member: tuple[str, str]
) -> None:
    """Nothing of ours is known there."""
    proxy.script.extend([answering(404, MISSING), answering(404, MISSING)])
    with pytest.raises(NotMigrated, match="run `mirror migrate supabase`"):
        drain.run()


def test_a_batch_is_one_call_and_calls_share_a_connection(
    drain: Drain,
    proxy: Proxy,
    session: Session,
    primary: TestDatabase,
    target: TestDatabase,
    make_members: Callable[[int], None],
) -> None:
    """A hundred members whose parents are there already."""
    make_members(100)
    record(primary, "users", reference="*")
    record(primary, "trips", reference="*")
    drain.run()
    proxy.seen.clear()
    primary.query(
        "insert into mirror.outbox (lane, mapping, key)"
        " select 1, 'trip_memberships', array[trip_id::text, user_id::text] from trip_memberships"
    )
    drain.run()
    assert [seen.path for seen in proxy.seen] == ["/rest/v1/rpc/mirror_apply"]
    drain.target.describe()
    assert len({seen.peer for seen in proxy.seen}) == 1


@pytest.fixture
def make_members(session: Session) -> Callable[[int], None]:
    """Return a function that makes members of as many trips."""

    def make(count: int) -> None:
        MembershipFactory.create_batch(count)
        session.commit()

    return make


def test_the_api_is_asked_as_supabase_wants_it(
    drain: Drain, proxy: Proxy, rest_settings: Settings
) -> None:
    """The key as `apikey`; and no browser's name, with which secret keys are refused."""
    proxy.script.append(through)
    drain.target.describe()
    headers = {name.lower(): value for name, value in proxy.seen[0].headers.items()}
    assert headers["apikey"] == rest_settings.need("supabase_secret_key")
    assert headers["user-agent"].startswith("permission-mirror/")
