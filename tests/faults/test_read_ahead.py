"""A claim reads the rows of its keys, too, where that is the same as to read them afterwards."""

from collections.abc import Callable

import psycopg
import pytest
from sqlalchemy import (
    ColumnElement,
    String,
    column,
    func,
    literal_column,
    select,
    table,
    text,
    type_coerce,
)
from sqlalchemy.orm import Session

from examples.trip_chat.models import Membership
from mappings.trips import registry
from mirror.model.mapping import Column, Mapping
from mirror.model.registry import Registry
from mirror.sync.claims import Claim
from mirror.sync.drain import Drain
from mirror.sync.read_ahead import ReadAhead, fits_claims
from tests.faults.tools import Intercepted, record
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory

AHEAD = "select * from mirror.read_ahead(%s, %s, '{}')"
NOTHING = "select 1::bigint, 1, 1::bigint, '', '', 1::bigint, '', '', true, '[]', '[]', false"


@pytest.fixture
def members(session: Session) -> list[Membership]:
    """Three members in the primary; none is mirrored yet."""
    made: list[Membership] = MembershipFactory.create_batch(3)
    session.commit()
    return made


def record_members(primary: TestDatabase, *members: Membership) -> None:
    """Record an event for each member."""
    for member in members:
        record(primary, "trip_memberships", member.trip_id, member.user_id)


@pytest.fixture
def warm(primary: TestDatabase, drain: Drain, members: list[Membership]) -> Drain:
    """A drain whose last claim was of members, which are mirrored."""
    record_members(primary, *members)
    drain.run()
    return drain


def claim(drain: Drain) -> Claim:
    """Claim events as the drain does."""
    found = drain.queue.claim(100, ahead=drain._ahead.request())
    assert found is not None
    return found


def roles(target: TestDatabase) -> list[str]:
    """Return the roles of all members in the target."""
    return [role for (role,) in target.query("select role from trip_memberships order by 1")]


def test_a_read_within_a_claim_has_the_fence_of_its_moment(
    primary: TestDatabase, warm: Drain, members: list[Membership]
) -> None:
    """Any other connection, whose own id does not count, finds the same."""
    record_members(primary, *members)
    held = claim(warm)
    reading = warm._ahead.reading(held)
    assert reading is not None
    assert reading[0] == warm.source.read_stamp()
    assert reading == warm.source.read_json(
        [(registry[group.mapping], group.keys[: group.parts]) for group in held.groups]
    )
    held.release()


def test_a_row_that_was_read_ahead_loses_to_a_newer_read(
    primary: TestDatabase,
    target: TestDatabase,
    warm: Drain,
    make_drain: Callable[..., Drain],
    members: list[Membership],
) -> None:
    """The worker then reads again, and writes what is true by now."""
    primary.query("update trip_memberships set role = 'ADMIN'")
    record_members(primary, members[0])

    def overtake() -> None:
        primary.query("update trip_memberships set role = 'OWNER'")
        record_members(primary, *members)
        assert make_drain().run().events == 3

    warm.target = Intercepted(warm.target, before=overtake)
    warm.run()
    assert roles(target) == ["OWNER"] * 3


def test_a_claim_holds_no_lock_of_the_tables_that_it_has_read(
    primary: TestDatabase, warm: Drain, members: list[Membership]
) -> None:
    """An ALTER TABLE would wait for a claim, and all queries for the ALTER TABLE."""
    record_members(primary, *members)
    held = claim(warm)
    assert held.ahead is not None
    primary.query(
        "set lock_timeout = 100; alter table trip_memberships alter column role set not null"
    )
    held.release()


def test_rows_of_several_mappings_are_read_at_one_moment(
    primary: TestDatabase, target: TestDatabase, warm: Drain, members: list[Membership]
) -> None:
    """Within a claim, each would be of another; so they are read afterwards."""
    primary.query("update trip_memberships set role = 'ADMIN'")
    record_members(primary, *members)
    record(primary, "users", members[0].user_id)
    held = claim(warm)
    assert held.ahead is None
    held.release()
    assert warm.run().events == 4
    assert roles(target) == ["ADMIN"] * 3


def test_what_is_read_through_a_view_is_not_read_ahead(
    primary: TestDatabase, target: TestDatabase, warm: Drain, members: list[Membership]
) -> None:
    """The view may call a volatile function, which would see a later moment than the stamp."""
    primary.query("alter table trip_memberships rename to hidden")
    primary.query("create view trip_memberships as select * from hidden")
    try:
        primary.query("update hidden set role = 'ADMIN'")
        record_members(primary, *members)
        held = claim(warm)
        assert held.ahead is None
        held.release()
        assert warm.run().failed == 0
        assert roles(target) == ["ADMIN"] * 3
    finally:
        primary.query("drop view trip_memberships")
        primary.query("alter table hidden rename to trip_memberships")


