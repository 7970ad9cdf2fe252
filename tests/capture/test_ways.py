"""One list of changes for each way of capture: hooks, ORM listeners, triggers, and all at once.

After each change the target must equal the rows of the mappings' queries. Each test also says which
rows go or come, or that there is no event, so that no test passes because nothing happened.
"""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import delete, insert, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from tests.capture.backend import ANNA, BERT, CARL, CapturedBackend
from tests.capture.clubs import Club, Company, Member, Person
from tests.faults.tools import Intercepted

MakeBackend = Callable[..., CapturedBackend]
Row = tuple[str | None, ...]
Rows = set[Row] | frozenset[Row]

WAYS = [("hooks",), ("orm",), ("triggers",), ("hooks", "orm", "triggers")]


@pytest.fixture(params=WAYS, ids="+".join)
def backend(request: pytest.FixtureRequest, make_backend: MakeBackend) -> CapturedBackend:
    """A populated backend, captured in these ways."""
    backend = make_backend(*request.param)
    backend.populate()
    return backend


def skip_if_only(backend: CapturedBackend, *ways: str, reason: str) -> None:
    """Skip the test if only these ways are on: they cannot see the change (see docs/capture.md)."""
    if backend.ways <= set(ways):
        pytest.skip(reason)


def check_change(
    backend: CapturedBackend, *, gone: Rows = frozenset(), new: Rows = frozenset()
) -> None:
    """Mirror, and check which memberships that deleted and added."""
    before = backend.mirrored()["memberships"]
    assert backend.mirror() > 0
    after = backend.mirrored()["memberships"]
    assert before - after == gone
    assert after - before == new


def row(club: int, person: Any, role: str = "MEMBER") -> Row:
    """Return a membership as the target's row."""
    return (str(club), str(person), role)


def check_no_events(backend: CapturedBackend) -> None:
    """Check that no event was recorded, and that none was needed."""
    assert backend.events() == []
    assert backend.mirrored() == backend.expected()


def test_an_insert(backend: CapturedBackend) -> None:
    """A person with an auth id joins."""
    with backend.change() as session:
        session.add(Person(id=40, auth_id=CARL))
        session.flush()
        session.add(Member(club_id=1, person_id=40, role="OWNER"))
        backend.changed(session, "people", CARL)
        backend.changed(session, "memberships", (1, CARL))
    check_change(backend, new={row(1, CARL, "OWNER")})


def test_a_mirrored_update(backend: CapturedBackend) -> None:
    """A member gets another role."""
    with backend.change() as session:
        backend.member(session, 1, 10).role = "OWNER"
        backend.changed(session, "memberships", (1, ANNA))
    check_change(backend, gone={row(1, ANNA)}, new={row(1, ANNA, "OWNER")})


def test_an_update_of_columns_that_are_not_mirrored(backend: CapturedBackend) -> None:
    """A note wakes no worker."""
    with backend.change() as session:
        backend.member(session, 1, 10).note = "likes tea"
        session.get_one(Person, 10).note = "likes tea"
        session.get_one(Club, 1).motto = "tea"
    check_no_events(backend)


def test_a_soft_delete_and_its_undoing(backend: CapturedBackend) -> None:
    """The column is in the query's condition only."""
    for left in (True, False):
        with backend.change() as session:
            backend.member(session, 1, 10).left = left
            backend.changed(session, "memberships", (1, ANNA))
        changed = {row(1, ANNA)}
        check_change(backend, **{"gone" if left else "new": changed})


def test_a_hard_delete(backend: CapturedBackend) -> None:
    """The row is deleted, and the key of the mirrored row can not be read from it."""
    with backend.change() as session:
        session.delete(backend.member(session, 1, 10))
        backend.changed(session, "memberships", (1, ANNA))
    check_change(backend, gone={row(1, ANNA)})


def test_a_cascade_to_the_rows_of_a_parent(backend: CapturedBackend) -> None:
    """The database deletes the members; the event of the club removes them from the target."""
    with backend.change() as session:
        session.delete(session.get_one(Club, 1))
        backend.changed(session, "clubs", 1)
    check_change(backend, gone={row(1, ANNA), row(1, BERT)})


def test_a_cascade_over_a_table_that_no_mapping_reads(backend: CapturedBackend) -> None:
    """The cascade goes from a company to its clubs and their members."""
    skip_if_only(
        backend, "orm", reason="the ORM sees the company only; the database deletes the clubs"
    )
    with backend.change() as session:
        session.delete(session.get_one(Company, 1))
        backend.scope(session, "clubs", company_id=1)
        backend.scope(session, "memberships", company_id=1)
    check_change(backend, gone={row(1, ANNA), row(1, BERT)})


