"""One event, one row or one mapping never stops the others, whatever is wrong with it."""

import re
from collections.abc import Callable, Iterator

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from sqlalchemy.orm import Session

from mirror.errors import Transient
from mirror.sync.drain import Drain
from mirror.sync.snapshot import Source
from tests.faults.tools import record
from tests.support.databases import TestDatabase
from tests.support.factories import MembershipFactory, UserFactory
from tests.support.rest import both_transports

pytestmark = both_transports(rest="long")


@pytest.fixture
def member(session: Session, drain: Drain, primary: TestDatabase) -> tuple[str, str]:
    """A member whom both sides know."""
    member = MembershipFactory.create()
    session.commit()
    key = str(member.trip_id), str(member.user_id)
    record(primary, "trip_memberships", *key, lane=1)
    drain.run()
    return key


def revoke(primary: TestDatabase, member: tuple[str, str]) -> None:
    """Remove the member and record it."""
    primary.query("delete from trip_memberships")
    record(primary, "trip_memberships", *member)


def members(target: TestDatabase) -> int:
    """Return how many members the target has."""
    count: int = target.value("select count(*) from trip_memberships")
    return count


def failures(primary: TestDatabase) -> list[tuple[str, str]]:
    """Return mapping and error of each event that is set apart."""
    return primary.query("select mapping, error from mirror.retries order by id")


@pytest.mark.parametrize(
    "event",
    [
        "(recorded_at, mapping, key) values ('infinity', 'users', '{x}')",
        "(recorded_at, mapping, key) values ('-infinity', 'users', '{x}')",
        "(recorded_at, mapping, key) values ('20000-01-01', 'users', '{x}')",
        "(recorded_at, mapping, key) values ('0044-03-15 BC', 'users', '{x}')",
        "(mapping, key) values ('users', array[array['a', 'b'], array['c', 'd']])",
        "(mapping, key) values ('users', '[5:5]={x}')",
        "(mapping, reference, key) values ('trip_memberships', 'no such', '{x}')",
        "(mapping, reference, key) values ('trip_memberships', 'trip_id', '{x}')",
        "(mapping, reference, key) values ('trip_memberships', '*', '{x}')",
    ],
)
def test_an_invalid_event_does_not_stop_a_revocation(
    primary: TestDatabase, target: TestDatabase, drain: Drain, member: tuple[str, str], event: str
) -> None:
    """A role that may insert into the outbox could write anything there in earlier versions."""
    primary.query("alter table mirror.outbox drop constraint outbox_bounds")
    primary.query(f"insert into mirror.outbox {event}")
    revoke(primary, member)
    assert drain.run().failed == 1
    assert members(target) == 0
    assert len(failures(primary)) == 1


def test_two_events_of_one_id_are_both_kept(
    primary: TestDatabase, target: TestDatabase, drain: Drain, member: tuple[str, str]
) -> None:
    """Sequences go back, for example after a logical cut-over; the retries are copied."""
    for _ in range(2):
        primary.query(
            "insert into mirror.outbox (id, mapping, key) overriding system value"
            " values (1000000, 'users', '{x}')"
        )
        revoke(primary, member)
        drain.run()
        assert members(target) == 0
    assert len(failures(primary)) == 2


def test_a_mapping_that_cannot_be_read_waits_alone(
    primary: TestDatabase, target: TestDatabase, drain: Drain, member: tuple[str, str]
) -> None:
    """A column of users was renamed: members are mirrored, and users when the column is back."""
    primary.query("update users set username = 'new'")
    primary.query("alter table users rename column email to address")
    record(primary, "users", member[1], lane=1)
    record(primary, "users", member[1], reference="*", lane=1)
    revoke(primary, member)
    drain.run()
    assert members(target) == 0
    assert {mapping for mapping, _ in failures(primary)} == {"users"}
    assert "while reading mapping 'users'" in failures(primary)[0][1]
    primary.query("alter table users rename column address to email")
    primary.query("update mirror.retries set due_at = now()")
    drain.run()
    assert failures(primary) == []
    assert "new" in [name for (name,) in target.query("select username from users")]


