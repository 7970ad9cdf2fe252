"""One list of changes, for each way of capture: hooks, ORM listeners, triggers, all at once.

After each change the target must be what the mappings' queries say. Each case also says what it
takes away or brings, or that it is no news, so that none passes because nothing happened.
"""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import delete, insert, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from tests.capture.backend import ANNA, BERT, CARL, CapturedBackend
from tests.capture.clubs import Club, Company, Member, Person
from tests.faults.tools import Intercepted

MakeWorld = Callable[..., CapturedBackend]
Row = tuple[str | None, ...]
Rows = set[Row] | frozenset[Row]

WAYS = [("hooks",), ("orm",), ("triggers",), ("hooks", "orm", "triggers")]


@pytest.fixture(params=WAYS, ids="+".join)
def world(request: pytest.FixtureRequest, make_world: MakeWorld) -> CapturedBackend:
    """A populated world; what happens in it is captured in this way."""
    world = make_world(*request.param)
    world.populate()
    return world


def unseen_by(world: CapturedBackend, *ways: str, why: str) -> None:
    """Skip where no way that is on could see the change; docs/capture.md says so."""
    if world.ways <= set(ways):
        pytest.skip(why)


def became(world: CapturedBackend, *, gone: Rows = frozenset(), new: Rows = frozenset()) -> None:
    """Mirror, and check what memberships that took away and brought."""
    before = world.mirrored()["memberships"]
    assert world.mirror() > 0
    after = world.mirrored()["memberships"]
    assert before - after == gone
    assert after - before == new


def row(club: int, person: Any, role: str = "MEMBER") -> Row:
    """Return a membership as it stands in the target."""
    return (str(club), str(person), role)


def no_news(world: CapturedBackend) -> None:
    """Check that nothing was recorded, and nothing would have had to be."""
    assert world.events() == []
    assert world.mirrored() == world.wanted()


def test_an_insert(world: CapturedBackend) -> None:
    """A person with an id that Auth knows joins."""
    with world.change() as session:
        session.add(Person(id=40, auth_id=CARL))
        session.flush()
        session.add(Member(club_id=1, person_id=40, role="OWNER"))
        world.changed(session, "people", CARL)
        world.changed(session, "memberships", (1, CARL))
    became(world, new={row(1, CARL, "OWNER")})


def test_a_mirrored_update(world: CapturedBackend) -> None:
    """Another role."""
    with world.change() as session:
        world.member(session, 1, 10).role = "OWNER"
        world.changed(session, "memberships", (1, ANNA))
    became(world, gone={row(1, ANNA)}, new={row(1, ANNA, "OWNER")})


def test_an_update_of_what_is_not_mirrored(world: CapturedBackend) -> None:
    """Nobody is woken for a note."""
    with world.change() as session:
        world.member(session, 1, 10).note = "likes tea"
        session.get_one(Person, 10).note = "likes tea"
        session.get_one(Club, 1).motto = "tea"
    no_news(world)


def test_a_soft_delete_and_its_undoing(world: CapturedBackend) -> None:
    """A filtered column."""
    for left in (True, False):
        with world.change() as session:
            world.member(session, 1, 10).left = left
            world.changed(session, "memberships", (1, ANNA))
        changed = {row(1, ANNA)}
        became(world, **{"gone" if left else "new": changed})


def test_a_hard_delete(world: CapturedBackend) -> None:
    """The row is gone, and with it what would tell the key of the mirrored one."""
    with world.change() as session:
        session.delete(world.member(session, 1, 10))
        world.changed(session, "memberships", (1, ANNA))
    became(world, gone={row(1, ANNA)})


def test_a_cascade_to_the_rows_of_a_parent(world: CapturedBackend) -> None:
    """The database deletes the members; the club's own event takes them along."""
    with world.change() as session:
        session.delete(session.get_one(Club, 1))
        world.changed(session, "clubs", 1)
    became(world, gone={row(1, ANNA), row(1, BERT)})


def test_a_cascade_over_a_table_that_no_mapping_reads(world: CapturedBackend) -> None:
    """Company, clubs, members."""
    unseen_by(world, "orm", why="the ORM deletes a company; the clubs are the database's doing")
    with world.change() as session:
        session.delete(session.get_one(Company, 1))
        world.scope(session, "clubs", company_id=1)
        world.scope(session, "memberships", company_id=1)
    became(world, gone={row(1, ANNA), row(1, BERT)})


