"""`mirror status ID`: one event, its error, and the access that is wrong because of it."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from uuid import uuid4

import psycopg
import pytest
import typer
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from examples.trip_chat.models import Membership
from mappings.trips import registry
from mirror.cli.operate import discard
from mirror.diagnostics.event import EventReport, read_event
from mirror.errors import UsageError
from mirror.sync.drain import Drain
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory

Describe = Callable[..., EventReport]

WAITS = """
insert into mirror.outbox (id, lane, mapping, reference, key) overriding system value
values (%s, 0, %s, %s, %s)
"""
SET_APART = """
insert into mirror.retries
  (id, lane, recorded_at, mapping, reference, key, attempts, due_at, error, buried_at)
values (%s, 0, now() - interval '5 min', %s, %s, %s, 3, now() + interval '1 min',
  'Rejected: no', %s)
"""


@pytest.fixture
def describe(drain: Drain) -> Describe:
    """Return a function that describes an event."""
    return lambda number: read_event(registry, drain.source, drain.target, number)


@pytest.fixture
def member(session: Session, drain: Drain, primary: TestDatabase) -> Membership:
    """A member who is mirrored."""
    made: Membership = MembershipFactory()
    session.commit()
    for mapping in ("users", "trips", "trip_memberships"):
        primary.query(
            "insert into mirror.outbox (mapping, reference, key) values (%s, '*', '{}')", mapping
        )
    drain.run()
    return made


def key_of(member: Membership) -> tuple[str, str]:
    """Return a member's key."""
    return str(member.trip_id), str(member.user_id)


def remove(primary: TestDatabase, member: Membership) -> None:
    """Delete a member in the primary without an event."""
    primary.query(
        "delete from trip_memberships where (trip_id, user_id) = (%s, %s)", *key_of(member)
    )


