"""`mirror verify --access` compares the primary's rows with the access that the target gives."""

import json
import random
from collections.abc import Callable, Iterator
from contextlib import closing
from uuid import UUID

import pytest
from typer.testing import CliRunner, Result

from examples.trip_chat.models import Membership, Role, Status
from mappings.trips import registry
from mirror.cli.app import app
from mirror.diagnostics.explain import Audit, audit, question_about
from mirror.errors import UsageError
from mirror.reconcile.drift import Direction
from mirror.settings import load_settings
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_drain
from tests.support.rest import ServeApi
from tests.support.shared_pair import WHERE, SharedPair, key

OVER, UNDER = Direction.OVER, Direction.UNDER


@pytest.fixture(scope="module")
def members(world: SharedPair) -> list[Membership]:
    """A dozen members of several kinds, and a message in each trip."""
    # The keys are spread evenly, because a sample is drawn by position in the key space.
    ids = (UUID(int=(number << 124) + (1 << 123)) for number in range(16))
    made = [world.member(trip__id=next(ids), role=role) for role in [*Role, Role.MEMBER] * 2]
    idle = [world.member(trip__id=next(ids), status=status) for status in list(Status)[1:]]
    gone = [world.member(trip__id=next(ids)) for _ in range(4)]
    for member in gone:
        world.change("deleted_at = now()", member)
        world.record(member)
    world.mirror()
    world.target.query(
        "insert into chat_messages (trip_id, sender_id, content)"
        " select id, created_by, 'x' from trips"
    )
    return made + idle + gone


def audited(drain: Drain) -> Audit:
    """Audit every user."""
    return audit(drain, question_about(registry, "trip"), 150, random.Random(1))


def found(audit_: Audit) -> list[tuple[str, ...]]:
    """Return the mismatches in order, each without its noun."""
    return [(one.direction, one.user, one.resource, one.by) for one in audit_.mismatches]


@pytest.fixture
def set_right(world: SharedPair, members: list[Membership]) -> Iterator[None]:
    """Restore the members after the test."""
    yield
    world.primary.query("delete from mirror.outbox")
    for member in members:
        world.record(member)
    world.mirror()


def test_where_both_agree_nothing_is_found(world: SharedPair, members: list[Membership]) -> None:
    """It asks about members, about invited, inactive and removed users, and about strangers."""
    report = audited(world.drain)
    assert report.mismatches == []
    asked = {key(member) for member in members}
    assert report.pairs > len(asked)
    assert report.granted == 8


def test_over_grants_come_first(
    world: SharedPair, members: list[Membership], set_right: None
) -> None:
    """By hand, a removed member is inserted, another is promoted, and another is deleted."""
    back, raised, gone = members[-1], members[2], members[3]
    world.target.query(
        "insert into trip_memberships (trip_id, user_id, role, status)"
        " values (%s, %s, 'MEMBER', 'ACTIVE')",
        *key(back),
    )
    world.target.query(f"update trip_memberships set role = 'ADMIN' {WHERE}", *key(raised))
    world.target.query(f"delete from trip_memberships {WHERE}", *key(gone))
    report = audited(world.drain)
    trip, user = key(back)
    assert (OVER, user, trip, "mirror.my_trips('MEMBER')") in found(report)
    assert (OVER, user, trip, "reading trips") in found(report)
    trip, user = key(raised)
    assert (OVER, user, trip, "mirror.my_trips('ADMIN')") in found(report)
    trip, user = key(gone)
    assert (UNDER, user, trip, "mirror.my_trips('MEMBER')") in found(report)
    directions = [one.direction for one in report.mismatches]
    assert directions == sorted(directions)
    assert directions[0] is OVER