def test_events_of_an_unreadable_mapping_are_never_given_up(
    primary: TestDatabase, make_drain: Callable[..., Drain], member: tuple[str, str]
) -> None:
    """The mapping is at fault, not the event."""
    primary.query("alter table users rename column email to address")
    record(primary, "users", member[1], lane=1)
    drain = make_drain(max_attempts=1)
    for _ in range(3):
        drain.run()
        primary.query("update mirror.retries set due_at = now()")
    assert primary.query("select attempts > 1, buried_at from mirror.retries") == [(True, None)]


BROKEN_TRIGGER = """
create function broken() returns trigger language plpgsql as
  $$ begin perform from no_such_table; return new; end $$;
create trigger broken after insert or update on users for each row execute function broken();
"""
# After each of these, the target can write no user at all; the second statement mends it.
UNWRITABLE = {
    "a column is gone": (
        "alter table users rename column username to nickname",
        "alter table users rename column nickname to username",
    ),
    "the table is gone": (
        "alter table users rename to people",
        "alter table people rename to users",
    ),
    "a privilege is gone": ("revoke all on users from postgres", "grant all on users to postgres"),
    "a trigger reads a table that is gone": (BROKEN_TRIGGER, "drop trigger broken on users"),
}


@pytest.mark.parametrize("fault", UNWRITABLE)
def test_a_mapping_that_cannot_be_written_waits_alone(
    primary: TestDatabase, target: TestDatabase, drain: Drain, member: tuple[str, str], fault: str
) -> None:
    """Its events are set apart, never given up, and mirrored when the fault is mended."""
    fault_made, mended = UNWRITABLE[fault]
    other = UserFactory.create()
    UserFactory._meta.sqlalchemy_session.commit()
    record(primary, "users", other.id, lane=1)
    drain.run()
    target.query(fault_made)
    primary.query("update users set username = 'new'")
    record(primary, "users", member[1])
    revoke(primary, member)
    drain.run()
    assert members(target) == 0
    for _ in range(3):
        primary.query("update mirror.retries set due_at = now()")
        drain.run()
    assert {mapping for mapping, _ in failures(primary)} == {"users"}
    assert primary.value("select bool_and(parked) from mirror.retries")
    target.query(mended)
    primary.query("update mirror.retries set due_at = now()")
    drain.run()
    assert failures(primary) == []
    assert "new" in [name for (name,) in target.query("select username from users")]


# As errors of a connection, all others would wait for its end.
OWN_ERRORS = {
    "a foreign table is away": "raise 'away' using errcode = '08001'",
    "a file is damaged": "raise 'damaged' using errcode = 'XX001'",
    "a function writes": "insert into people select * from people",
    "a function raises a failure to serialize": "raise 'again' using errcode = '40001'",
}


@pytest.mark.parametrize("fault", OWN_ERRORS)
def test_a_query_with_an_error_like_that_of_a_connection_waits_alone(
    primary: TestDatabase, target: TestDatabase, drain: Drain, member: tuple[str, str], fault: str
) -> None:
    """The connection goes on."""
    primary.query(
        "alter table users rename to people; create function fails() returns boolean"
        f" language plpgsql as $$ begin {OWN_ERRORS[fault]}; return true; end $$;"
        " create view users as select * from people where fails()"
    )
    record(primary, "users", member[1])
    revoke(primary, member)
    drain.run()
    assert members(target) == 0
    assert {mapping for mapping, _ in failures(primary)} == {"users"}