def test_a_bulk_update(world: CapturedBackend) -> None:
    """Of a column that is mirrored, by a condition on another."""
    with world.change() as session:
        session.execute(update(Member).where(Member.club_id == 1).values(role="GUEST"))
        world.scope(session, "memberships", club_id=1)
    became(
        world,
        gone={row(1, ANNA), row(1, BERT)},
        new={row(1, ANNA, "GUEST"), row(1, BERT, "GUEST")},
    )


def test_a_bulk_update_of_what_is_not_mirrored(world: CapturedBackend) -> None:
    """Whatever it is that the rows hold."""
    with world.change() as session:
        session.execute(update(Member).values(note="checked"))
        session.execute(update(Club).where(Club.id == 1).values(motto="checked"))
    no_news(world)


def test_a_bulk_delete(world: CapturedBackend) -> None:
    """By a condition on another table."""
    with world.change() as session:
        of_anna = Member.person_id.in_(
            text("select id from people where name = 'Anna'").columns(Person.id)
        )
        session.execute(delete(Member).where(of_anna).execution_options(synchronize_session=False))
        world.scope(session, "memberships", person_id=10)
    became(world, gone={row(1, ANNA), row(2, ANNA)})


def test_a_bulk_insert(world: CapturedBackend) -> None:
    """Several rows in one statement."""
    with world.change() as session:
        session.execute(insert(Person), [{"id": 40, "auth_id": CARL}])
        session.execute(
            insert(Member), [{"club_id": 1, "person_id": 40}, {"club_id": 2, "person_id": 40}]
        )
        world.changed(session, "people", CARL)
        world.scope(session, "memberships", person_id=40)
    became(world, new={row(1, CARL), row(2, CARL)})


def test_an_upsert(world: CapturedBackend) -> None:
    """Which row was there before, nobody knows."""
    with world.change() as session:
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
        world.changed(session, "memberships", (1, ANNA))
    became(world, gone={row(1, ANNA)}, new={row(1, ANNA, "OWNER")})


def test_a_savepoint_that_is_rolled_back(world: CapturedBackend) -> None:
    """What it may have recorded says too much, which does no harm."""
    with world.change() as session:
        world.member(session, 1, 10).role = "OWNER"
        world.changed(session, "memberships", (1, ANNA))
        with session.begin_nested() as savepoint:
            session.delete(world.member(session, 1, 20))
            world.changed(session, "memberships", (1, BERT))
            session.flush()
            savepoint.rollback()
    became(world, gone={row(1, ANNA)}, new={row(1, ANNA, "OWNER")})


def test_a_transaction_that_is_rolled_back(world: CapturedBackend) -> None:
    """As if it had not been."""
    with world.session() as session:
        session.delete(world.member(session, 1, 10))
        session.execute(update(Member).values(role="OWNER"))
        world.changed(session, "memberships", (1, ANNA))
        session.flush()
        session.rollback()
    no_news(world)


def test_two_transactions_on_one_row(world: CapturedBackend) -> None:
    """The second waits for the first; a drain runs in between."""
    with world.change() as session:
        world.member(session, 1, 10).role = "OWNER"
        world.changed(session, "memberships", (1, ANNA))
    with world.session() as session:
        world.member(session, 1, 10).role = "GUEST"
        world.changed(session, "memberships", (1, ANNA))
        session.flush()
        world.mirror()
        session.commit()
    became(world, gone={row(1, ANNA, "OWNER")}, new={row(1, ANNA, "GUEST")})


def test_a_key_that_changes(world: CapturedBackend) -> None:
    """The old one disappears from the target."""
    with world.change() as session:
        session.delete(world.member(session, 2, 10))
        session.flush()
        world.member(session, 1, 10).club_id = 2
        world.changed(session, "memberships", (1, ANNA))
        world.changed(session, "memberships", (2, ANNA))
    became(world, gone={row(1, ANNA)})