def test_a_change_on_its_way_is_no_mismatch(
    world: SharedPair, members: list[Membership], set_right: None
) -> None:
    """A revocation and a promotion still have waiting events, and so has a deleted trip."""
    world.change("deleted_at = now()", members[2])
    world.change("role = 'OWNER'", members[3])
    for member in members[2:4]:
        world.record(member)
    report = audited(world.drain)
    assert report.mismatches == []
    assert report.under_way == 2
    world.change("deleted_at = null", members[2])
    world.change("role = 'MEMBER'", members[3])


def test_without_row_level_security_strangers_are_let_in(
    world: SharedPair, members: list[Membership]
) -> None:
    """This holds for a mirrored table and for a table of the application."""
    for table in ("trips", "chat_messages"):
        with world.broken(
            f"alter table {table} disable row level security",
            f"alter table {table} enable row level security",
        ):
            report = audited(world.drain)
        assert {one.direction for one in report.mismatches} == {OVER}
        assert f"reading {table}" in {one.by for one in report.mismatches}
        assert all(table in one.by for one in report.mismatches)
        removed = key(members[-1])
        assert removed[::-1] in {(one.user, one.resource) for one in report.mismatches}


def test_without_a_policy_members_are_kept_out(
    world: SharedPair, members: list[Membership]
) -> None:
    """It names all members, and no other user."""
    with world.broken(
        "drop policy mirror_trips_read on chat_messages",
        "create policy mirror_trips_read on chat_messages for select to authenticated"
        " using (trip_id = any((select mirror.my_trips('MEMBER'))::uuid[]))",
    ):
        report = audited(world.drain)
    # To update or delete a row, a user has to read it.
    statements = ("select", "update", "delete")
    assert {(one.direction, one.by) for one in report.mismatches} == {
        (UNDER, "reading chat_messages"),
        *((UNDER, f"{one} in chat_messages, own row") for one in statements),
        *((UNDER, f"{one} in chat_messages, another's row") for one in ("select", "delete")),
    }
    reading = [one for one in report.mismatches if one.by == "reading chat_messages"]
    assert len(reading) == report.granted


def test_it_asks_over_rest(
    world: SharedPair, members: list[Membership], serve_api: ServeApi
) -> None:
    """One call asks about all users."""
    api = serve_api(world.target)
    settings = load_settings(
        primary_database_url=world.primary.url,
        supabase_url=api.url,
        supabase_secret_key=api.secret_key,
    )
    with closing(build_drain(settings, registry)) as drain:
        report = audited(drain)
    assert (report.mismatches, report.granted) == ([], 8)


@pytest.fixture
def command(world: SharedPair, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs `mirror verify`."""
    monkeypatch.setenv("PRIMARY_DATABASE_URL", world.primary.url)
    monkeypatch.setenv("SUPABASE_DB_URL", world.target.url)
    return lambda *arguments: CliRunner().invoke(app, ["verify", *arguments])


def test_the_command_reports_mismatches_with_its_exit_code(
    world: SharedPair, members: list[Membership], command: Callable[..., Result], set_right: None
) -> None:
    """The same seed draws the same sample."""
    told = command("--access", "--seed", "7", "--sample", "150")
    assert told.exit_code == 0
    assert told.stdout.splitlines()[-1].endswith("8 of them granted: 0 differ in the target")
    world.target.query("update trip_memberships set status = 'ACTIVE', role = 'OWNER'")
    told = command("--access", "--seed", "7", "--sample", "150", "trip_memberships")
    assert told.exit_code == 1
    assert told.stdout.startswith("over-grant: ")
    parts = json.loads(command("--access", "--seed", "7", "--sample", "150", "--json").stdout)
    assert parts["trip"]["mismatches"][0]["direction"] == "over-grant"


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], "name a mapping, or use --access"),
        (["--access", "users"], "no declaration that uses mapping 'users'"),
        (["--access", "boats"], "'boats' is not declared"),
    ],
)
def test_bad_input_is_named(
    command: Callable[..., Result], arguments: list[str], names: str
) -> None:
    """The exit code is 2."""
    error = command(*arguments).exception
    assert isinstance(error, UsageError), error
    assert names in str(error)
