"""`mirror access` lists what row-level security answers."""

import csv
import io
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
import typer
from sqlalchemy.orm import Session

from examples.trip_chat.models import Membership, Role, Status
from mappings.trips import registry
from mirror.cli.access import access
from mirror.errors import UsageError
from mirror.settings import Settings
from mirror.sync.drain import Drain
from mirror.sync.orders import resync
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory, TripFactory, UserFactory

LEVELS = ("MEMBER", "ADMIN", "OWNER")
Ran = Callable[..., str]


@pytest.fixture
def people(session: Session, drain: Drain) -> list[Membership]:
    """Two trips; one user with a role in both, one per role, and one who has left."""
    trips, ada = TripFactory.create_batch(2), UserFactory()
    made = [MembershipFactory(trip=trip, user=ada, role=Role.OWNER) for trip in trips]
    made += [MembershipFactory(trip=trips[0], role=role) for role in Role]
    made.append(MembershipFactory(trip=trips[0], status=Status.INACTIVE))
    session.commit()
    resync(drain.queue, registry, [])
    drain.run()
    return made


@pytest.fixture
def run(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Ran:
    """Return a function that runs the command and returns its output."""
    monkeypatch.setattr("mirror.cli.access.load_settings", lambda: settings)

    def run(noun: str | None = None, resource: object = None, **options: object) -> str:
        arguments: dict[str, Any] = {"user": None, "as_json": False, "as_csv": False} | options
        # Workers in this process have logged.
        capsys.readouterr()
        access(noun, None if resource is None else str(resource), **arguments)
        return capsys.readouterr().out

    return run


def answers(target: TestDatabase, people: list[Membership]) -> dict[tuple[str, str], str]:
    """Return the strongest role that each user has in each trip, as the helpers answer them."""
    found = {}
    for user in {str(one.user_id) for one in people}:
        with target.acting_as(user) as connection:
            for level in LEVELS:
                for (trip,) in connection.execute(
                    "select unnest(mirror.my_trips(%s))::text", [level]
                ):
                    found[user, trip] = level
    return found


def test_the_users_of_a_trip_are_listed_with_their_roles(
    people: list[Membership], target: TestDatabase, run: Ran
) -> None:
    """A membership that has ended is no access."""
    trip = str(people[0].trip_id)
    listed = json.loads(run("trip", trip, as_json=True))
    assert {one["user"]: one["level"] for one in listed} == {
        user: level for (user, where), level in answers(target, people).items() if where == trip
    }
    assert len(listed) == 1 + len(Role)
    assert listed[0]["by"] == [f"trip_memberships {trip},{listed[0]['user']}"]


def test_the_trips_of_a_user_are_listed(
    people: list[Membership], target: TestDatabase, run: Ran
) -> None:
    """In CSV: a header, then a line for each."""
    user = str(people[0].user_id)
    lines = list(csv.DictReader(io.StringIO(run(user=user, as_csv=True))))
    assert {one["resource"]: one["level"] for one in lines} == {
        trip: level for (who, trip), level in answers(target, people).items() if who == user
    }
    assert len(lines) == 2


def test_a_review_says_since_when_at_least(
    people: list[Membership], target: TestDatabase, drain: Drain, run: Ran
) -> None:
    """The last write of the row: one by the mirror moves it, and one by hand leaves none."""
    trip, user = str(people[1].trip_id), str(people[1].user_id)

    def since() -> datetime | None:
        (found,) = json.loads(run("trip", trip, as_json=True))
        assert found["level"] == "OWNER"
        return found["since"] and datetime.fromisoformat(found["since"])

    written = (
        "select date_trunc('second', applied_at) from mirror.ledger_trip_memberships"
        " where trip_id = %s"
    )
    before = target.value(written, trip)
    assert since() == before
    target.query(
        "update mirror.ledger_trip_memberships set applied_at = applied_at - interval '9 days'"
    )
    assert since() == before - timedelta(days=9)
    (line,) = csv.DictReader(io.StringIO(run("trip", trip, as_csv=True)))
    assert line["since"] == f"{before - timedelta(days=9):%Y-%m-%d %H:%M:%SZ}"
    assert line["by"] == f"trip_memberships {trip},{user}"
    resync(drain.queue, registry, [])
    drain.run()
    assert since() == target.value(written, trip) >= before
    target.query("update trip_memberships set status = 'ACTIVE' where trip_id = %s", trip)
    assert since() is None


def test_a_withheld_row_is_listed_as_refused(
    people: list[Membership], target: TestDatabase, run: Ran
) -> None:
    """The row is there and the helper ignores it."""
    trip, user = str(people[0].trip_id), str(people[0].user_id)
    target.query(
        "insert into mirror.withheld (mapping, key, reason, epoch, fence)"
        " values ('trip_memberships', array[%s, %s], 'x', 0, 1)",
        trip,
        user,
    )
    line = next(line for line in run("trip", trip).splitlines() if user in line)
    assert "refused" in line


def test_a_list_that_is_not_whole_says_so(
    people: list[Membership],
    run: Ran,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With exit code 1: a user who is not in it may have access."""
    monkeypatch.setattr("mirror.diagnostics.access_review.MOST", 2)
    with pytest.raises(typer.Exit) as ended:
        run("trip", people[0].trip_id)
    assert ended.value.exit_code == 1
    assert "incomplete: more than" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "options"),
    [((), {}), (("trip",), {}), (("trip", "x"), {"user": "y"}), (("car", "x"), {})],
)
def test_a_question_that_is_none_is_a_usage_error(
    people: list[Membership], run: Ran, arguments: tuple[str, ...], options: dict[str, str]
) -> None:
    """Neither, both, half of one, or a kind that no declaration knows."""
    with pytest.raises(UsageError, match=r"give a kind|car"):
        run(*arguments, **options)
