"""The page over HTTP, without a browser: what it says, who is admitted, and what actions do."""

import re
from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from examples.trip_chat.models import Membership
from mappings.trips import registry
from mirror.serve import app
from mirror.serve.application import ACTIONS, VIEWS
from mirror.serve.watch import Watch
from mirror.sync.drain import Drain
from tests.support.databases import TestDatabase
from tests.support.reconciling import Reconciling
from tests.support.serving import Visit, Visitor, page_settings, serving, words
from tests.support.waiting import until

NOWHERE = "postgresql://someone:hunter2@127.0.0.1:9/nothing"
BURIED = """
insert into mirror.retries
  (id, lane, recorded_at, mapping, key, attempts, due_at, error, buried_at)
values (%s, %s, now() - interval '4 min', 'trip_memberships', %s, 5, now(), %s, now())
"""
WAITS = """
insert into mirror.outbox (recorded_at, lane, mapping, key)
values (now() - %s::interval, %s, 'trip_memberships', %s)
"""


@pytest.fixture
def mirrored(members: list[Membership], primary: TestDatabase, drain: Drain) -> list[Membership]:
    """Members that are mirrored, and a worker that was at work a moment ago."""
    drain.run()
    # Without Redis, `mirror run` does the work.
    primary.query(
        "insert into mirror.heartbeats (name) values ('drain'), ('run') on conflict do nothing"
    )
    return members


def key(member: Membership) -> list[str]:
    """Return a member's key."""
    return [str(member.trip_id), str(member.user_id)]


def query(member: Membership) -> str:
    """Return the parameters that ask about a member's access to the trip."""
    return f"user={member.user_id}&kind=trip&resource={member.trip_id}"


# The sentences of the page


def test_now_says_that_all_is_well_only_if_everything_is_known(
    mirrored: list[Membership], visit: Visit
) -> None:
    """The sentence promises what is in force; a part that cannot be read takes it back."""
    says = visit().text("/")
    assert "All is well: every change that was recorded is in force; both sides were" in says
    assert "What to do" not in says
    for changes in (
        {"primary_database_url": NOWHERE},
        {"supabase_db_url": NOWHERE},
        {"redis_url": "redis://:hunter2@127.0.0.1:9/0"},
    ):
        says = visit(**changes).text("/")
        assert "cannot tell whether access is right" in says
        assert "All is well" not in says
        assert "hunter2" not in says


def test_what_only_the_page_reads_is_unknown_if_it_cannot_be_read(
    mirrored: list[Membership], primary: TestDatabase, visit: Visit
) -> None:
    """The figures are known, and the page does not say that all is well."""
    primary.query("drop table mirror.leases")
    says = visit().text("/")
    assert "cannot tell whether access is right" in says
    assert "All is well" not in says


def test_now_names_the_revocations_that_are_not_in_force(
    mirrored: list[Membership], primary: TestDatabase, visit: Visit
) -> None:
    """A late one is access that may be too wide; one that is on its way is not."""
    visitor = visit()
    first, second, third = (key(one) for one in mirrored[:3])
    primary.query(WAITS, "1 s", 0, first)
    says = visitor.text("/")
    assert "changes wait, the oldest for" in says
    primary.query(WAITS, "3 min", 0, second)
    primary.query(BURIED, 70, 0, third, "Rejected: no")
    says = visitor.text("/")
    assert "Access may be too wide: 2 revocations are not in force, the oldest for 4 min" in says
    assert f"trip_memberships {','.join(second)} waiting 3 min" in says
    assert f"trip_memberships {','.join(third)} dead 4 min 70" in says


def test_a_stopped_worker_is_wrong_and_the_remedy_can_be_copied(
    mirrored: list[Membership], primary: TestDatabase, visit: Visit
) -> None:
    """The lamp of the part has the words of the doctor."""
    primary.query("update mirror.heartbeats set seen_at = now() - interval '10 min'")
    answer = visit().get("/")
    assert "worker ✖ wrong was at work 10 min ago" in words(answer.text)
    assert 'data-copy="celery -A mirror.worker worker"' in answer.text


def test_why_explains_an_over_grant_and_its_link_repeats_the_question(
    mirrored: list[Membership], target: TestDatabase, primary: TestDatabase, visit: Visit
) -> None:
    """A row that was edited by hand in the target, with ids only."""
    member = mirrored[0]
    target.query("insert into auth.users (id) values (%s)", member.user_id)
    visitor = visit()
    assert "Allowed." in visitor.text(f"/why?{query(member)}")
    primary.query("delete from trip_memberships where (trip_id, user_id) = (%s, %s)", *key(member))
    says = visitor.text(f"/why?{query(member)}")
    assert "Allowed, but the primary grants nothing." in says
    assert "The decisive step is" in says
    assert "@example.com" not in says


