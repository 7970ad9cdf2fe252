"""ORM capture records the right events, and no others, for flushes and statements of sessions."""

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine, bindparam, delete, event, func, insert, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, aliased, scoped_session, sessionmaker

from examples.trip_chat.models import Membership, Role, Status, User
from mappings.trips import registry as trips
from mirror import hooks
from mirror.capture import Capture, attach
from mirror.capture.doorbell import Doorbell, DoorbellSettings
from mirror.errors import UsageError
from mirror.hooks import Hooks
from mirror.model.registry import Registry
from mirror.sync.drain import Drain
from tests.integration import schools
from tests.integration.schools import Course, Grade, Level, Note, Person, Seat, Teacher
from tests.support import factories
from tests.support.databases import TestDatabase

REVOCATION, GRANT = 0, 1
ANN, BOB, CID = (UUID(int=number) for number in (1, 2, 3))
Recorded = set[tuple[Any, ...]]


def recorded(primary: TestDatabase) -> Recorded:
    """Return the outbox's events as (lane, mapping, reference, key), and empty the outbox."""
    rows = primary.query("delete from mirror.outbox returning lane, mapping, reference, key")
    return {(lane, mapping, reference, *key) for lane, mapping, reference, key in rows}


def seat(lane: int, course: int, pupil: UUID = ANN) -> tuple[Any, ...]:
    """Return the event of one seat."""
    return (lane, "seats", None, str(course), str(pupil))


def _insert(model: Any) -> Any:
    return insert(model.__table__)


@pytest.fixture
def captured(session: Session, recorder: Hooks) -> Iterator[Session]:
    """The factories' session, with capture attached."""
    capture = attach(session, hooks=recorder)
    yield session
    capture.detach()


@pytest.fixture
def school(primary: TestDatabase) -> TestDatabase:
    """The same primary with the tables of `schools` and some rows."""
    with primary.migrating() as connection:
        schools.Base.metadata.create_all(connection)
        connection.execute(
            _insert(Course), [{"id": n, "title": "", "closed": False} for n in (7, 8, 9)]
        )
        connection.execute(
            _insert(Seat),
            [
                {"id": n, "course_id": 7, "pupil": pupil, "state": "taken"}
                for n, pupil in enumerate((ANN, BOB), 1)
            ],
        )
    return primary


@pytest.fixture
def make(school: TestDatabase, engine: Engine) -> Iterator[sessionmaker[Session]]:
    """A captured sessionmaker for `schools`."""
    made = sessionmaker(engine)
    capture = attach(made, hooks=Hooks(schools.registry, Doorbell(DoorbellSettings(mode="off"))))
    yield made
    capture.detach()


# Flushes


def test_a_new_row_is_a_grant(captured: Session, primary: TestDatabase) -> None:
    """The event has the key that the flush generated."""
    membership = factories.MembershipFactory()
    captured.commit()
    trip, user = str(membership.trip_id), str(membership.user_id)
    assert recorded(primary) >= {
        (GRANT, "trips", None, trip),
        (GRANT, "users", None, user),
        (GRANT, "trip_memberships", None, trip, user),
    }


def test_what_is_captured_arrives_in_the_target(
    captured: Session, target: TestDatabase, drain: Drain
) -> None:
    """A member joins and leaves; no hook is called."""
    membership = factories.MembershipFactory(role=Role.ADMIN)
    captured.commit()
    drain.run()
    assert target.query("select role, status from trip_memberships") == [("ADMIN", "ACTIVE")]
    membership.status = Status.INACTIVE
    captured.commit()
    drain.run()
    assert target.query("select role, status from trip_memberships") == [("ADMIN", "INACTIVE")]
    captured.delete(membership)
    captured.commit()
    drain.run()
    assert target.query("select role from trip_memberships") == []


@pytest.mark.parametrize(
    ("changes", "lane"),
    [
        ({"status": Status.INACTIVE}, REVOCATION),
        ({"role": Role.OWNER}, REVOCATION),
        ({"deleted_at": datetime(2026, 1, 1, tzinfo=UTC)}, REVOCATION),
    ],
)
def test_a_change_of_a_deciding_column_is_a_revocation(
    captured: Session, primary: TestDatabase, changes: dict[str, Any], lane: int
) -> None:
    """The direction of the change does not matter: the drain reads the row."""
    membership = factories.MembershipFactory()
    captured.commit()
    recorded(primary)
    for name, value in changes.items():
        setattr(membership, name, value)
    captured.commit()
    key = str(membership.trip_id), str(membership.user_id)
    assert recorded(primary) == {(lane, "trip_memberships", None, *key)}