def test_a_query_that_fails_costs_no_claim_and_pauses(
    primary: TestDatabase, target: TestDatabase, warm: Drain, members: list[Membership]
) -> None:
    """Its mapping is read as ever, and the error names it."""
    primary.query("alter table trip_memberships rename column role to rank")
    try:
        record_members(primary, *members)
        assert warm.run().failed == 3
        ((error, deaths),) = primary.query("select distinct error, deaths from mirror.retries")
        assert "while reading mapping 'trip_memberships'" in error
        assert deaths == 0
        assert warm._ahead.request() is None
    finally:
        primary.query("alter table trip_memberships rename column rank to role")


def test_after_a_pause_a_query_goes_along_again(warm: Drain, members: list[Membership]) -> None:
    """A table that was locked for a while, for example."""
    now = 0.0
    ahead = ReadAhead(registry, warm.source, clock=lambda: now)
    primary = TestDatabase(warm.source.database.url)
    for expected in (None, {"trip_memberships"}, None):
        assert (ahead.request() is None) == (expected is None)
        record_members(primary, members[0])
        held = warm.queue.claim(10)
        assert held is not None
        assert ahead.reading(held) is None
        held.acknowledge()
    now = 31.0
    assert "trip_memberships" in str(ahead.request())


def test_a_key_of_the_wrong_type_is_set_apart_alone(
    primary: TestDatabase, target: TestDatabase, warm: Drain, members: list[Membership]
) -> None:
    """The query for all of the keys fails; the other keys are mirrored nevertheless."""
    primary.query("update trip_memberships set role = 'ADMIN'")
    record_members(primary, *members)
    record(primary, "trip_memberships", "no-uuid", members[0].user_id)
    assert warm.run().failed == 1
    assert roles(target) == ["ADMIN"] * 3


@pytest.mark.parametrize(
    "query",
    [
        "insert into users (id, email, username) values (gen_random_uuid(), '', '') returning 1",
        f"{NOTHING} from pg_sleep(5)",
        "not a query",
    ],
    ids=["writes", "slow", "no query"],
)
def test_a_read_that_fails_leaves_the_transaction_as_it_was(
    primary: TestDatabase, query: str
) -> None:
    """It can go on, and write."""
    with psycopg.connect(primary.url) as worker:
        worker.execute("set local statement_timeout = 100")
        assert worker.execute(AHEAD, [query, []]).fetchall() == []
        worker.execute("set local statement_timeout = 0")
        worker.execute("insert into mirror.heartbeats (name) values ('here')")
    assert primary.value("select count(*) from users") == 0
    assert primary.value("select count(*) from mirror.heartbeats where name = 'here'") == 1


@pytest.mark.parametrize("relation", ["no_such_table", "pg_catalog.pg_views"])
def test_only_tables_are_read_ahead(primary: TestDatabase, relation: str) -> None:
    """Also where a table has become something else since the query was declared."""
    with psycopg.connect(primary.url) as worker:
        assert worker.execute(AHEAD, [NOTHING, ["public.users"]]).fetchall() != []
        assert worker.execute(AHEAD, [NOTHING, ["public.users", relation]]).fetchall() == []
        assert worker.execute("show transaction_read_only").fetchone() == ("off",)


MEMBERS = table("members", column("id"), column("person"), column("role"))


@pytest.mark.parametrize(
    ("role", "fits"),
    [
        (MEMBERS.c.role, True),
        (func.coalesce(func.lower(MEMBERS.c.role), "member"), True),
        (func.role_of(MEMBERS.c.person), False),
        (func.club.lower(MEMBERS.c.role), False),
        (MEMBERS.c.role.op("@@@")("x"), False),
        (literal_column("role_of(person)"), False),
        (type_coerce(text("role_of(person)"), String), False),
    ],
)
def test_a_query_that_calls_an_unknown_function_does_not_go_along(
    role: ColumnElement[str],
    *,
    fits: bool,
) -> None:
    """It may be volatile."""
    mapping = Mapping(
        name="members",
        table="public.members",
        query=select(MEMBERS.c.id, role.label("role")),
        columns=(Column("id", "bigint"), Column("role", "text")),
        key=("id",),
    )
    assert fits_claims(Registry("clubs", [mapping]), mapping) is fits


def test_the_status_of_a_transaction_follows_from_its_id(primary: TestDatabase) -> None:
    """The row has 32 bits of it. An id of a group of lockers may be any number."""
    with psycopg.connect(primary.url) as worker:
        status = "select mirror.transaction_status(%s::text::xid)"
        own = worker.execute("select (pg_current_xact_id()::text::bigint)").fetchone()
        assert own is not None
        assert primary.value(status, own[0]) == "in progress"
        worker.rollback()
        assert primary.value(status, own[0]) == "aborted"
        worker.execute("select pg_current_xact_id()")
        worker.commit()
        assert primary.value(status, own[0] + 1) == "committed"
        for other in (0, own[0] + 1000, 2**31, 2**32 - 1):
            assert primary.value(status, other) is None