def test_why_names_bad_ids_and_unknown_kinds(visit: Visit) -> None:
    """Bad input is a message with status 400, not a failure of the server."""
    visitor = visit()
    for path, says in {
        f"/why?user=nonsense&kind=trip&resource={uuid4()}": "expected a UUID",
        f"/why?user={uuid4()}&kind=ship&resource={uuid4()}": "no access declaration for 'ship'",
        f"/why?user={uuid4()}&kind=trip&resource=12": "trip_id",
        "/person?user=%00": "expected a UUID",
        "/resource?kind=trip&resource=x": "trip_id",
        "/event/99999999999999999999": "so high a number",
        "/event/12345": "neither waits nor is set apart",
    }.items():
        answer = visitor.get(path)
        assert answer.status_code == 400, (path, answer.text)
        assert says in words(answer.text), path


def test_person_and_resource_list_access_with_the_rows_that_give_it(
    mirrored: list[Membership], target: TestDatabase, visit: Visit
) -> None:
    """The answer is that of row-level security; no name and no address is in it."""
    member = mirrored[0]
    visitor = visit()
    row = f"trip_memberships {','.join(key(member))}"
    person, resource = f"user={member.user_id}", f"kind=trip&resource={member.trip_id}"
    for path in (f"/person?{person}", f"/resource?{resource}"):
        says = visitor.text(path)
        assert f"{member.user_id} MEMBER {row}" in says
        assert "@example.com" not in says
    assert "No mirrored row leads to any access" in visitor.text(f"/person?user={uuid4()}")


def test_texts_from_a_database_are_escaped(primary: TestDatabase, visit: Visit) -> None:
    """A writer of the outbox decides on names of mappings and on keys."""
    evil = "<script>alert(1)</script>\x1b[31m"
    primary.query(BURIED, 1, 0, [evil], evil)
    primary.query("insert into mirror.outbox (lane, mapping, key) values (0, %s, '{a}')", evil)
    visitor = visit()
    for path in ("/", "/waiting", "/event/1"):
        text = visitor.get(path).text
        assert "<script>alert" not in text
        assert "\x1b" not in text
        assert "&lt;script&gt;" in text


# Admission


def test_no_answer_of_authorize_but_a_level_admits(visit: Visit) -> None:
    """None refuses, and so does what is no level."""
    visitor = visit()
    for level in ("", "admin", "True"):
        for path in (*VIEWS, "/metrics"):
            answer = visitor.get(path.replace("{number:int}", "1"), headers={"x-level": level})
            assert answer.status_code == 403, path
            assert "trip" not in answer.text


@pytest.mark.parametrize("path", ACTIONS)
def test_an_action_needs_operate_a_token_of_this_page_and_a_post(
    path: str, mirrored: list[Membership], primary: TestDatabase, visit: Visit
) -> None:
    """Otherwise nothing is done."""
    primary.query(BURIED, 7, 0, ["a"], "Rejected: no")
    visitor = visit()
    word = path.rpartition("/")[2]
    form = {"word": word, "event": "7", "count trip_memberships": "1"}
    token = re.search(r'name="csrf" value="([^"]+)"', visitor.get("/drift").text)[1]  # type: ignore[index]
    signed = form | {"csrf": token}
    refused = [
        visitor.http.post(path, data=form),
        visitor.http.post(path, data=form | {"csrf": "x" * 43}),
        *(
            visitor.http.post(path, data=signed, headers=headers)
            for headers in (
                {"x-level": "view"},
                {"x-level": ""},
                {"origin": "https://evil.example"},
                {"sec-fetch-site": "cross-site"},
            )
        ),
    ]
    assert [answer.status_code for answer in refused] == [403] * len(refused)
    assert visitor.get(path, params=signed).status_code == 405
    too_long = visitor.http.post(path, data=signed | {"more": "x" * 100_000})
    assert too_long.status_code == 413
    assert primary.query("select id from mirror.retries where buried_at is not null") == [(7,)]
    assert primary.value("select count(*) from mirror.runs") == 1


def test_viewers_see_no_form_of_an_action(
    mirrored: list[Membership], primary: TestDatabase, visit: Visit
) -> None:
    """The page does not offer what it would refuse."""
    primary.query(BURIED, 7, 0, ["a"], "Rejected: no")
    visitor = visit()
    for path in ("/waiting", "/drift", "/event/7"):
        assert 'method="post"' in visitor.get(path).text
        assert 'method="post"' not in visitor.get(path, headers={"x-level": "view"}).text