def test_a_bulk_update(backend: CapturedBackend) -> None:
    """A mirrored column changes; the condition is on another column."""
    with backend.change() as session:
        session.execute(update(Member).where(Member.club_id == 1).values(role="GUEST"))
        backend.scope(session, "memberships", club_id=1)
    check_change(
        backend,
        gone={row(1, ANNA), row(1, BERT)},
        new={row(1, ANNA, "GUEST"), row(1, BERT, "GUEST")},
    )


def test_a_bulk_update_of_columns_that_are_not_mirrored(backend: CapturedBackend) -> None:
    """The old values do not matter."""
    with backend.change() as session:
        session.execute(update(Member).values(note="checked"))
        session.execute(update(Club).where(Club.id == 1).values(motto="checked"))
    check_no_events(backend)


def test_a_bulk_delete(backend: CapturedBackend) -> None:
    """The condition is on another table."""
    with backend.change() as session:
        of_anna = Member.person_id.in_(
            text("select id from people where name = 'Anna'").columns(Person.id)
        )
        session.execute(delete(Member).where(of_anna).execution_options(synchronize_session=False))
        backend.scope(session, "memberships", person_id=10)
    check_change(backend, gone={row(1, ANNA), row(2, ANNA)})


def test_a_bulk_insert(backend: CapturedBackend) -> None:
    """One statement inserts several rows."""
    with backend.change() as session:
        session.execute(insert(Person), [{"id": 40, "auth_id": CARL}])
        session.execute(
            insert(Member), [{"club_id": 1, "person_id": 40}, {"club_id": 2, "person_id": 40}]
        )
        backend.changed(session, "people", CARL)
        backend.scope(session, "memberships", person_id=40)
    check_change(backend, new={row(1, CARL), row(2, CARL)})


def test_an_upsert(backend: CapturedBackend) -> None:
    """The statement does not tell which row existed before."""
    with backend.change() as session:
        new = upsert(Member).values(
            [
                {"club_id": 1, "person_id": 10, "role": "OWNER"},
                {"club_id": 2, "person_id": 30, "role": "OWNER"},
            ]
        )
        session.execute(
            new.on_conflict_do_update(
                index_elements=["club_id", "person_id"], set_={"role": new.excluded.role}
            )
        )
        backend.changed(session, "memberships", (1, ANNA))
    check_change(backend, gone={row(1, ANNA)}, new={row(1, ANNA, "OWNER")})


def test_a_savepoint_that_is_rolled_back(backend: CapturedBackend) -> None:
    """Its events may remain; they are superfluous and harmless."""
    with backend.change() as session:
        backend.member(session, 1, 10).role = "OWNER"
        backend.changed(session, "memberships", (1, ANNA))
        with session.begin_nested() as savepoint:
            session.delete(backend.member(session, 1, 20))
            backend.changed(session, "memberships", (1, BERT))
            session.flush()
            savepoint.rollback()
    check_change(backend, gone={row(1, ANNA)}, new={row(1, ANNA, "OWNER")})


def test_a_transaction_that_is_rolled_back(backend: CapturedBackend) -> None:
    """Nothing of it remains."""
    with backend.session() as session:
        session.delete(backend.member(session, 1, 10))
        session.execute(update(Member).values(role="OWNER"))
        backend.changed(session, "memberships", (1, ANNA))
        session.flush()
        session.rollback()
    check_no_events(backend)


def test_two_transactions_on_one_row(backend: CapturedBackend) -> None:
    """A drain runs between them."""
    with backend.change() as session:
        backend.member(session, 1, 10).role = "OWNER"
        backend.changed(session, "memberships", (1, ANNA))
    with backend.session() as session:
        backend.member(session, 1, 10).role = "GUEST"
        backend.changed(session, "memberships", (1, ANNA))
        session.flush()
        backend.mirror()
        session.commit()
    check_change(backend, gone={row(1, ANNA, "OWNER")}, new={row(1, ANNA, "GUEST")})


def test_a_key_that_changes(backend: CapturedBackend) -> None:
    """The target loses the old key."""
    with backend.change() as session:
        session.delete(backend.member(session, 2, 10))
        session.flush()
        backend.member(session, 1, 10).club_id = 2
        backend.changed(session, "memberships", (1, ANNA))
        backend.changed(session, "memberships", (2, ANNA))
    check_change(backend, gone={row(1, ANNA)})


