"""Odd answers over REST: whatever a gateway sends, it is damage, and no event's fault."""

import gzip
import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, example, given, settings

from mappings.trips import registry
from mirror.errors import MirrorError, Transient
from mirror.sync.pairing import Pair
from mirror.sync.snapshot import Stamp
from mirror.sync.targets.asking import AskHelper
from mirror.sync.targets.http import _retry_after
from mirror.sync.targets.reading import Hashing, KeyRange, SurveyRequest
from mirror.sync.targets.rest import RestTarget
from mirror.sync.targets.writing import ScopePage, Section, TooOld
from tests.support.http_proxy import Action, Proxy, answering, sending

USERS = registry["users"]
STAMP = Stamp("primary", 0, 7, Pair(1, "token", None, True))
HASHING = Hashing(1)
SURVEY = SurveyRequest(3)
KEY = ("00000000-0000-4000-8000-000000000001",)
SECRET = "ada@example.com"

Call = Callable[[RestTarget], object]

CALLS: dict[str, tuple[Call, Any]] = {
    "apply": (
        lambda target: target.apply(STAMP, [Section(USERS, deleted=[KEY])]),
        {"horizon": None, "mappings": {"users": {"stale": [], "orphans": [KEY], "ahead": None}}},
    ),
    "open_scopes": (
        lambda target: target.open_scopes(STAMP, [ScopePage(USERS, "*", ("*",))], limit=9),
        {"horizon": None, "sections": [[KEY]]},
    ),
    "withhold": (
        lambda target: target.withhold(STAMP, USERS, KEY, "Rejected"),
        {"outcome": "withheld"},
    ),
    "step": (lambda target: target.step(STAMP, {}), {"clock": "2026-01-01 00:00:00+00"}),
    "purge": (lambda target: target.purge(7), {"purged": 3, "more": False}),
    "describe": (
        lambda target: target.describe(),
        {
            "identity": None,
            "epoch": 0,
            "horizon": 0,
            "mappings": {},
            "migrations": {},
            "withheld": [{"mapping": "users", "reason": "x", "keys": 1, "seconds": 1.5}],
        },
    ),
    "digest": (
        lambda target: target.digest(USERS, HASHING, [KeyRange(())], limit=9),
        {"ranges": [{"until": None, "rows": 1, "sum": "7", "strays": 0}]},
    ),
    "listing": (
        lambda target: target.listing(USERS, HASHING, [KeyRange(())], limit=9),
        {"ranges": [{"until": None, "each": [[*KEY, "7"]]}]},
    ),
    "probe": (lambda target: target.probe(USERS, HASHING), {"probe": "7"}),
    "buckets": (
        lambda target: target.buckets(USERS, HASHING, SURVEY),
        {"buckets": "AAAAAQ==", "rows": "AAAAAQ==", "sums": "AAAAAAAAAAE="},
    ),
    "members": (lambda target: target.members(USERS, HASHING, SURVEY), [[*KEY, "7"]]),
    "rows": (
        lambda target: target.rows(USERS, [KEY]),
        [
            {
                "key": KEY,
                "row": [SECRET],
                "present": True,
                "epoch": 0,
                "fence": 7,
                "edited": False,
                "expired": False,
                "outdated": False,
            }
        ],
    ),
    "expired": (lambda target: target.expired(USERS, after=(), limit=9), [KEY]),
    "trace": (
        lambda target: target.trace("user", []),
        {
            "identity": None,
            "epoch": 0,
            "horizon": 0,
            "users": True,
            "known": True,
            "scopes": [["users", "*", "*", 0, 7]],
            "withheld": [["users", KEY, "x"]],
            "clock": "2026-01-01T00:00:00+00:00",
            "freshness": {"users": "2026-01-01T00:00:00+00:00"},
        },
    ),
    "keys": (lambda target: target.keys(USERS, {}, limit=9), {"keys": [KEY]}),
    "ask": (
        lambda target: target.ask([AskHelper("is_member", ())], [("user", [])]),
        {"facts": [{"there": True}], "answers": [[{"values": ["x"]}]]},
    ),
    "examine": (
        lambda target: target.examine([], []),
        {
            "version": 180000,
            "now": 0.0,
            "types": {},
            "mirrored": [],
            "tables": {},
            "policies": [],
            "functions": {},
        },
    ),
}
"""For each of the target's methods that parse an answer: a call of it, and an answer for it."""

LISTS = {"members", "rows", "expired"}
"""Their answer is a list, which may be empty."""