def test_no_get_changes_a_database(
    mirrored: list[Membership], primary: TestDatabase, target: TestDatabase, visit: Visit
) -> None:
    """The databases are as they were, table by table."""
    primary.query(BURIED, 7, 0, key(mirrored[0]), "Rejected: no")

    def contents(database: TestDatabase) -> dict[str, str]:
        tables = database.query(
            "select format('%I.%I', schemaname, tablename) from pg_tables"
            " where schemaname in ('mirror', 'public') order by 1"
        )
        return {
            name: database.value(f"select md5(string_agg(t::text, '|')) from {name} as t")
            for (name,) in tables
        }

    before = contents(primary), contents(target)
    visitor = visit()
    paths = [path.replace("{number:int}", "7") for path in VIEWS]
    for path in (*paths, f"/why?{query(mirrored[0])}", "/metrics", "/healthz", "/readyz"):
        assert visitor.get(path).status_code == 200, path
    assert (contents(primary), contents(target)) == before


def test_every_answer_has_strict_headers(visit: Visit) -> None:
    """Pages, files, refusals, errors and probes."""
    visitor = visit()
    for path in ("/", "/static/page.css", "/event/1", "/nothing", "/healthz", "/metrics"):
        headers = visitor.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"
    assert visitor.get("/").headers["cache-control"] == "no-store"


def test_a_page_names_nothing_of_another_host_and_has_no_inline_code(
    mirrored: list[Membership], visit: Visit
) -> None:
    """No CDN; and what the policy forbids is not there."""
    visitor = visit()
    for path in VIEWS:
        if "{" in path:
            continue
        text = visitor.get(path).text
        assert not re.search(r"""(?:src|href|action)=["']?(?:https?:)?//""", text)
        assert not re.search(r"""<style|style=|\son\w+=|<script(?![^>]*src=)""", text)
        for file in re.findall(r'"(/static/[^"]+)"', text):
            assert visitor.get(file).status_code == 200


def test_the_app_can_be_mounted_below_a_path_behind_a_sign_in(
    mirrored: list[Membership], primary: TestDatabase, target: TestDatabase
) -> None:
    """Links, files, cookies and redirects stay below it; `authorize` may be a coroutine."""

    async def authorize(request: Request) -> Any:
        return "operate" if request.headers.get("authorization") == "me" else None

    primary.query(BURIED, 7, 0, key(mirrored[0]), "Rejected: no")
    mirror = app(authorize, settings=page_settings(primary, target))
    with serving(Starlette(routes=[Mount("/ops/mirror", mirror)])) as url:
        visitor = Visitor(url)
        with closing(visitor.http):
            assert visitor.get("/ops/mirror/").status_code == 403
            assert visitor.get("/ops/mirror/metrics").status_code == 403
            assert visitor.get("/ops/mirror/healthz").text == "alive"
            visitor.http.headers["authorization"] = "me"
            answer = visitor.get("/ops/mirror/waiting")
            links = re.findall(r'(?:href|src|action|hx-get)="(/[^"]*)"', answer.text)
            assert len(links) > 5
            assert all(link.startswith("/ops/mirror/") for link in links)
            assert "Path=/ops/mirror" in answer.headers["set-cookie"]
            answer = visitor.send(
                "/ops/mirror/waiting/retry", "/ops/mirror/drift", word="retry", event="7"
            )
            assert answer.headers["location"].startswith("/ops/mirror/waiting?done=retry")
            assert "1 event will be retried" in visitor.text(answer.headers["location"])


# Effects of actions


def test_dead_events_are_grouped_by_cause_and_retried_or_discarded_together(
    primary: TestDatabase, visit: Visit
) -> None:
    """Each action is about the events of its cause, and leaves a record."""
    for number in (1, 2, 3):
        primary.query(BURIED, number, 0, [f"k{number}"], "Rejected: the type")
    primary.query(BURIED, 4, 1, ["k4"], "Rejected: <another> & `one`")
    visitor = visit()
    says = visitor.text("/waiting")
    assert "3 events of trip_memberships Rejected: the type" in says
    assert "1 event of trip_memberships Rejected: <another> & one" in says
    page = visitor.get("/waiting").text
    causes = re.findall(r'name="cause" value="(\w+)"', page)
    assert len(causes) == 4
    form = {"mapping": "trip_memberships", "cause": causes[0]}
    wrong = visitor.send("/waiting/retry", word="Retry", **form)
    assert (wrong.status_code, "type retry" in words(wrong.text)) == (400, True)

    with structlog.testing.capture_logs() as records:
        done = visitor.send("/waiting/retry", word=" retry ", **form)
    assert done.status_code == 303
    assert "3 events will be retried." in visitor.text(done.headers["location"])
    assert primary.query("select id from mirror.retries where buried_at is not null") == [(4,)]
    record = next(one for one in records if one["event"] == "operated")
    assert (record["action"], record["operator"], record["events"]) == ("retry", "op-1", 3)

    form["cause"] = causes[2]
    with structlog.testing.capture_logs() as records:
        done = visitor.send("/waiting/discard", word="discard", **form)
    record = next(one for one in records if one["event"] == "operated")
    assert (record["action"], record["first"], "k4" in str(record)) == ("discard", [4], False)
    assert "1 event deleted." in visitor.text(done.headers["location"])
    assert primary.value("select count(*) from mirror.retries where id = 4") == 0
    gone = visitor.send("/waiting/discard", word="discard", **form)
    assert (gone.status_code, "no such event is dead" in gone.text) == (400, True)


