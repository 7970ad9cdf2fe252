"""The verdict of `mirror status`: one sentence that says what goes on."""

from collections.abc import Callable
from contextlib import closing

import pytest
from sqlalchemy.orm import Session

from mappings.trips import registry
from mirror.cli.status_page import print_status
from mirror.diagnostics.figures import Figures, read_figures
from mirror.diagnostics.status import exit_code, verdict
from mirror.reconcile import Options, Throttle, reconcile
from mirror.settings import Settings
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_source, build_target
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory

Read = Callable[[], Figures]


@pytest.fixture
def read(settings: Settings) -> Read:
    """Return a function that reads the figures."""

    def read() -> Figures:
        with closing(build_source(settings)) as source, closing(build_target(settings)) as target:
            return read_figures(settings, registry, source, target)

    return read


def load(drain: Drain) -> None:
    """Run a reconcile to its end."""
    throttle = Throttle(drain.queue.beside, backlog=10**9, latency_seconds=60)
    reconcile(drain, Options(grace_seconds=0), throttle)


def test_a_mirror_that_was_never_compared_says_so(read: Read) -> None:
    """This is no fault: a resync may have loaded it."""
    figures = read()
    assert verdict(figures) == [
        "No event waits, but both sides were never compared: run `mirror reconcile`."
    ]
    assert exit_code(figures) == 0


def test_changes_that_no_worker_takes_are_not_called_right(
    read: Read, drain: Drain, primary: TestDatabase
) -> None:
    """Long before they count as late: whether a worker is at work is known."""
    drain.run()
    primary.query(
        "insert into mirror.outbox (recorded_at, lane, mapping, key)"
        " values (now() - interval '20 s', 0, 'users', '{a}')"
    )
    (calm,) = verdict(read())
    assert calm.startswith("Nothing is wrong; changes wait, the oldest for 2")
    primary.query("update mirror.heartbeats set seen_at = now() - interval '2 min'")
    (stopped,) = verdict(read())
    primary.query("delete from mirror.heartbeats")
    (never,) = verdict(read())
    assert stopped.endswith(" s; no worker has drained for 2 min. Does one run?")
    assert never.endswith(" s; no worker has ever drained. Does one run?")


def test_a_mirror_in_which_all_is_well_says_so(
    read: Read, drain: Drain, primary: TestDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    """A change that was not recorded is found by a comparison, so the sentence has its age.

    The page has neither identities nor epochs, which are equal.
    """
    load(drain)
    primary.query("update mirror.runs set started_at = now() - interval '3 h'")
    says = (
        "All is well: every change that was recorded is in force; both sides were compared 3 h ago."
    )
    assert verdict(read()) == [says]
    print_status(read())
    page = capsys.readouterr().out
    assert page.startswith(f"{says}\n")
    assert not {"epoch", "expects", "broker", "mappings", "failed"} & set(page.split())


def test_a_first_load_that_did_not_end_says_what_to_do(
    read: Read, drain: Drain, session: Session, primary: TestDatabase
) -> None:
    """Its safety notes are no events that fail."""
    MembershipFactory()
    session.commit()
    primary.query(
        "insert into mirror.retries (id, lane, recorded_at, mapping, reference, key, attempts,"
        " due_at, error) select 1000, 1, now(), 'trip_memberships', '*', '{}', 0, now(), %s",
        "for the case that the reconcile which is loading this ends before its time",
    )
    assert verdict(read()) == ["First load incomplete (trip_memberships): run `mirror reconcile`."]
    load(drain)
    (says,) = verdict(read())
    assert says.startswith("All is well: every change that was recorded is in force; ")


def test_a_comparison_that_was_stopped_is_not_called_one(
    read: Read, drain: Drain, primary: TestDatabase
) -> None:
    """Its drift may remain."""
    load(drain)
    primary.query("update mirror.runs set outcome = 'stopped', started_at = now() - interval '3 h'")
    (says,) = verdict(read())
    assert says.endswith(" is in force; the last comparison of both sides was stopped, 3 h ago.")


def test_what_waits_and_what_is_retried_is_said(
    read: Read, drain: Drain, primary: TestDatabase
) -> None:
    """Neither is a fault yet."""
    primary.query(
        "insert into mirror.outbox (recorded_at, mapping, key)"
        " values (now() - interval '5 s', 'users', '{x}')"
    )
    (says,) = verdict(read())
    assert says.startswith("Nothing is wrong; changes wait, the oldest for ")
    drain.run()
    assert verdict(read()) == ["1 event(s) failed lately and are retried."]


def test_each_fault_is_a_sentence_with_its_remedy(
    read: Read, drain: Drain, primary: TestDatabase
) -> None:
    """They come first on the page."""
    primary.query("insert into mirror.outbox (mapping, key) values ('users', '{x}')")
    drain.run()
    primary.query("update mirror.retries set buried_at = now()")
    (says,) = verdict(read())
    assert says.startswith("primary: 1 event(s) are buried. Events are buried: fix the errors")
