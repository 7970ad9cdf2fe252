"""The page in a real browser, with planted faults: what is read, and what an operator can do."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from examples.trip_chat.models import Membership
from mirror.sync.drain import Drain
from tests.browser.conftest import CheckAccess, OpenPage, picture
from tests.support.databases import TestDatabase
from tests.support.reconciling import Reconciling
from tests.support.serving import Visit
from tests.support.waiting import until

ROOT = Path(__file__).parent.parent.parent
PHONE = {"viewport": {"width": 360, "height": 780}, "is_mobile": True, "device_scale_factor": 2}
BURIED = """
insert into mirror.retries
  (id, lane, recorded_at, mapping, key, attempts, due_at, error, buried_at)
values (%s, 0, now() - interval '7 min', 'trip_memberships', %s, 5, now(), %s, now())
"""
REJECTED = (
    "Rejected: target: a row of trip_memberships violates check constraint role_known [23514]"
)


@pytest.fixture
def broken(
    members: list[Membership],
    drain: Drain,
    reconcile: Reconciling,
    primary: TestDatabase,
    target: TestDatabase,
) -> list[Membership]:
    """Sixty members, and four faults.

    The worker has stopped and a revocation waits; two events are dead; the reconcile held back the
    deletes of 40 members, who still have access.
    """
    drain.run()
    gone = [str(one.user_id) for one in members[:40]]
    primary.query("delete from trip_memberships where user_id = any(%s::uuid[])", gone)
    assert reconcile(max_deletes=20).outcome == "held back"
    for number, member in enumerate(members[40:42], 101):
        primary.query(BURIED, number, [str(member.trip_id), str(member.user_id)], REJECTED)
    primary.query(
        "insert into mirror.outbox (recorded_at, mapping, key)"
        " values (now() - interval '3 min', 'trip_memberships', %s)",
        [str(members[50].trip_id), str(members[50].user_id)],
    )
    primary.query("update mirror.heartbeats set seen_at = now() - interval '6 min'")
    target.query("insert into auth.users (id) values (%s)", members[0].user_id)
    return members


@pytest.fixture
def url(broken: list[Membership], visit: Visit) -> str:
    """The address of the page."""
    return visit().url


def why(url: str, member: Membership) -> str:
    """Return the address that asks about a member's access to the trip."""
    return f"{url}/why?user={member.user_id}&kind=trip&resource={member.trip_id}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_view_can_be_read_by_everyone(
    scheme: str,
    broken: list[Membership],
    url: str,
    open_page: OpenPage,
    check_access: CheckAccess,
) -> None:
    """On a desk and on a phone, in both colours: no violation of axe-core's rules, nothing cut."""
    views = {
        "now": url,
        "why": why(url, broken[0]),
        "waiting": f"{url}/waiting",
        "event": f"{url}/event/101",
        "drift": f"{url}/drift",
        "person": f"{url}/person?user={broken[0].user_id}",
        "resource": f"{url}/resource?kind=trip&resource={broken[0].trip_id}",
    }
    desk = open_page(url, color_scheme=scheme, viewport={"width": 1100, "height": 800})
    phone = open_page(url, color_scheme=scheme, **PHONE)
    # The picture in the README; copy it to docs/page.png after a change.
    picture(desk, f"page-{scheme}", whole=False)
    for name, address in views.items():
        for device, page in (("desk", desk), ("phone", phone)):
            page.goto(address)
            picture(page, f"{name}-{scheme}-{device}")
            check_access(page)
            assert page.viewport_size is not None
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= page.viewport_size["width"], (name, device)


def test_now_says_what_is_wrong_and_what_to_type(
    broken: list[Membership], url: str, open_page: OpenPage
) -> None:
    """The sentence, the people with too much access, the lamp of the worker, and its remedy."""
    page = open_page(url, permissions=["clipboard-read", "clipboard-write"])
    verdict = page.get_by_role("region", name="Verdict")
    expect(verdict).to_contain_text("wrong")
    expect(verdict).to_contain_text("3 revocations are not in force, the oldest for 7 min")
    expect(verdict).to_contain_text("left 40 rows that should be gone")
    table = page.get_by_role("region", name="Revocations that are not in force")
    expect(table).to_contain_text(str(broken[40].user_id))
    worker = page.get_by_role("row", name=re.compile("^worker"))
    expect(worker).to_contain_text("was at work 6 min ago")
    worker.get_by_role("button", name=re.compile("Copy celery")).click()
    assert page.evaluate("navigator.clipboard.readText()") == "celery -A mirror.worker worker"