def test_an_event_that_is_not_dead_is_not_discarded_by_its_number(
    primary: TestDatabase, visit: Visit
) -> None:
    """It may be a revocation that workers retry until it succeeds."""
    primary.query(BURIED, 5, 0, ["k"], "Rejected: no")
    primary.query("update mirror.retries set buried_at = null, due_at = now() + interval '1 h'")
    answer = visit().send("/waiting/discard", word="discard", event="5")
    assert answer.status_code == 400
    assert primary.value("select count(*) from mirror.retries") == 1


def test_held_back_deletes_go_only_after_their_count_was_typed(
    mirrored: list[Membership],
    reconcile: Reconciling,
    primary: TestDatabase,
    target: TestDatabase,
    visit: Visit,
) -> None:
    """A wrong count does nothing, and the right one allows no more than that."""
    primary.query("delete from trip_memberships")
    assert reconcile().outcome == "held back"
    visitor = visit()
    says = visitor.text("/drift")
    assert "the primary has no row of trip_memberships at all, the target has 60" in says
    assert "left 60 rows that should be gone" in visitor.text("/")
    field = "count trip_memberships"
    for typed in ("", "59", "all", "60 "):
        answer = visitor.send("/drift/confirm", **{field: typed})
        if typed.strip() == "60":
            break
        assert answer.status_code == 400
    assert answer.status_code == 303
    until(lambda: "It ended: repaired" in visitor.text("/drift"))
    assert target.value("select count(*) from trip_memberships") == 0
    run = primary.query("select started_by, outcome from mirror.runs order by id desc limit 1")
    assert run == [("page", "repaired")]
    assert "too wide" not in visitor.text("/")


def test_a_confirmed_count_does_not_cover_rows_that_came_since(
    mirrored: list[Membership],
    reconcile: Reconciling,
    primary: TestDatabase,
    target: TestDatabase,
    visit: Visit,
) -> None:
    """The primary had lost ten; by the time of the confirmation, it has lost all."""
    some = [str(one.user_id) for one in mirrored[:10]]
    primary.query("delete from trip_memberships where user_id = any(%s::uuid[])", some)
    assert reconcile(max_deletes=5).outcome == "held back"
    primary.query("delete from trip_memberships")
    visitor = visit()
    assert visitor.send("/drift/confirm", **{"count trip_memberships": "10"}).status_code == 303
    until(lambda: "It ended: held back" in visitor.text("/drift"))
    assert target.value("select count(*) from trip_memberships") == 60


def test_a_comparison_names_what_differs_and_changes_nothing(
    mirrored: list[Membership], primary: TestDatabase, target: TestDatabase, visit: Visit
) -> None:
    """The keys are those of rows that differ; the next order repairs them."""
    primary.query("delete from trip_memberships where user_id = %s", mirrored[0].user_id)
    visitor = visit()
    assert visitor.send("/drift/compare", word="compare").status_code == 303
    until(lambda: "nothing was changed" in visitor.text("/drift"))
    says = visitor.text("/drift")
    assert f"{','.join(key(mirrored[0]))} : extra" in says
    assert target.value("select count(*) from trip_memberships") == 60
    assert visitor.send("/drift/reconcile", word="reconcile").status_code == 303
    until(lambda: "It ended: repaired" in visitor.text("/drift"))
    assert target.value("select count(*) from trip_memberships") == 59


def test_many_requests_share_one_reading_for_five_seconds(
    primary: TestDatabase, target: TestDatabase
) -> None:
    """A page that many people look at costs the databases no more; an action reads again."""
    now = 0.0
    watch = Watch(page_settings(primary, target), registry, clock=lambda: now)
    first = watch.read()
    now = 4.9
    assert watch.read() is first
    now = 5.1
    second = watch.read()
    assert second is not first
    watch.forget()
    assert watch.read() is not second