def test_a_member_who_joins_while_the_club_is_archived(backend: CapturedBackend) -> None:
    """The archiving transaction cannot see the new member."""
    with backend.change() as session:
        session.get_one(Person, 30).auth_id = CARL
        session.execute(delete(Member).where(Member.person_id == 30))
        backend.changed(session, "people", CARL)
    backend.mirror()
    with backend.session() as joining:
        # Without the foreign keys' locks, for which the archiving transaction would wait.
        joining.execute(text("set local session_replication_role = replica"))
        joining.add(Member(club_id=1, person_id=30))
        backend.changed(joining, "memberships", (1, CARL))
        joining.flush()
        with backend.change() as session:
            session.get_one(Club, 1).archived = True
            backend.changed(session, "clubs", 1)
        check_change(backend, gone={row(1, ANNA), row(1, BERT)})
        joining.commit()
    backend.mirror()
    assert row(1, CARL) not in backend.mirrored()["memberships"]


def test_truncate(backend: CapturedBackend) -> None:
    """Only triggers see it."""
    skip_if_only(
        backend, "orm", "hooks", reason="a hook would have to name every scope; use resync"
    )
    with backend.change() as session:
        session.execute(text("truncate members"))
    check_change(backend, gone=backend.mirrored()["memberships"])


def test_statements_typed_into_psql(backend: CapturedBackend) -> None:
    """Only triggers see it."""
    skip_if_only(backend, "orm", "hooks", reason="no hook is called and no ORM involved")
    with backend.change() as session:
        session.execute(text("update members set role = 'OWNER' where person_id = 10"))
        session.execute(text("delete from members where person_id = 20 and club_id = 2"))
    check_change(
        backend,
        gone={row(1, ANNA), row(2, ANNA), row(2, BERT)},
        new={row(1, ANNA, "OWNER"), row(2, ANNA, "OWNER")},
    )


def test_an_id_that_is_set_later_brings_the_memberships(backend: CapturedBackend) -> None:
    """Carl signs in for the first time."""
    with backend.change() as session:
        session.get_one(Person, 30).auth_id = CARL
        backend.changed(session, "people", CARL)
        backend.scope(session, "memberships", person_id=30)
    check_change(backend, new={row(1, CARL)})


def test_an_id_that_changes_moves_the_memberships(backend: CapturedBackend) -> None:
    """No membership stays under the old id."""
    with backend.change() as session:
        session.get_one(Person, 10).auth_id = CARL
        backend.changed(session, "people", ANNA)
        backend.changed(session, "people", CARL)
        backend.scope(session, "memberships", person_id=10)
    check_change(backend, gone={row(1, ANNA), row(2, ANNA)}, new={row(1, CARL), row(2, CARL)})


def test_a_bulk_update_of_a_key_or_a_reference(backend: CapturedBackend) -> None:
    """After the statement, the rows do not contain their old values."""
    with backend.change() as session:
        session.execute(update(Person).where(Person.id == 10).values(auth_id=CARL))
        backend.changed(session, "people", ANNA)
        backend.changed(session, "people", CARL)
        backend.scope(session, "memberships", person_id=10)
    check_change(backend, gone={row(1, ANNA), row(2, ANNA)}, new={row(1, CARL), row(2, CARL)})


def test_a_person_who_is_deleted_loses_the_memberships(backend: CapturedBackend) -> None:
    """The row that translates the id is deleted, too."""
    with backend.change() as session:
        session.delete(session.get_one(Person, 10))
        backend.changed(session, "people", ANNA)
        backend.scope(session, "memberships", person_id=10)
    check_change(backend, gone={row(1, ANNA), row(2, ANNA)})


def test_an_id_that_is_removed_removes_the_memberships(backend: CapturedBackend) -> None:
    """The person stays, but has no auth id any more."""
    with backend.change() as session:
        session.get_one(Person, 10).auth_id = None
        backend.changed(session, "people", ANNA)
        backend.scope(session, "memberships", person_id=10)
    check_change(backend, gone={row(1, ANNA), row(2, ANNA)})


def test_all_ways_at_once_cost_one_apply(make_backend: MakeBackend) -> None:
    """Their events are in one batch, which merges them by key."""
    backend = make_backend("hooks", "orm", "triggers")
    backend.populate()
    with backend.change() as session:
        session.get_one(Club, 1).name = "First"
        backend.changed(session, "clubs", 1)
    assert len(backend.events()) > 1
    backend.drain.target = intercepted = Intercepted(backend.drain.target)
    backend.mirror()
    assert len(intercepted.calls) == 1
    assert ("1", "First") in backend.mirrored()["clubs"]