def test_a_change_of_a_describing_column_is_a_grant(
    captured: Session, primary: TestDatabase
) -> None:
    """A name grants nothing, so its event is in the grant lane."""
    trip = factories.TripFactory()
    captured.commit()
    recorded(primary)
    trip.name = "Elsewhere"
    captured.commit()
    assert recorded(primary) == {(GRANT, "trips", None, str(trip.id))}


def test_an_update_of_unmirrored_columns_records_nothing(
    captured: Session, primary: TestDatabase
) -> None:
    """An update that sets the old value again records no event either."""
    user = factories.UserFactory()
    captured.commit()
    recorded(primary)
    user.biography = "long"
    captured.commit()
    user.username = str(user.username)
    captured.commit()
    assert recorded(primary) == set()


def test_tables_that_no_mapping_reads_cost_no_statement(
    make: sessionmaker[Session], school: TestDatabase, engine: Engine
) -> None:
    """Insert, update and delete run only the backend's own statements, after the first change."""
    with make.begin() as session:
        session.add(Note(id=2))
    seen: list[str] = []

    def count(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement.split(maxsplit=1)[0])

    event.listen(engine, "before_cursor_execute", count)
    with make() as session:
        note = Note(id=1)
        session.add(note)
        session.flush()
        note.body = "text"
        session.flush()
        session.delete(note)
        session.commit()
    event.remove(engine, "before_cursor_execute", count)
    assert seen == ["INSERT", "UPDATE", "DELETE"]
    assert recorded(school) == set()


def test_a_key_that_changes_is_two_keys(make: sessionmaker[Session], school: TestDatabase) -> None:
    """The old key and the new key both get an event."""
    with make.begin() as session:
        session.get_one(Seat, 1).course_key = 8
    assert recorded(school) == {seat(REVOCATION, 7), seat(REVOCATION, 8)}


def test_a_primary_key_that_changes_is_two_keys(captured: Session, primary: TestDatabase) -> None:
    """The key under which the row was loaded and the new one both get an event."""
    user, new = factories.UserFactory(), uuid4()
    old = user.id
    captured.commit()
    recorded(primary)
    user.id = new
    captured.commit()
    assert recorded(primary) == {(REVOCATION, "users", None, str(key)) for key in (old, new)}


@pytest.mark.parametrize("how", ["expired", "deferred", "synonym"])
def test_an_old_value_that_was_not_loaded_is_read(
    make: sessionmaker[Session], school: TestDatabase, how: str
) -> None:
    """If the backend assigns an attribute without loading it, SQLAlchemy has no old value."""
    from sqlalchemy.orm import defer  # noqa: PLC0415

    with make.begin() as session:
        options = [defer(Seat.course_key)] if how == "deferred" else []
        one = session.get_one(Seat, 1, options=options)
        if how == "expired":
            session.expire(one)
        if how == "synonym":
            session.expire(one)
            one.course_alias = 8
        else:
            one.course_key = 8
    assert recorded(school) == {seat(REVOCATION, 7), seat(REVOCATION, 8)}


@pytest.mark.parametrize("change", ["update", "delete", "bulk"])
def test_a_row_that_another_session_moved_since_loading_is_recorded_as_it_is(
    make: sessionmaker[Session], school: TestDatabase, change: str
) -> None:
    """The loaded row says course 7, but course 8 loses the seat."""
    with make() as session:
        one = session.get_one(Seat, 1)
        assert one.course_key == 7
        school.query("update seats set course_id = 8 where id = 1")
        if change == "update":
            one.state = "free"
        elif change == "delete":
            session.delete(one)
        else:
            session.execute(update(Seat), [{"number": 1, "state": "free"}])
        session.commit()
    assert recorded(school) == {seat(REVOCATION, 8)}


