"""Explain says since when access is denied because a mapping is too old, and for which one."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from examples.trip_chat.models import Membership
from mappings.trips import registry
from mirror.diagnostics.explain import (
    Explanation,
    StepStatus,
    explain_key,
    explain_resource,
    explain_table,
    question_about,
)
from mirror.schema.migrate import upgrade
from mirror.settings import load_settings
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_drain
from tests.support.bounded_model import BOUND, bounded, report
from tests.support.shared_pair import SharedPair, key

MODEL = bounded()
TRIP = question_about(MODEL, "trip")


@pytest.fixture(scope="module")
def drain(world: SharedPair) -> Iterator[Drain]:
    """A drain with the bounded model, to which the target is migrated."""
    report(world.target)
    with world.target.migrating() as connection:
        upgrade(connection, "supabase", MODEL, guards=True)
    settings = load_settings(
        primary_database_url=world.primary.url, supabase_db_url=world.target.url
    )
    drain = build_drain(settings, MODEL)
    yield drain
    drain.close()


@pytest.fixture
def member(world: SharedPair, drain: Drain) -> Membership:
    """A member with all that the policies need."""
    return world.member()


def explained(drain: Drain, member: Membership) -> Explanation:
    """Explain the member's access to the trip."""
    return explain_resource(drain, TRIP, str(member.user_id), str(member.trip_id))


def age_step(page: Explanation) -> tuple[StepStatus, str]:
    """Return status and text of the step about the age of the rows."""
    (step,) = (step for step in page.steps if step.name == "freshness")
    return step.status, step.says


def test_a_member_is_allowed_while_all_is_fresh(
    world: SharedPair, drain: Drain, member: Membership
) -> None:
    """The step says so."""
    report(world.target, users=BOUND - 20)
    page = explained(drain, member)
    assert (page.first, page.allowed) == (None, True)
    assert age_step(page) == (
        StepStatus.YES,
        "Every mapping that the policies read is younger than 60 s.",
    )


def test_a_refusal_names_the_stale_mapping_and_since_when(
    world: SharedPair, drain: Drain, member: Membership
) -> None:
    """It is the moment at which its last report became too old."""
    report(world.target, trip_memberships=BOUND + 30)
    as_of = world.target.value(
        "select as_of from mirror.freshness where mapping = 'trip_memberships'"
    ).astimezone(UTC)
    page = explained(drain, member)
    assert page.first is not None
    assert page.first.name == "freshness"
    assert (page.primary_grants, page.allowed, page.exit_code) == (True, False, 1)
    since = moment(as_of + timedelta(seconds=BOUND))
    assert age_step(page) == (
        StepStatus.BROKEN,
        f"Denied since {since} because trip_memberships is stale; the bound is 60 s.",
    )
    assert (
        f"trip_memberships: every revocation recorded before {moment(as_of)} is in force"
        in page.first.details
    )


def moment(time: datetime) -> str:
    """Return a time as explain prints it: with its date, if that is not today."""
    today = time.date() == datetime.now(UTC).date()
    return f"{time:%H:%M:%S} UTC" if today else f"{time:%Y-%m-%d %H:%M:%S} UTC"


@pytest.mark.parametrize(
    ("age", "detail"),
    [
        (None, "trips: no worker has ever reported how fresh it is"),
        (-86400, "UTC, but the target's clock was set back"),
    ],
)
def test_a_mapping_without_a_usable_report_is_named(
    world: SharedPair, drain: Drain, member: Membership, age: float | None, detail: str
) -> None:
    """Since when is unknown then."""
    report(world.target, trips=age)
    page = explained(drain, member)
    assert age_step(page)[1] == "Denied because trips is stale; the bound is 60 s."
    assert page.first is not None
    assert any(detail in line for line in page.first.details)


def test_no_policy_looks_wrong_because_it_refuses_stale_rows(
    world: SharedPair, drain: Drain, member: Membership
) -> None:
    """It does what is declared; a guard that ignores the bound still allows."""
    report(world.target, trip_memberships=None)
    page = explained(drain, member)
    assert [step for step in page.steps if step.status is StepStatus.BROKEN] == [page.first]
    lines = [line for step in page.steps for line in step.details]
    assert "insert: refused, because trip_memberships is stale" in lines
    assert any(line.startswith("insert: allowed, by mirror_trips_insert") for line in lines)


@pytest.mark.parametrize("verb", ["select", "insert"])
def test_a_refused_statement_is_explained(
    world: SharedPair, drain: Drain, member: Membership, verb: str
) -> None:
    """Asked about a guarded table."""
    trip, user = key(member)
    ((message,),) = world.target.query(
        "insert into chat_messages (trip_id, sender_id, content) values (%s, %s, 'x') returning id",
        trip,
        user,
    )
    row = {"id": str(message)} if verb == "select" else {"trip_id": trip, "content": "x"}
    report(world.target, trip_memberships=BOUND + 1)
    page = explain_table(drain, "chat_messages", verb, row, user)
    assert page.first is not None
    assert page.first.says.startswith("Denied since ")
    assert "because trip_memberships is stale" in page.first.says
    assert (page.allowed, page.exit_code) == (False, 1)
    report(world.target)
    page = explain_table(drain, "chat_messages", verb, row, user)
    assert (page.first, page.allowed) == (None, True)


def test_a_statement_on_a_table_that_ignores_the_bound_has_no_such_step(
    world: SharedPair, drain: Drain, member: Membership
) -> None:
    """Nor is it refused."""
    report(world.target, trip_memberships=None)
    trip, user = key(member)
    row = {"trip_id": trip, "status": "online"}
    page = explain_table(drain, "user_presence", "insert", row, user)
    assert (page.first, page.allowed) == (None, True)
    page = explain_key(drain, MODEL["trips"], (trip,), user)
    assert (page.first, page.allowed) == (None, True)


def test_a_mirrored_row_that_is_too_old_is_explained(
    world: SharedPair, drain: Drain, member: Membership
) -> None:
    """Of a user that another one looks at."""
    report(world.target, users=BOUND * 2)
    user = str(member.user_id)
    page = explain_key(drain, MODEL["users"], (user,), user)
    assert page.first is not None
    assert page.first.says.startswith("Denied since ")
    assert not page.allowed


def test_a_policy_that_lacks_the_bound_is_not_said_to_refuse(
    world: SharedPair, drain: Drain, member: Membership
) -> None:
    """The model was migrated before it had the bound."""
    report(world.target)
    with world.target.migrating() as connection:
        upgrade(connection, "supabase", registry, guards=True)
    trip, user = key(member)
    report(world.target, trip_memberships=BOUND * 2)
    row = {"trip_id": trip, "content": "x"}
    for page in (
        explained(drain, member),
        explain_table(drain, "chat_messages", "insert", row, user),
        explain_key(drain, MODEL["users"], (user,), user),
    ):
        assert page.allowed
        assert "but a policy allows the user" in age_step(page)[1]
        assert page.first is not None
        assert page.first.remedy is not None
        assert "mirror migrate supabase --guards" in page.first.remedy
    report(world.target)
    with world.target.migrating() as connection:
        upgrade(connection, "supabase", MODEL, guards=True)