def test_an_error_that_nobody_foresaw_isolates_its_event(
    primary: TestDatabase,
    target: TestDatabase,
    drain: Drain,
    member: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as a bug of ours. The stored error has its type and place, not its message."""

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret")

    read_json = Source.read_json
    monkeypatch.setattr(Source, "read_json", fail)
    revoke(primary, member)
    drain.run()
    assert members(target) == 0, "the pass over single events does not need it"
    monkeypatch.setattr(Source, "read_json", read_json)
    monkeypatch.setattr(Source, "snapshot", fail)
    record(primary, "users", member[1], reference="*")
    assert drain.run().failed == 1
    ((_, error),) = failures(primary)
    assert "ZeroDivisionError" in error
    assert "secret" not in error


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {},
        "",
        "<html>",
        7,
        {"horizon": None},
        {"horizon": None, "mappings": []},
        {"horizon": None, "mappings": {"trip_memberships": {}}},
    ],
)
def test_after_a_damaged_answer_all_events_wait(
    primary: TestDatabase,
    target: TestDatabase,
    drain: Drain,
    member: tuple[str, str],
    answer: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A proxy may cut an answer off or replace it; the next answers are right again."""
    with monkeypatch.context() as damage:
        damage.setattr(drain.target, "_call", lambda *_, **__: answer)
        revoke(primary, member)
        with pytest.raises(Transient, match="damaged"):
            drain.run()
    assert failures(primary) == []
    assert primary.value("select count(*) from mirror.outbox") == 1
    assert drain.run().events == 1
    assert members(target) == 0


def test_the_end_of_a_tasks_time_blames_no_event(
    primary: TestDatabase,
    drain: Drain,
    member: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Celery raises it inside the drain; the events wait for the next task."""

    def end(*_: object) -> None:
        raise SoftTimeLimitExceeded

    monkeypatch.setattr(drain.target, "apply", end)
    revoke(primary, member)
    with pytest.raises(SoftTimeLimitExceeded):
        drain.run()
    assert failures(primary) == []
    assert primary.value("select count(*) from mirror.outbox") == 1


@pytest.fixture
def filtered_url(primary: TestDatabase) -> Iterator[str]:
    """The primary's URL for a role that row-level security keeps from seeing any membership."""
    primary.query(
        "create role filtered login password 'filtered';"
        " grant all on schema mirror, public to filtered;"
        " grant all on all tables in schema mirror, public to filtered;"
        " alter table trip_memberships enable row level security"
    )
    yield re.sub(r"//[^@]*@", "//filtered:filtered@", primary.url)
    primary.query("drop owned by filtered; drop role filtered")


def test_rows_that_row_level_security_hides_are_not_deleted(
    primary: TestDatabase,
    target: TestDatabase,
    make_drain: Callable[..., Drain],
    member: tuple[str, str],
    filtered_url: str,
) -> None:
    """The worker's read is refused, so the target keeps its rows."""
    primary.query("update trip_memberships set role = 'OWNER'")
    record(primary, "trip_memberships", *member)
    make_drain(primary_database_url=filtered_url).run()
    assert members(target) == 1
    ((mapping, error),) = failures(primary)
    assert (mapping, "row-level security" in error) == ("trip_memberships", True)


@pytest.mark.parametrize("batch_size", [20, pytest.param(120, marks=pytest.mark.long)])
def test_a_parent_of_too_many_children_is_withdrawn_page_by_page(
    primary: TestDatabase,
    target: TestDatabase,
    make_drain: Callable[..., Drain],
    session: Session,
    batch_size: int,
) -> None:
    """A trigger of the target makes each row slow: all exceed the time limit, or even a page."""
    trip = MembershipFactory.create().trip_id
    for _ in range(119):
        MembershipFactory.create(trip_id=trip)
    session.commit()
    record(primary, "trips", trip, lane=1)
    record(primary, "trip_memberships", trip, reference="trip_id", lane=1)
    drain = make_drain(statement_seconds=1.0, batch_size=batch_size)
    drain.run()
    assert members(target) == 120
    target.query(
        "create function slow() returns trigger language plpgsql as"
        " 'begin perform pg_sleep(0.02); return old; end';"
        " create trigger slow before delete on trip_memberships"
        " for each row execute function slow()"
    )
    primary.query("update trips set deleted_at = now()")
    record(primary, "trips", trip)
    drain.run()
    assert members(target) == 0
    assert target.value("select count(*) from trips") == 0
    assert failures(primary) == []