PAGE = f"<!doctype html><title>{SECRET}</title>".encode()
ODD: dict[str, Action] = {
    "null": answering(200, b"null"),
    "an object": answering(200, b"{}"),
    "an error": answering(200, json.dumps({"message": SECRET}).encode()),
    "a number": answering(200, b"7"),
    "a huge number": answering(200, b"9" * 5000),
    "a boolean": answering(200, b"true"),
    "infinity": answering(200, b"1e999"),
    "a text": answering(200, json.dumps(SECRET).encode()),
    "an odd list": answering(200, b'[7, null, "x"]'),
    "deep": answering(200, b"[" * 100_000),
    "204": sending(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "empty": answering(200, b""),
    "a page": answering(200, PAGE, kind="text/html"),
    "a page as JSON": answering(200, PAGE),
    "not UTF-8": answering(200, b'{"horizon": "' + SECRET.encode() + b'\xff"}'),
    "UTF-16": answering(200, SECRET.encode("utf-16")),
    "corrupt gzip": answering(200, SECRET.encode(), Content_Encoding="gzip"),
    "cut gzip": answering(200, gzip.compress(SECRET.encode())[:-9], Content_Encoding="gzip"),
    "corrupt deflate": answering(200, SECRET.encode(), Content_Encoding="deflate"),
    "an odd charset": answering(200, SECRET.encode(), kind="application/json; charset=hex"),
    "an error in an odd charset": answering(500, PAGE, kind="text/html; charset=hex"),
    "another odd charset": answering(200, SECRET.encode(), kind="text/plain; charset=zlib"),
    "an odd error": answering(500, b'{"message": [7], "code": {}}'),
    "an error that is not UTF-8": answering(500, b'{"message": "\xff"}'),
    "two lengths": sending(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\n{}"),
    "an odd length": sending(b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n{}"),
    "an odd status": sending(b"HTTP/1.1 ada@example.com\r\n\r\n"),
    "an odd header": sending(b"HTTP/1.1 200 OK\r\nada@example.com\r\n\r\n{}"),
    "an odd chunk": sending(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nada@example.com\r\n"
    ),
    "no HTTP": sending(SECRET.encode() + b"\r\n\r\n"),
}


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """A gateway that answers each request by its script."""
    with Proxy("http://127.0.0.1:9") as proxy:
        yield proxy


@pytest.fixture(scope="module")
def target(proxy: Proxy) -> Iterator[RestTarget]:
    """The API behind the gateway, as a worker reaches it."""
    target = RestTarget(proxy.url, "sb_secret_x")
    target.http.pause = lambda _: None
    yield target
    target.close()


def answered(proxy: Proxy, action: Action) -> None:
    """Let the gateway give this answer to each attempt of the next call."""
    proxy.script.clear()
    proxy.script.extend([action] * 8)


@pytest.mark.parametrize("method", CALLS)
def test_a_whole_answer_is_not_damaged(proxy: Proxy, target: RestTarget, method: str) -> None:
    """Otherwise the other tests would prove nothing."""
    call, answer = CALLS[method]
    answered(proxy, answering(200, json.dumps(answer).encode()))
    call(target)


def test_each_method_of_the_target_has_its_call() -> None:
    """A method that is added has to be tried; `rebase` returns nothing, and `twin` asks nothing."""
    methods = {name for name, value in vars(RestTarget.__mro__[1]).items() if callable(value)}
    methods = {name for name in methods if not name.startswith("_")} - {"close", "rebase", "twin"}
    assert methods == set(CALLS)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("method", CALLS)
def test_an_odd_answer_is_transient_and_stays_out_of_the_error(
    proxy: Proxy, target: RestTarget, method: str, odd: str
) -> None:
    """The log has the error with its traceback; the answer may contain rows."""
    answered(proxy, ODD[odd])
    with pytest.raises(Transient) as raised:
        CALLS[method][0](target)
    printed = "".join(traceback.format_exception(raised.value))
    assert SECRET not in printed
    assert "\\xff" not in printed


@pytest.mark.parametrize("method", sorted(CALLS.keys() - LISTS))
def test_an_empty_list_is_damaged(proxy: Proxy, target: RestTarget, method: str) -> None:
    """Only where the target's function returns a list, an empty one is an answer."""
    answered(proxy, answering(200, b"[]"))
    with pytest.raises(Transient, match="its answer is damaged"):
        CALLS[method][0](target)


def test_an_apply_whose_mapping_is_left_out_is_damaged(proxy: Proxy, target: RestTarget) -> None:
    """Its rows would count as written."""
    answered(proxy, answering(200, b'{"horizon": null, "mappings": {}}'))
    with pytest.raises(Transient, match="its answer is damaged"):
        CALLS["apply"][0](target)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@st.composite
def damaged(draw: st.DrawFn, value: Any) -> Any:
    """Draw a JSON value like this one in which one part, at any depth, is replaced."""
    if not value or not isinstance(value, dict | list | tuple) or draw(st.booleans()):
        return draw(VALUES)
    if isinstance(value, dict):
        name = draw(st.sampled_from(sorted(value)))
        return {**value, name: draw(damaged(value[name]))}
    number = draw(st.integers(0, len(value) - 1))
    return [*value[:number], draw(damaged(value[number])), *value[number + 1 :]]


@pytest.mark.parametrize("method", CALLS)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_answer_raises_anything_but_our_errors(
    proxy: Proxy, target: RestTarget, method: str, data: st.DataObject
) -> None:
    """A part of the answer is another value, the body is cut off, or a byte of it is another."""
    call, answer = CALLS[method]
    body = json.dumps(data.draw(damaged(answer))).encode()
    how = data.draw(st.sampled_from(["whole", "cut", "flipped"]))
    if how == "cut":
        body = body[: data.draw(st.integers(0, len(body)))]
    elif how == "flipped":
        at = data.draw(st.integers(0, len(body) - 1))
        body = body[:at] + bytes([data.draw(st.integers(0, 255))]) + body[at + 1 :]
    answered(proxy, answering(200, body))
    with suppress(MirrorError, TooOld):
        call(target)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=40))
@example(value="²")
@example(value="9" * 400)
@example(value="Wed, 21 Oct 99999999999999999999 07:28:00 GMT")
@example(value="Fri, 31 Dec 9999 23:59:59 -2300")
@example(value="Mon, 01 Jan 0001 00:00:00 +2300")
@example(value="-1")
@example(value="1e9")
@example(value="86400")
def test_no_retry_after_silences_a_worker_for_long(value: str) -> None:
    """An API that is well again is called within half a minute, whatever it said before."""
    response = httpx.Response(503, headers=[(b"Retry-After", value.encode("latin-1"))])
    seconds = _retry_after(response)
    assert seconds is None or 0 <= seconds <= 30