def test_a_member_who_joins_while_the_club_is_archived(world: CapturedBackend) -> None:
    """The archiver cannot see the member who is just being added."""
    with world.change() as session:
        session.get_one(Person, 30).auth_id = CARL
        session.execute(delete(Member).where(Member.person_id == 30))
        world.changed(session, "people", CARL)
    world.mirror()
    with world.session() as joining:
        # Raw, so that no foreign key's lock makes the archiver wait.
        joining.execute(text("set local session_replication_role = replica"))
        joining.add(Member(club_id=1, person_id=30))
        world.changed(joining, "memberships", (1, CARL))
        joining.flush()
        with world.change() as session:
            session.get_one(Club, 1).archived = True
            world.changed(session, "clubs", 1)
        became(world, gone={row(1, ANNA), row(1, BERT)})
        joining.commit()
    world.mirror()
    assert row(1, CARL) not in world.mirrored()["memberships"]


def test_truncate(world: CapturedBackend) -> None:
    """Triggers alone see it."""
    unseen_by(world, "orm", "hooks", why="a hook would have to name every scope; use resync")
    with world.change() as session:
        session.execute(text("truncate members"))
    became(world, gone=world.mirrored()["memberships"])


def test_what_is_typed_into_psql(world: CapturedBackend) -> None:
    """Triggers alone see it."""
    unseen_by(world, "orm", "hooks", why="no hook is called and no ORM involved")
    with world.change() as session:
        session.execute(text("update members set role = 'OWNER' where person_id = 10"))
        session.execute(text("delete from members where person_id = 20 and club_id = 2"))
    became(
        world,
        gone={row(1, ANNA), row(2, ANNA), row(2, BERT)},
        new={row(1, ANNA, "OWNER"), row(2, ANNA, "OWNER")},
    )


def test_an_id_that_is_set_later_brings_the_memberships(world: CapturedBackend) -> None:
    """Carl signs in for the first time."""
    with world.change() as session:
        session.get_one(Person, 30).auth_id = CARL
        world.changed(session, "people", CARL)
        world.scope(session, "memberships", person_id=30)
    became(world, new={row(1, CARL)})


def test_an_id_that_changes_moves_the_memberships(world: CapturedBackend) -> None:
    """None stays under the old one."""
    with world.change() as session:
        session.get_one(Person, 10).auth_id = CARL
        world.changed(session, "people", ANNA)
        world.changed(session, "people", CARL)
        world.scope(session, "memberships", person_id=10)
    became(world, gone={row(1, ANNA), row(2, ANNA)}, new={row(1, CARL), row(2, CARL)})


def test_a_bulk_update_of_a_key_or_a_reference(world: CapturedBackend) -> None:
    """What the rows were called before, they do not tell afterwards."""
    with world.change() as session:
        session.execute(update(Person).where(Person.id == 10).values(auth_id=CARL))
        world.changed(session, "people", ANNA)
        world.changed(session, "people", CARL)
        world.scope(session, "memberships", person_id=10)
    became(world, gone={row(1, ANNA), row(2, ANNA)}, new={row(1, CARL), row(2, CARL)})


def test_a_person_who_is_deleted_loses_the_memberships(world: CapturedBackend) -> None:
    """Although the row that translates the id is gone."""
    with world.change() as session:
        session.delete(session.get_one(Person, 10))
        world.changed(session, "people", ANNA)
        world.scope(session, "memberships", person_id=10)
    became(world, gone={row(1, ANNA), row(2, ANNA)})


def test_an_id_that_is_taken_away_takes_the_memberships(world: CapturedBackend) -> None:
    """The person stays, but is nobody to Auth."""
    with world.change() as session:
        session.get_one(Person, 10).auth_id = None
        world.changed(session, "people", ANNA)
        world.scope(session, "memberships", person_id=10)
    became(world, gone={row(1, ANNA), row(2, ANNA)})


def test_all_ways_at_once_cost_one_apply(make_world: MakeWorld) -> None:
    """Their events are of one batch, and coalesce by key."""
    world = make_world("hooks", "orm", "triggers")
    world.populate()
    with world.change() as session:
        session.get_one(Club, 1).name = "First"
        world.changed(session, "clubs", 1)
    assert len(world.events()) > 1
    world.drain.target = spy = Intercepted(world.drain.target)
    world.mirror()
    assert len(spy.calls) == 1
    assert ("1", "First") in world.mirrored()["clubs"]