def test_a_removed_member_who_is_still_in_the_target_is_named(
    primary: TestDatabase, member: Membership, describe: Describe
) -> None:
    """It says which event, since when, why, and that the key allows too much now."""
    remove(primary, member)
    primary.query(SET_APART, 7, "trip_memberships", None, list(key_of(member)), None)
    report = describe(7)
    event = report.event
    assert event.subject == f"trip_memberships {','.join(key_of(member))}"
    assert (event.lane, event.state, event.attempts) == ("revocation", "set apart", 3)
    assert (event.error, event.age_seconds // 60) == ("Rejected: no", 5)
    assert event.next_seconds is not None
    assert 0 < event.next_seconds <= 60
    (access,) = report.access
    assert (access.over, access.under, access.other) == ((key_of(member),), (), ())
    assert "retries" in report.remedy
    assert report.exit_code == 1


@pytest.mark.parametrize("state", ["waiting", "claimed", "dead"])
def test_the_state_of_an_event_decides_the_remedy(
    primary: TestDatabase, member: Membership, describe: Describe, state: str
) -> None:
    """A difference is named whatever the state; only a dead event needs an operator."""
    remove(primary, member)
    if state == "dead":
        primary.query(SET_APART, 7, "trip_memberships", None, list(key_of(member)), "now")
    else:
        primary.query(WAITS, 7, "trip_memberships", None, list(key_of(member)))
    with ExitStack() as stack:
        if state == "claimed":
            worker = stack.enter_context(psycopg.connect(primary.url))
            worker.execute("delete from mirror.outbox")
        report = describe(7)
    assert report.event.state == state
    assert report.access[0].over == (key_of(member),)
    assert ("mirror retry 7" in report.remedy) == (state == "dead")
    assert report.exit_code == int(state == "dead")


def test_a_row_that_is_right_is_said_to_be_right(
    primary: TestDatabase, member: Membership, describe: Describe
) -> None:
    """An event may have been overtaken by another."""
    primary.query(SET_APART, 7, "trip_memberships", None, list(key_of(member)), None)
    (access,) = describe(7).access
    assert str(access) == "trip_memberships: none is wrong, of 1 row(s)"


def test_of_a_parent_the_rows_of_its_children_are_compared(
    primary: TestDatabase, member: Membership, describe: Describe
) -> None:
    """A deleted trip's members keep access, too."""
    primary.query("update trips set deleted_at = now() where id = %s", member.trip_id)
    primary.query(SET_APART, 7, "trips", None, [str(member.trip_id)], None)
    over = {access.mapping: access.over for access in describe(7).access}
    assert over == {"trips": ((str(member.trip_id),),), "trip_memberships": (key_of(member),)}


@pytest.mark.parametrize("reference", ["trip_id", "*"])
def test_of_a_scope_the_first_keys_are_compared(
    primary: TestDatabase, session: Session, member: Membership, describe: Describe, reference: str
) -> None:
    """One member is gone in the primary, another is missing in the target."""
    remove(primary, member)
    newcomer = MembershipFactory(trip_id=member.trip_id, trip=None)
    session.commit()
    value = [str(member.trip_id)] if reference == "trip_id" else []
    primary.query(WAITS, 7, "trip_memberships", reference, value)
    (access,) = describe(7).access
    assert (access.over, access.under) == ((key_of(member),), (key_of(newcomer),))
    assert (access.keys, access.complete) == (2, True)


@pytest.mark.parametrize(
    ("mapping", "reference", "key"),
    [
        ("users", None, ["ada"]),
        ("trip_memberships", None, [str(uuid4())]),
        ("users", None, [None]),
        ("trip_memberships", "trip_id", ["ada"]),
        ("trip_memberships", "planet", [str(uuid4())]),
        ("trip_memberships", "trip_id", []),
        ("journeys", None, ["1"]),
    ],
)
def test_an_event_that_can_name_no_row_is_to_be_discarded(
    primary: TestDatabase,
    describe: Describe,
    mapping: str,
    reference: str | None,
    key: list[str | None],
) -> None:
    """Its key has the wrong number of parts or does not cast, or nothing is declared for it."""
    primary.query(SET_APART, 7, mapping, reference, key, "now")
    report = describe(7)
    assert report.no_row is not None
    assert report.access == ()
    assert "mirror discard 7" in report.remedy
    assert report.exit_code == 1


def test_a_row_that_cannot_be_read_is_unknown(
    primary: TestDatabase, member: Membership, describe: Describe
) -> None:
    """Unknown is not right: the command exits with 1 although the event only waits."""
    primary.query("alter table users rename column username to called")
    primary.query(WAITS, 7, "users", None, [str(member.user_id)])
    report = describe(7)
    assert "unknown: the row cannot be read" in str(report.access[0])
    assert report.exit_code == 1


def test_a_number_that_no_event_has_is_an_error(describe: Describe) -> None:
    """It was applied meanwhile, or mistyped."""
    with pytest.raises(UsageError, match="event 7 neither waits nor is set apart"):
        describe(7)


@pytest.mark.parametrize(("answer", "left", "code"), [("n", 1, 1), ("y", 0, 0)])
def test_discard_prints_the_events_and_asks(
    primary: TestDatabase, monkeypatch: pytest.MonkeyPatch, answer: str, left: int, code: int
) -> None:
    """Without a yes, the event stays."""
    monkeypatch.setenv("PRIMARY_DATABASE_URL", primary.url)
    primary.query(SET_APART, 7, "users", None, ["ada"], "now")
    command = typer.Typer()
    command.command()(discard)
    done = CliRunner().invoke(command, ["7"], input=f"{answer}\n")
    assert (done.exit_code, "7 users (ada): Rejected: no" in done.output) == (code, True)
    assert primary.value("select count(*) from mirror.retries") == left


def test_no_value_of_a_row_is_told_but_its_key(
    primary: TestDatabase, target: TestDatabase, member: Membership, describe: Describe
) -> None:
    """The report may go into a ticket."""
    primary.query("update users set username = 'Secret' where id = %s", member.user_id)
    primary.query(SET_APART, 7, "users", None, [str(member.user_id)], None)
    report = describe(7)
    printed = json.dumps(report.as_json()) + "".join(map(str, report.access))
    assert report.access[0].other
    (email, username), *_ = target.query("select email, username from users")
    assert str(member.user_id) in printed
    assert not [value for value in ("Secret", email, username) if value in printed]