def test_rows_to_be_read_are_read_at_once(
    make: sessionmaker[Session], school: TestDatabase, engine: Engine
) -> None:
    """A flush runs one locking statement for all rows, not one for each."""
    seen: list[str] = []

    def count(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "FOR NO KEY UPDATE" in statement:
            seen.append(statement)

    event.listen(engine, "before_cursor_execute", count)
    with make.begin() as session:
        for one in session.scalars(select(Seat)):
            one.state = "free"
    event.remove(engine, "before_cursor_execute", count)
    assert len(seen) == 1
    assert recorded(school) == {seat(REVOCATION, 7), seat(REVOCATION, 7, BOB)}


def test_a_value_that_only_the_database_knows_is_read_after_the_flush(
    make: sessionmaker[Session], school: TestDatabase
) -> None:
    """The new key is an SQL expression."""
    with make.begin() as session:
        session.get_one(Seat, 1).course_key = select(func.max(Course.id)).scalar_subquery()
    assert recorded(school) == {seat(REVOCATION, 7), seat(REVOCATION, 9)}


def test_a_key_with_a_null_records_nothing(
    make: sessionmaker[Session], school: TestDatabase
) -> None:
    """A seat without a course has no event; when it gets a course, it has one."""
    with make.begin() as session:
        session.add(Seat(number=5, course_key=None, pupil=CID))
    assert recorded(school) == set()
    with make.begin() as session:
        session.get_one(Seat, 5).course_key = 8
    assert recorded(school) == {seat(REVOCATION, 8, CID)}


def test_an_enum_key_is_recorded_as_the_database_stores_it(
    make: sessionmaker[Session], school: TestDatabase
) -> None:
    """It is the name of the member, in a flush and in bulk; schema public counts as no schema."""
    with make.begin() as session:
        session.add(Grade(level=Level.FIRST))
    assert recorded(school) == {(GRANT, "grades", None, "FIRST")}
    with make.begin() as session:
        session.execute(update(Grade).where(Grade.level == Level.FIRST).values(title="x"))
    assert recorded(school) == {(REVOCATION, "grades", None, "FIRST")}


def test_a_scope_is_recorded_for_a_row_that_others_join(
    make: sessionmaker[Session], school: TestDatabase
) -> None:
    """Closing a course records all its seats; a new title records none."""
    with make.begin() as session:
        session.get_one(Course, 7).title = "Latin"
    assert recorded(school) == set()
    with make.begin() as session:
        session.get_one(Course, 7).closed = True
    assert recorded(school) == {(REVOCATION, "seats", "course_id", "7")}


def test_each_table_of_a_joined_inheritance_counts(
    make: sessionmaker[Session], school: TestDatabase
) -> None:
    """The base table counts, the subclass's table counts, and an unmirrored column does not."""
    with make.begin() as session:
        session.add(Teacher(id=1, name="Ada", room="1"))
    assert recorded(school) == {(GRANT, "teachers", None, "1")}
    for changes, lanes in (
        ({"shoe_size": 40}, []),
        ({"name": "B"}, [GRANT]),
        ({"room": "2"}, [REVOCATION]),
    ):
        with make.begin() as session:
            for name, value in changes.items():
                setattr(session.get_one(Teacher, 1), name, value)
        assert recorded(school) == {(lane, "teachers", None, "1") for lane in lanes}
    with make.begin() as session:
        session.delete(session.get_one(Teacher, 1))
    assert recorded(school) == {(REVOCATION, "teachers", None, "1")}


# Relationships


@pytest.mark.parametrize("loaded", [False, True])
def test_a_cascade_of_the_orm_is_seen_row_by_row(
    make: sessionmaker[Session],
    school: TestDatabase,
    loaded: bool,  # noqa: FBT001 - a parameter
) -> None:
    """The children may be loaded already; otherwise SQLAlchemy loads them to delete them."""
    with make.begin() as session:
        course = session.get_one(Course, 7)
        if loaded:
            assert len(course.seats) == 2
        session.delete(course)
    assert recorded(school) == {
        (REVOCATION, "seats", "course_id", "7"),
        seat(REVOCATION, 7),
        seat(REVOCATION, 7, BOB),
    }


def test_an_orphan_is_deleted_and_seen(make: sessionmaker[Session], school: TestDatabase) -> None:
    """The backend does not call session.delete(); the flush finds the orphan."""
    with make.begin() as session:
        course = session.get_one(Course, 7)
        course.seats.remove(next(one for one in course.seats if one.pupil == BOB))
    assert recorded(school) == {seat(REVOCATION, 7, BOB)}


def test_a_foreign_key_that_a_relationship_sets_is_seen(
    make: sessionmaker[Session], school: TestDatabase
) -> None:
    """The backend never touches the seat itself; SQLAlchemy changes it during the flush."""
    with make.begin() as session:
        one, course = session.get_one(Seat, 1), session.get_one(Course, 8)
        course.seats.append(one)
    assert recorded(school) == {seat(REVOCATION, 7), seat(REVOCATION, 8)}


def test_the_rows_of_a_many_to_many_table_are_seen(
    make: sessionmaker[Session], school: TestDatabase
) -> None:
    """They are added, removed, replaced, and deleted with one of their sides."""
    with make.begin() as session:
        session.add_all([Person(id=n, kind="person") for n in (1, 2)])
        session.flush()
        session.get_one(Course, 7).tutors = list(session.scalars(select(Person)))
    assert {row for row in recorded(school) if row[1] == "tutors"} == {
        (GRANT, "tutors", None, "7", key) for key in "12"
    }
    with make.begin() as session:
        course = session.get_one(Course, 7)
        course.tutors.remove(session.get_one(Person, 1))
    assert recorded(school) == {(REVOCATION, "tutors", None, "7", "1")}
    with make.begin() as session:
        session.delete(session.get_one(Course, 7))
    assert (REVOCATION, "tutors", None, "7", "2") in recorded(school)


def test_a_deleted_object_that_a_new_one_replaces_is_a_revocation(
    captured: Session, primary: TestDatabase
) -> None:
    """SQLAlchemy merges the two into an UPDATE, which can take access away."""
    membership = factories.MembershipFactory(role=Role.OWNER)
    captured.commit()
    recorded(primary)
    key = membership.trip_id, membership.user_id
    captured.delete(membership)
    captured.add(Membership(trip_id=key[0], user_id=key[1], role=Role.MEMBER))
    captured.commit()
    assert (REVOCATION, "trip_memberships", None, *map(str, key)) in recorded(primary)


def test_a_change_that_a_later_listener_makes_counts(
    make: sessionmaker[Session], school: TestDatabase
) -> None:
    """A mapper's before_update listener runs after the one of the capture."""

    def close(_mapper: Any, _connection: Connection, course: Course) -> None:
        course.closed = True

    event.listen(Course, "before_update", close)
    try:
        with make.begin() as session:
            session.get_one(Course, 7).title = "Latin"
    finally:
        event.remove(Course, "before_update", close)
    assert recorded(school) == {(REVOCATION, "seats", "course_id", "7")}


# Statements


def users(session: Session, count: int = 2) -> list[UUID]:
    """Return the ids of new users, which are in the database."""
    made = [factories.UserFactory() for _ in range(count)]
    ids = [user.id for user in made]
    session.commit()
    return ids


@pytest.mark.parametrize("sync", ["auto", "evaluate", "fetch", False])
@pytest.mark.parametrize("returning", [None, "entity", "column"])
@pytest.mark.parametrize("verb", ["update", "delete"])
def test_bulk_changes_record_their_rows_and_return_the_same_as_without_capture(
    captured: Session, primary: TestDatabase, sync: Any, returning: str | None, verb: str
) -> None:
    """The caller gets the same rows, rowcount and session objects as without capture."""
    ids = users(captured)
    recorded(primary)
    loaded = captured.get_one(User, ids[0])
    statement: Any = (
        update(User).values(username="new") if verb == "update" else delete(User)
    ).where(User.id.in_(ids))
    if returning:
        statement = statement.returning(User if returning == "entity" else User.username)
    result: Any = captured.execute(statement, execution_options={"synchronize_session": sync})
    if returning == "entity":
        assert {row.User.id for row in result} == set(ids)
    elif returning == "column":
        assert result.keys() == ["username"]
        assert len(result.scalars().all()) == 2
    else:
        assert result.rowcount == 2
    if sync and verb == "update":
        assert loaded.username == "new"
    if sync and verb == "delete":
        assert loaded not in captured
    captured.commit()
    lane = GRANT if verb == "update" else REVOCATION
    assert recorded(primary) == {(lane, "users", None, str(one)) for one in ids}


def test_a_returning_statement_returns_only_the_callers_columns(
    captured: Session, primary: TestDatabase
) -> None:
    """The result leaves out the columns that capture adds to RETURNING."""
    ids = users(captured)
    changed = captured.scalars(
        update(User).where(User.id == ids[0]).values(username="new").returning(User)
    ).one()
    assert (changed.id, changed.username) == (ids[0], "new")
    core: Any = User.__table__
    result = captured.execute(
        core.update().where(core.c.id == ids[0]).values(username="x").returning(core.c.username)
    )
    assert result.rowcount == 1  # type: ignore[attr-defined]
    assert result.all() == [("x",)]


def test_a_bulk_update_of_unmirrored_columns_is_unchanged(
    captured: Session, primary: TestDatabase, engine: Engine
) -> None:
    """It records no event and gets no RETURNING."""
    users(captured)
    recorded(primary)
    seen: list[str] = []

    def watch(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", watch)
    captured.execute(update(User).values(biography="x"))
    event.remove(engine, "before_cursor_execute", watch)
    captured.commit()
    assert [statement for statement in seen if "RETURNING" in statement] == []
    assert recorded(primary) == set()


def test_a_bulk_change_of_no_row_records_nothing(captured: Session, primary: TestDatabase) -> None:
    """This holds even if the statement sets a key."""
    captured.execute(delete(User).where(User.username == "nobody"))
    captured.execute(update(User).where(User.username == "nobody").values(id=uuid4()))
    captured.commit()
    assert recorded(primary) == set()


def test_a_bulk_change_sees_the_row_that_commits_just_before_it(
    make: sessionmaker[Session], school: TestDatabase, engine: Engine
) -> None:
    """A SELECT of the keys before the change would miss that row."""
    late = school.connect()

    def join(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("DELETE FROM seats"):
            late.execute(
                "insert into seats (id, course_id, pupil, state) values (3, 8, %s, '')", [CID]
            )

    event.listen(engine, "before_cursor_execute", join)
    with make.begin() as session:
        session.execute(delete(Seat))
    event.remove(engine, "before_cursor_execute", join)
    late.close()
    assert seat(REVOCATION, 8, CID) in recorded(school)


def test_a_bulk_change_of_a_key_reads_the_whole_mapping_again(
    make: sessionmaker[Session], school: TestDatabase
) -> None:
    """RETURNING shows the new keys, but not the old ones."""
    with make.begin() as session:
        session.execute(update(Seat).values(course_key=8))
    assert recorded(school) == {(REVOCATION, "seats", "*")}


def test_a_bulk_update_by_primary_key_records_old_and_new_keys(
    make: sessionmaker[Session], school: TestDatabase
) -> None:
    """A list of values allows no RETURNING; capture locks and reads the rows before and after."""
    with make.begin() as session:
        session.execute(
            update(Seat), [{"number": 1, "course_key": 8}, {"number": 2, "course_key": 9}]
        )
    assert recorded(school) == {
        seat(REVOCATION, 7),
        seat(REVOCATION, 8),
        seat(REVOCATION, 7, BOB),
        seat(REVOCATION, 9, BOB),
    }
    with make.begin() as session:
        session.execute(update(Seat), [{"number": 1, "scribble": "x"}])
        session.execute(update(Note).values(body="x"))
    assert recorded(school) == set()


def test_many_executions_of_one_core_statement_read_the_whole_mapping_again(
    make: sessionmaker[Session], school: TestDatabase
) -> None:
    """They return no rows, and their WHERE can be anything."""
    seats: Any = Seat.__table__
    statement = seats.update().where(seats.c.id == bindparam("n")).values(state="free")
    with make.begin() as session:
        session.connection()
        session.execute(statement, [{"n": 1}, {"n": 2}])
    assert recorded(school) == {(REVOCATION, "seats", "*")}


def test_other_ways_to_write_update_and_delete_are_captured(
    make: sessionmaker[Session], school: TestDatabase
) -> None:
    """Query, Core tables, aliases, separate values, and names of columns and of attributes."""
    seats: Any = Seat.__table__
    alias = aliased(Seat)
    ways: list[Callable[[Session], Any]] = [
        lambda s: s.query(Seat).filter_by(number=1).update({"state": "1"}),
        lambda s: s.query(Seat).filter_by(number=1).update({Seat.state: "2"}),
        lambda s: s.execute(update(Seat).where(Seat.number == 1), {"state": "3"}),
        lambda s: s.execute(seats.update().where(seats.c.id == 1).values(state="4")),
        lambda s: s.execute(update(alias).where(alias.number == 1).values(state="5")),
        lambda s: s.execute(update(Seat).where(Seat.number == 1).ordered_values(("state", "6"))),
        lambda s: s.query(Seat).filter_by(number=1).delete(),
    ]
    for way in ways:
        with make.begin() as session:
            way(session)
        assert recorded(school) == {seat(REVOCATION, 7)}


def test_a_dml_statement_that_objects_are_selected_from_reads_all_again(
    make: sessionmaker[Session], school: TestDatabase
) -> None:
    """Capture cannot add a RETURNING to it."""
    with make.begin() as session:
        changing = update(Seat).where(Seat.number == 1).values(state="x").returning(Seat)
        assert session.scalars(select(Seat).from_statement(changing)).one().number == 1
    assert recorded(school) == {(REVOCATION, "seats", "*")}


@pytest.mark.parametrize(
    "how", ["list", "one", "values", "many values", "select", "returning", "core"]
)
def test_bulk_inserts_record_their_rows(captured: Session, primary: TestDatabase, how: str) -> None:
    """Keys made by a default are included; the caller gets the same result as without capture."""
    values = [{"email": f"{n}@example.com", "username": "new"} for n in range(2)]
    if how == "list":
        result: Any = captured.execute(insert(User), values)
    elif how == "one":
        result = captured.execute(insert(User), values[0])
    elif how == "values":
        result = captured.execute(insert(User).values(**values[0]))
        assert len(result.inserted_primary_key) == 1
    elif how == "many values":
        result = captured.execute(insert(User).values(values))
    elif how == "select":
        row = select(func.gen_random_uuid(), func.lower("A@B"), func.lower("new"))
        result = captured.execute(insert(User).from_select(["id", "email", "username"], row))
    elif how == "returning":
        result = captured.execute(insert(User).returning(User.email, User), values)
        assert [(row.email, row.User.username) for row in result] == [
            (one["email"], "new") for one in values
        ]
    else:
        result = captured.execute(User.__table__.insert(), values)  # type: ignore[attr-defined]
    captured.commit()
    ids = {str(row[0]) for row in primary.query("select id from users where username = 'new'")}
    assert ids
    assert recorded(primary) == {(GRANT, "users", None, one) for one in ids}


def test_an_upsert_records_the_row_that_existed(captured: Session, primary: TestDatabase) -> None:
    """The event has the row's key, not the insert's; its lane depends on the set columns."""
    (known,) = users(captured, 1)
    email = primary.value("select email from users")
    recorded(primary)
    upsert = postgresql.insert(User).values(id=uuid4(), email=email, username="new")
    harmless = upsert.on_conflict_do_update(
        index_elements=["email"], set_={"username": upsert.excluded.username}
    )
    captured.execute(harmless)
    captured.commit()
    assert recorded(primary) == {(GRANT, "users", None, str(known))}
    captured.execute(
        upsert.on_conflict_do_update(index_elements=["email"], set_={"deleted_at": func.now()})
    )
    captured.commit()
    assert recorded(primary) == {(REVOCATION, "users", None, str(known))}
    captured.execute(
        upsert.on_conflict_do_update(index_elements=["email"], set_={"id": upsert.excluded.id})
    )
    captured.commit()
    assert recorded(primary) == {(REVOCATION, "users", "*")}


def test_an_upsert_that_sets_its_own_conflicting_key_moves_nothing(
    captured: Session, primary: TestDatabase
) -> None:
    """Upserts that set every column do this."""
    membership = factories.MembershipFactory()
    captured.commit()
    recorded(primary)
    key = membership.trip_id, membership.user_id
    upsert = postgresql.insert(Membership)
    columns = ("trip_id", "user_id", "role")
    captured.execute(
        upsert.on_conflict_do_update(
            index_elements=["trip_id", "user_id"],
            set_={name: upsert.excluded[name] for name in columns},
        ),
        [{"trip_id": key[0], "user_id": key[1], "role": Role.OWNER}],
    )
    captured.commit()
    assert recorded(primary) == {(REVOCATION, "trip_memberships", None, *map(str, key))}


def test_a_bulk_insert_of_joined_inheritance_records_the_given_rows(
    make: sessionmaker[Session], school: TestDatabase
) -> None:
    """SQLAlchemy runs several statements; the values given say which rows."""
    with make.begin() as session:
        session.execute(
            insert(Teacher), [{"id": n, "name": "x", "kind": "teacher"} for n in (1, 2)]
        )
    assert recorded(school) == {(GRANT, "teachers", None, key) for key in "12"}


# Transactions


def test_a_rolled_back_transaction_records_nothing(
    captured: Session, primary: TestDatabase
) -> None:
    """The next transaction starts empty, too."""
    factories.UserFactory()
    captured.rollback()
    user = factories.UserFactory()
    captured.commit()
    assert recorded(primary) == {(GRANT, "users", None, str(user.id))}


def test_a_failed_flush_leaves_nothing_behind(captured: Session, primary: TestDatabase) -> None:
    """The next flush records its own rows."""
    user = factories.UserFactory()
    captured.commit()
    recorded(primary)
    captured.add(User(email=user.email, username="twin"))
    with pytest.raises(IntegrityError):
        captured.flush()
    captured.rollback()
    other = factories.UserFactory()
    captured.commit()
    assert recorded(primary) == {(GRANT, "users", None, str(other.id))}


def test_a_savepoint_that_is_kept_or_rolled_back_harms_nothing(
    captured: Session, primary: TestDatabase, target: TestDatabase, drain: Drain
) -> None:
    """A superfluous event is harmless; a missing one is not."""
    with captured.begin_nested():
        kept = factories.UserFactory()
    with captured.begin_nested() as savepoint:
        factories.UserFactory()
        savepoint.rollback()
    captured.commit()
    assert primary.value("select count(*) from mirror.outbox") >= 1
    drain.run()
    assert target.query("select id from users") == [(kept.id,)]


def test_sessions_at_once_do_not_mix(make: sessionmaker[Session], school: TestDatabase) -> None:
    """Each session writes its own events when it commits."""
    with make() as one, make() as other:
        one.get_one(Seat, 1).state = "free"
        other.get_one(Seat, 2).state = "free"
        one.flush()
        other.flush()
        one.rollback()
        other.commit()
    assert recorded(school) == {seat(REVOCATION, 7, BOB)}


def test_hooks_and_capture_record_an_event_once(
    captured: Session, recorder: Hooks, primary: TestDatabase
) -> None:
    """Both use the same Hooks."""
    user = factories.UserFactory()
    recorder.changed(captured, "users", user.id, "grant")
    captured.commit()
    assert primary.query("select key from mirror.outbox") == [([str(user.id)],)]


def test_all_flushes_of_a_transaction_are_written_at_once(
    engine: Engine, primary: TestDatabase, recorder: Hooks
) -> None:
    """This holds in a session's first transaction, too."""
    make = sessionmaker(engine)
    capture = attach(make, hooks=recorder)
    seen: list[str] = []

    def count(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "mirror.outbox" in statement:
            seen.append(statement)

    event.listen(engine, "before_cursor_execute", count)
    with make() as session:
        for n in range(3):
            session.add(User(email=f"{n}@example.com", username="u"))
            session.flush()
        session.add(User(email="last@example.com", username="u"))
        session.commit()
    capture.detach()
    assert len(seen) == 1
    assert len(recorded(primary)) == 4


# Targets


def test_every_factory_of_sessions_can_be_captured(
    engine: Engine, primary: TestDatabase, recorder: Hooks
) -> None:
    """Once detached, it is captured no more; attaching or detaching twice is harmless."""

    class Own(Session):
        pass

    maker, scoped, single = (
        sessionmaker(engine),
        scoped_session(sessionmaker(engine)),
        Session(engine),
    )
    targets: list[tuple[Any, Callable[[], Any]]] = [
        (maker, maker),
        (scoped, scoped),
        (Own, lambda: Own(engine)),
        (Session, lambda: Session(engine)),
        (single, lambda: single),
    ]
    number = 0
    for target, make in targets:
        capture: Capture = attach(target, hooks=recorder)
        for expected in (1, 0):
            session = make()
            number += 1
            session.add(User(email=f"{number}@example.com", username="u"))
            session.commit()
            session.close()
            assert len(recorded(primary)) == expected, target
            capture.detach()
    scoped.remove()


def test_other_sessions_are_left_alone(
    engine: Engine, primary: TestDatabase, recorder: Hooks
) -> None:
    """A captured sessionmaker captures only its own sessions."""
    capture = attach(sessionmaker(engine), hooks=recorder)
    with sessionmaker(engine).begin() as session:
        session.add(User(email="a@example.com", username="u"))
    capture.detach()
    assert recorded(primary) == set()


def test_detaching_leaves_no_listener(engine: Engine, recorder: Hooks) -> None:
    """No listener is left on sessions or mappers; detaching one of two captures keeps the other."""
    make = sessionmaker(engine)
    first, second = attach(make, hooks=recorder), attach(make, hooks=recorder)
    first.detach()
    assert list(make().dispatch.before_flush)
    second.detach()
    for name in ("before_flush", "after_flush", "do_orm_execute"):
        assert not list(getattr(make().dispatch, name))
    for mapper in User.registry.mappers:
        for name in ("before_insert", "before_update", "before_delete"):
            assert not list(getattr(mapper.dispatch, name))


def test_a_captured_session_can_be_forgotten(engine: Engine, recorder: Hooks) -> None:
    """Capture keeps no reference to it, even after a failed flush."""
    session = Session(engine)
    attach(session, hooks=recorder)
    session.add(User(email="a@example.com", username="u"))
    session.commit()
    session.add(User(email="a@example.com", username="u"))
    with pytest.raises(IntegrityError):
        session.flush()
    session.close()
    gone = weakref.ref(session)
    del session
    gc.collect()
    assert gone() is None


def test_an_object_that_makes_no_sessions_is_refused(engine: Engine, recorder: Hooks) -> None:
    """The error names the type."""
    with pytest.raises(UsageError, match="Engine"):
        attach(engine, hooks=recorder)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["maker", "own maker", "scoped", "class", "session"])
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_asyncio_sessions_are_captured(
    primary: TestDatabase, recorder: Hooks, driver: str, kind: str
) -> None:
    """Flushes and statements are captured, with reads of old values, until capture is detached."""
    url = primary.url.replace("postgresql://", f"postgresql+{driver}://", 1)

    class Own(AsyncSession):
        pass

    async def main() -> None:
        engine = create_async_engine(url)
        maker = async_sessionmaker(engine)
        own = async_sessionmaker(engine, sync_session_class=sessionmaker())
        scoped = async_scoped_session(maker, scopefunc=lambda: 1)
        single = AsyncSession(engine)
        target, make = {
            "maker": (maker, maker),
            "own maker": (own, own),
            "scoped": (scoped, scoped),
            "class": (Own, lambda: Own(engine)),
            "session": (single, lambda: single),
        }[kind]
        capture = attach(target, hooks=recorder)  # type: ignore[arg-type]
        session: Any = make()  # type: ignore[operator]
        key = uuid4()
        user = User(id=key, email="a@example.com", username="u")
        session.add(user)
        await session.commit()
        assert recorded(primary) == {(GRANT, "users", None, str(key))}
        await session.refresh(user)
        user.id = uuid4()
        await session.commit()
        assert len(recorded(primary)) == 2
        result = await session.execute(update(User).values(username="v"))
        assert result.rowcount == 1
        await session.commit()
        assert len(recorded(primary)) == 1
        capture.detach()
        await session.execute(delete(User))
        await session.commit()
        await session.close()
        await engine.dispose()

    asyncio.run(main())
    assert recorded(primary) == set()


def test_the_trips_model_of_the_environment_is_the_default(
    engine: Engine, primary: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hooks and capture then share the recorded events."""
    monkeypatch.setenv("MIRROR_DOORBELL", "off")
    make = sessionmaker(engine)
    capture = attach(make)
    with make.begin() as session:
        session.add(User(email="a@example.com", username="u"))
    capture.detach()
    assert len(recorded(primary)) == 1


def test_a_registry_of_its_own_gets_hooks_of_its_own(
    engine: Engine, primary: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share the environment's hooks only if these have the same registry."""
    monkeypatch.setenv("MIRROR_DOORBELL", "off")
    smaller = Registry("users", [trips["users"]])
    for registry in (trips, smaller):
        make = sessionmaker(engine)
        capture = attach(make, registry)
        with make.begin() as session:
            user = User(email=f"{registry.name}@example.com", username="u")
            session.add(user)
            session.flush()
            hooks.changed(session, "users", user.id, "grant")
        capture.detach()
    # One event if hooks and capture share, two if they cannot.
    assert primary.value("select count(*) from mirror.outbox") == 3
    with pytest.raises(UsageError, match="of another registry"):
        attach(make, smaller, hooks=hooks.default())
