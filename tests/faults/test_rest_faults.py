"""Faults of a network and a gateway during a call: no change is lost or applied twice."""

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

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
    Action,
    Proxy,
    answering,
    cut_before,
    cut_in_the_body,
    dripping,
    never_ending_body,
    pass_through,
    truncated,
)

PAGE = b"<!doctype html><title>Not here</title>"
MISSING = b'{"code":"PGRST202","message":"Could not find the function public.mirror_apply"}'


@pytest.fixture
def proxy(rest_settings: Settings) -> Iterator[Proxy]:
    """The proxy between the worker and the API."""
    with Proxy(rest_settings.need("supabase_url")) as proxy:
        yield proxy


@pytest.fixture
def drain(rest_settings: Settings, proxy: Proxy, pauses: list[float]) -> Iterator[Drain]:
    """A worker that reaches the API through the proxy."""
    drain = build_drain(rest_settings.model_copy(update={"supabase_url": proxy.url}), registry)
    http_client(drain).pause = pauses.append
    yield drain
    drain.close()


@pytest.fixture
def pauses() -> list[float]:
    """The pauses that the worker would have made, in seconds."""
    return []


def http_client(drain: Drain) -> HttpClient:
    """Return the worker's HTTP client."""
    assert isinstance(drain.target, RestTarget)
    return drain.target.http


@pytest.fixture
def member(session: Session, primary: TestDatabase) -> tuple[str, str]:
    """A member whose event waits in the outbox."""
    made = MembershipFactory.create()
    session.commit()
    record(primary, "trip_memberships", made.trip_id, made.user_id, lane=1)
    return (str(made.trip_id), str(made.user_id))


def mirrored(target: TestDatabase) -> list[tuple[str, str]]:
    """Return the members in the target."""
    return target.query("select trip_id::text, user_id::text from trip_memberships")


def waiting(primary: TestDatabase) -> tuple[int, int]:
    """Return the number of events in the outbox, and of those set apart."""
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
    script: list[Action],
) -> None:
    """Even if the call succeeded and only its answer was lost: the second call is fenced."""
    proxy.script.extend(script)
    assert drain.run().failed == 0
    assert mirrored(target) == [member]
    assert waiting(primary) == (0, 0)
    assert len(pauses) == len(script)
    # Each pause is random between half of its limit and the limit.
    for number, pause in enumerate(pauses):
        assert 0.125 * 2**number <= pause <= 0.25 * 2**number


def test_retry_after_is_honoured(
    drain: Drain,
    proxy: Proxy,
    pauses: list[float],
    target: TestDatabase,
    member: tuple[str, str],
) -> None:
    """The pause is a little longer than asked; a date in the past means no pause."""
    proxy.script.append(answering(429, Retry_After="3"))
    proxy.script.append(answering(503, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"))
    assert drain.run().failed == 0
    assert mirrored(target) == [member]
    assert 3 <= pauses[0] <= 3.3
    assert pauses[1] == 0


def test_an_api_that_asks_for_a_long_pause_is_not_called_before_its_end(
    drain: Drain,
    proxy: Proxy,
    pauses: list[float],
    primary: TestDatabase,
    member: tuple[str, str],
) -> None:
    """The worker holds no claim open during the pause, and makes no call before its end."""
    proxy.script.append(answering(429, Retry_After="120"))
    for _ in range(3):
        with pytest.raises(Transient):
            drain.run()
    assert len(proxy.seen) == 1
    assert pauses == []
    assert waiting(primary) == (1, 0)


def test_an_api_that_asks_for_a_day_is_tried_again_after_half_a_minute(
    drain: Drain,
    proxy: Proxy,
    target: TestDatabase,
    member: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be well again long before."""
    proxy.script.append(answering(503, Retry_After="86400"))
    with pytest.raises(Transient):
        drain.run()
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 31)
    monkeypatch.setattr("mirror.sync.targets.http.time", later)
    assert drain.run().failed == 0
    assert mirrored(target) == [member]


@pytest.mark.parametrize(
    ("action", "kind", "expected"),
    [
        (answering(503), Transient, "busy"),
        (answering(500), Transient, "HTTP 500"),
        (answering(200, PAGE, kind="text/html"), Unreachable, "is SUPABASE_URL right"),
        (answering(404, PAGE, kind="text/html"), Unreachable, "no Supabase API at SUPABASE_URL"),
        (answering(301, Location="https://elsewhere.example"), Unreachable, "redirects"),
        (answering(540, PAGE, kind="text/html"), Unreachable, "paused"),
        (truncated, Transient, "damaged"),
        pytest.param(
            never_ending_body, Transient, "did not answer in time", marks=pytest.mark.long
        ),
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
    action: Action,
    kind: type[MirrorError],
    expected: str,
) -> None:
    """No event is blamed, however often it happens; afterwards everything is mirrored once."""
    http_client(drain).statement_seconds = http_client(drain).connect_seconds = 0.5
    for _ in range(3):
        # Enough for each attempt of a call, and for the second try of a run. A client that misses
        # a function calls another one to find out whether the API has it.
        proxy.script.extend([action, pass_through] * 2 if kind is StaleCache else [action] * 8)
        with pytest.raises(kind, match=expected) as raised:
            drain.run()
        assert type(raised.value) is kind
        proxy.script.clear()
    assert waiting(primary) == (1, 0)
    http_client(drain).statement_seconds = http_client(drain).connect_seconds = 8
    assert drain.run().failed == 0
    assert mirrored(target) == [member]
    assert waiting(primary) == (0, 0)
    assert target.value("select count(*) from mirror.ledger_trip_memberships") == 1


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        (answering(413, PAGE, kind="text/html"), TooLarge),
        (answering(403, PAGE, kind="text/html"), Unexplained),
        (answering(418), Unexplained),
    ],
)
def test_an_error_that_one_row_may_cause_is_retried_alone_and_never_buried(
    drain: Drain,
    proxy: Proxy,
    primary: TestDatabase,
    target: TestDatabase,
    member: tuple[str, str],
    action: Action,
    kind: type[MirrorError],
) -> None:
    """A firewall in between may refuse the content of a row."""
    proxy.script.extend([action] * 8)
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
    """The API knows none of the mirror's functions."""
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
    """The batch is eighty members; their parents are mirrored already."""
    make_members(80)
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
    """Return a function that creates members, each in its own trip."""

    def make(count: int) -> None:
        MembershipFactory.create_batch(count)
        session.commit()

    return make


def test_a_request_has_the_headers_that_supabase_expects(
    drain: Drain, proxy: Proxy, rest_settings: Settings
) -> None:
    """The key is in `apikey`; Supabase refuses secret keys with the user agent of a browser."""
    proxy.script.append(pass_through)
    drain.target.describe()
    headers = {name.lower(): value for name, value in proxy.seen[0].headers.items()}
    assert headers["apikey"] == rest_settings.need("supabase_secret_key")
    assert headers["user-agent"].startswith("permission-mirror/")