def test_now_is_read_again_by_itself_and_says_so_when_it_cannot_be(
    primary: TestDatabase, url: str, open_page: OpenPage
) -> None:
    """The focus stays; a page that is no longer updated must not be believed."""
    page = open_page(url)
    page.clock.install()
    page.goto(url)
    expect(page.get_by_role("status")).to_contain_text("3 revocations")
    page.get_by_role("link", name="Read again").focus()
    primary.query("delete from mirror.outbox")
    page.clock.run_for(11_000)
    expect(page.get_by_role("status")).to_contain_text("2 revocations")
    expect(page.get_by_role("link", name="Read again")).to_be_focused()
    expect(page.get_by_role("alert")).to_be_hidden()
    page.route("**/*", lambda route: route.abort())
    page.clock.run_for(45_000)
    expect(page.get_by_role("alert")).to_contain_text("has not been updated")


def test_why_follows_an_over_grant_from_form_to_answer(
    broken: list[Membership], url: str, open_page: OpenPage
) -> None:
    """The address can be sent: it shows the same answer to the next person."""
    page = open_page(f"{url}/why")
    page.get_by_label("User's id").fill(str(broken[0].user_id))
    page.get_by_label("Resource's id").fill(str(broken[0].trip_id))
    page.get_by_role("button", name="Explain").click()
    expect(page.get_by_text("Allowed, but the primary grants nothing.")).to_be_visible()
    again = open_page(page.url)
    expect(again.get_by_text("Allowed, but the primary grants nothing.")).to_be_visible()
    again.get_by_role("link", name="all access of this user").click()
    expect(again.get_by_role("region", name="Access")).to_contain_text(str(broken[0].trip_id))


def test_dead_events_are_retried_and_discarded_after_the_word_was_typed(
    primary: TestDatabase, url: str, open_page: OpenPage
) -> None:
    """One after the other: retry one of them, discard the rest of its cause."""
    page = open_page(f"{url}/waiting")
    expect(page.get_by_role("heading", name="2 events of trip_memberships")).to_be_visible()
    page.get_by_role("link", name="101", exact=True).click()
    page.get_by_label("Type retry to confirm").fill("no")
    page.get_by_role("button", name="Retry this event").click()
    expect(page.get_by_role("alert")).to_contain_text("type retry")
    page.go_back()
    page.get_by_label("Type retry to confirm").fill("retry")
    page.get_by_role("button", name="Retry this event").click()
    expect(page.get_by_role("status")).to_have_text("1 event will be retried.")
    page.get_by_label("Type discard to confirm").fill("discard")
    page.get_by_role("button", name="Discard 1 event").click()
    expect(page.get_by_role("status")).to_have_text("1 event deleted.")
    expect(page.get_by_role("heading", name="of trip_memberships")).to_have_count(0)
    assert primary.query("select id from mirror.retries") == [(101,)]


def test_held_back_deletes_are_confirmed_by_their_count(
    target: TestDatabase, url: str, open_page: OpenPage
) -> None:
    """Another number does nothing."""
    page = open_page(f"{url}/drift")
    field = page.get_by_label("Type 40 to delete 40 rows of trip_memberships")
    field.fill("41")
    page.get_by_role("button", name="Reconcile, and delete these rows").click()
    expect(page.get_by_role("alert")).to_contain_text("another number was typed")
    page.go_back()
    field.fill("40")
    page.get_by_role("button", name="Reconcile, and delete these rows").click()
    until(lambda: page.reload() and page.get_by_text("It ended: repaired.").count())
    assert target.value("select count(*) from trip_memberships") == 20


def test_the_page_works_without_javascript_and_with_the_keyboard(
    broken: list[Membership], url: str, open_page: OpenPage
) -> None:
    """Views, a form and an action."""
    page = open_page(url, java_script_enabled=False)
    expect(page.get_by_role("status")).to_contain_text("Access may be too wide")
    expect(page.get_by_role("button", name=re.compile("Copy"))).to_have_count(0)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Waiting")
    page.get_by_label("Type retry to confirm").focus()
    page.keyboard.type("retry")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("2 events will be retried.")


@pytest.fixture
def served(primary: TestDatabase, target: TestDatabase) -> Iterator[subprocess.Popen[str]]:
    """The command `mirror serve`, which has printed its first link."""
    command = [str(Path(sys.executable).parent / "mirror"), "serve", "--port", "0"]
    environment = {"PRIMARY_DATABASE_URL": primary.url, "SUPABASE_DB_URL": target.url}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.terminate()


def test_a_link_opens_the_page_once(served: subprocess.Popen[str], open_page: OpenPage) -> None:
    """Another browser needs the next link."""
    assert served.stdout is not None
    link = served.stdout.readline().removeprefix("open ").strip()
    page = open_page(link)
    page.get_by_role("button", name="Open the page").click()
    expect(page.get_by_role("navigation", name="Views")).to_be_visible()
    assert "token" not in page.url
    second = served.stdout.readline().removeprefix("open ").strip()
    assert second != link
    other: Page = open_page(second)
    other.get_by_role("button", name="Open the page").click()
    expect(other.get_by_role("navigation", name="Views")).to_be_visible()
