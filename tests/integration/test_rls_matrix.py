"""Row-level security: every person, every table, every statement is allowed or refused.

The chat tables are the example's. Each test is one statement that every person tries.
"""

from collections.abc import Iterator
from contextlib import closing
from uuid import UUID, uuid4

import pytest
from psycopg import sql

from mappings.trips import registry
from mirror.devstack import PostgresCluster
from mirror.sync.connections import Database
from mirror.sync.targets.postgres import PostgresTarget
from mirror.testing import DENIED
from tests.support.databases import TestDatabase
from tests.support.policy_matrix import (
    NOBODY,
    USERS,
    ChatWithPeople,
    Matrix,
    check_that_it_is_whole,
    everybody,
)
from tests.support.reviewed import Reviewed


@pytest.fixture(scope="module")
def world(target_cluster: PostgresCluster, target_template: str) -> Iterator[ChatWithPeople]:
    """A trip with a person of every kind in or near it, who all took part in its chat."""
    name = "rls_matrix"
    target_cluster.create_database(name, template=target_template, owner="postgres")
    database = TestDatabase(target_cluster.url(name, user="postgres"))
    users = {person: uuid4() for person in USERS}
    trip, other_trip = uuid4(), uuid4()
    # A message of a deleted user, to which the others react.
    messages = {person: uuid4() for person in (*USERS, "nobody")}
    fill(database, users, trip, other_trip)
    write(database, users, trip, other_trip, messages)
    yield ChatWithPeople(database, users, trip, other_trip, messages)
    target_cluster.drop_database(name)


def fill(database: TestDatabase, users: dict[str, UUID], trip: UUID, other_trip: UUID) -> None:
    """Insert the mirrored rows: each user, both trips, and the memberships."""
    memberships = [
        (trip, users["member"], "MEMBER", "ACTIVE"),
        (trip, users["admin"], "ADMIN", "ACTIVE"),
        (trip, users["owner"], "OWNER", "ACTIVE"),
        (trip, users["invited"], "OWNER", "INVITED"),
        (trip, users["inactive"], "OWNER", "INACTIVE"),
        (trip, users["removed"], "OWNER", "ACTIVE"),
        (other_trip, users["outsider"], "OWNER", "ACTIVE"),
    ]
    with database.connect() as connection:
        for person, user in users.items():
            connection.execute(
                "insert into users values (%s, %s, %s)", [user, f"{person}@example.com", person]
            )
        for number, one in enumerate((trip, other_trip)):
            connection.execute(
                "insert into trips values (%s, %s, %s)", [one, f"Trip {number}", users["stranger"]]
            )
        for membership in memberships:
            connection.execute("insert into trip_memberships values (%s, %s, %s, %s)", membership)
        connection.execute("delete from trip_memberships where user_id = %s", [users["removed"]])


def write(
    database: TestDatabase,
    users: dict[str, UUID],
    trip: UUID,
    other_trip: UUID,
    messages: dict[str, UUID],
) -> None:
    """Insert chat rows of each person, and the rows that Realtime writes to check access."""
    with database.connect() as connection:
        for person, message in messages.items():
            user = users.get(person) or uuid4()
            where = other_trip if person == "outsider" else trip
            connection.execute(
                "insert into chat_messages values (%s, %s, %s, 'hello')", [message, where, user]
            )
            connection.execute("insert into chat_reactions values (%s, %s, '+')", [message, user])
            connection.execute("insert into chat_read_receipts values (%s, %s)", [message, user])
            # A user without a row can insert one, so this one keeps none.
            if person != "nobody":
                connection.execute(
                    "insert into user_presence values (%s, %s, 'online')", [where, user]
                )
        # Realtime writes these rows to check access: one for each feature of each channel.
        connection.execute("truncate realtime.messages")
        for topic in (f"trip:{trip}", f"trip:{other_trip}", *(f"user:{u}" for u in users.values())):
            for extension in ("broadcast", "presence", "postgres_changes"):
                connection.execute(
                    "insert into realtime.messages (topic, extension) values (%s, %s)",
                    [topic, extension],
                )


MATRIX: Matrix = {
    "users": {
        # Users see their companions, and at least themselves.
        "select": (
            "select id, username from users",
            everybody(outside=1, members=3, service_role=len(USERS)),
        ),
        "select the e-mail address": (
            "select email from users",
            NOBODY | {"service_role": len(USERS)},
        ),
        "select one's own e-mail address": ("select email from users where id = %(me)s", NOBODY),
        "select all columns": ("select * from users", NOBODY | {"service_role": len(USERS)}),
        "filter by the e-mail address": ("select id from users where email like 'o%%'", NOBODY),
        "insert": (
            "insert into users (id, username) values (gen_random_uuid(), 'x')",
            NOBODY | {"service_role": DENIED},
        ),
        "update": (
            "update users set username = 'x' where id = %(me)s",
            NOBODY | {"service_role": DENIED},
        ),
        "delete": ("delete from users where id = %(me)s", NOBODY | {"service_role": DENIED}),
        "truncate": ("truncate users cascade", NOBODY | {"service_role": DENIED}),
    },
    "trips": {
        "select": (
            "select id, name, created_by from trips",
            everybody(members=1, outsider=1, service_role=2),
        ),
        # A trip's creator who is no member any more has no access: created_by grants nothing.
        "select the trips one created": (
            "select id from trips where created_by = %(me)s",
            everybody(),
        ),
        "insert": (
            "insert into trips (id, created_by) values (gen_random_uuid(), %(me)s)",
            NOBODY | {"service_role": DENIED},
        ),
        "update": (
            "update trips set created_by = %(me)s where id = %(trip)s",
            NOBODY | {"service_role": DENIED},
        ),
        "delete": ("delete from trips where id = %(trip)s", NOBODY | {"service_role": DENIED}),
    },
    "trip_memberships": {
        # Members see all members of the trip, also the invited and the inactive.
        "select": (
            "select trip_id, user_id, role, status from trip_memberships",
            everybody(members=5, outsider=1, service_role=6),
        ),
        "select one's own": (
            "select role from trip_memberships where user_id = %(me)s and trip_id = %(trip)s",
            everybody(members=1),
        ),
        "insert oneself": (
            "insert into trip_memberships values (%(trip)s, %(me)s, 'OWNER', 'ACTIVE')",
            NOBODY | {"service_role": DENIED},
        ),
        "promote oneself": (
            "update trip_memberships set role = 'OWNER', status = 'ACTIVE' where user_id = %(me)s",
            NOBODY | {"service_role": DENIED},
        ),
        "delete": (
            "delete from trip_memberships where user_id = %(other)s",
            NOBODY | {"service_role": DENIED},
        ),
    },
    "chat_messages": {
        "select": ("select * from chat_messages", everybody(members=len(USERS), outsider=1)),
        "select in the trip": (
            "select content from chat_messages where trip_id = %(trip)s",
            everybody(members=len(USERS)),
        ),
        "insert": (
            "insert into chat_messages (trip_id, content) values (%(trip)s, 'x')",
            everybody(DENIED, members=1),
        ),
        "insert as somebody else": (
            (
                "insert into chat_messages (trip_id, sender_id, content)"
                " values (%(trip)s, %(other)s, 'x')"
            ),
            NOBODY,
        ),
        "insert with another time": (
            (
                "insert into chat_messages (trip_id, content, created_at)"
                " values (%(trip)s, 'x', '2001-01-01')"
            ),
            NOBODY,
        ),
        "update one's own": (
            "update chat_messages set content = 'x' where id = %(mine)s",
            everybody(members=1, outsider=1),
        ),
        "update somebody else's": (
            "update chat_messages set content = 'x' where id = %(theirs)s",
            everybody(),
        ),
        "move one's own to another trip": (
            "update chat_messages set trip_id = gen_random_uuid() where id = %(mine)s",
            NOBODY,
        ),
        "delete one's own": (
            "delete from chat_messages where id = %(mine)s",
            everybody(members=1, outsider=1),
        ),
        "delete somebody else's": (
            "delete from chat_messages where id = %(theirs)s",
            everybody(moderators=1),
        ),
    },
    "chat_reactions": {
        "select": ("select * from chat_reactions", everybody(members=len(USERS), outsider=1)),
        "insert": (
            "insert into chat_reactions (message_id, emoji) values (%(fresh)s, '!')",
            everybody(DENIED, members=1),
        ),
        "insert as somebody else": (
            (
                "insert into chat_reactions (message_id, user_id, emoji)"
                " values (%(fresh)s, %(other)s, '!')"
            ),
            NOBODY,
        ),
        "update": ("update chat_reactions set emoji = '!' where user_id = %(me)s", NOBODY),
        "delete one's own": (
            "delete from chat_reactions where user_id = %(me)s",
            everybody(members=1, outsider=1),
        ),
        "delete somebody else's": (
            "delete from chat_reactions where user_id = %(other)s",
            everybody(),
        ),
    },
    "chat_read_receipts": {
        "select": ("select * from chat_read_receipts", everybody(members=len(USERS), outsider=1)),
        "insert": (
            "insert into chat_read_receipts (message_id) values (%(fresh)s)",
            everybody(DENIED, members=1),
        ),
        "insert as somebody else": (
            "insert into chat_read_receipts (message_id, user_id) values (%(fresh)s, %(other)s)",
            NOBODY,
        ),
        "update": ("update chat_read_receipts set read_at = now() where user_id = %(me)s", NOBODY),
        "delete": ("delete from chat_read_receipts where user_id = %(me)s", NOBODY),
    },
    "user_presence": {
        "select": (
            "select * from user_presence",
            everybody(members=len(USERS) - 1, outsider=1),
        ),
        "insert": (
            (
                "insert into user_presence (trip_id, status) values (%(trip)s, 'away')"
                " on conflict do nothing"
            ),
            # The members already have a row, so the statement inserts none and is not refused.
            everybody(DENIED, members=0),
        ),
        "insert as somebody else": (
            (
                "insert into user_presence (trip_id, user_id, status)"
                " values (%(trip)s, gen_random_uuid(), 'away')"
            ),
            NOBODY,
        ),
        "update one's own": (
            "update user_presence set status = 'away', seen_at = now() where user_id = %(me)s",
            everybody(members=1, outsider=1),
        ),
        "update somebody else's": (
            "update user_presence set status = 'away' where user_id = %(other)s",
            everybody(),
        ),
        "move one's own to another trip": (
            "update user_presence set trip_id = gen_random_uuid() where user_id = %(me)s",
            NOBODY,
        ),
        "delete one's own": (
            "delete from user_presence where user_id = %(me)s",
            everybody(members=1, outsider=1),
        ),
        "delete somebody else's": (
            "delete from user_presence where user_id = %(other)s",
            everybody(),
        ),
    },
    # The API's roles have privileges here, so only the policies decide.
    "realtime.messages": {
        # Users get broadcast and presence of their trips, and their own broadcasts.
        "select": (
            "select topic from realtime.messages",
            everybody(1, anon=0, unsigned=0, members=3, outsider=3, service_role=3 * 10),
        ),
        "join the trip's channel": (
            (
                "select id from realtime.messages where topic = 'trip:' || %(trip)s"
                " and extension in ('broadcast', 'presence')"
            ),
            everybody(anon=0, members=2),
        ),
        "join somebody else's": (
            "select id from realtime.messages where topic = 'user:' || %(other)s",
            everybody(anon=0),
        ),
        "insert a broadcast": (
            (
                "insert into realtime.messages (topic, extension)"
                " values ('trip:' || %(trip)s, 'broadcast')"
            ),
            everybody(DENIED, members=1),
        ),
        "insert a presence": (
            (
                "insert into realtime.messages (topic, extension)"
                " values ('trip:' || %(trip)s, 'presence')"
            ),
            everybody(DENIED, members=1),
        ),
        "insert anything else": (
            (
                "insert into realtime.messages (topic, extension)"
                " values ('trip:' || %(trip)s, 'postgres_changes')"
            ),
            NOBODY,
        ),
        "insert for oneself": (
            (
                "insert into realtime.messages (topic, extension)"
                " values ('user:' || %(me)s, 'broadcast')"
            ),
            NOBODY,
        ),
        "update": ("update realtime.messages set payload = '{}'", everybody(anon=0)),
        "delete": ("delete from realtime.messages", NOBODY),
    },
}


@pytest.mark.parametrize(
    ("table", "attempt"), [(table, attempt) for table, rows in MATRIX.items() for attempt in rows]
)
def test_each_person_gets_their_own_rows_and_no_more(
    world: ChatWithPeople, table: str, attempt: str
) -> None:
    """Every person tries one statement; the result is a number of rows, or refused."""
    statement, expected = MATRIX[table][attempt]
    assert world.outcomes(statement, expected) == expected


def test_the_matrix_covers_every_table_and_every_kind_of_statement(world: ChatWithPeople) -> None:
    """A table that is added to the example must be added here."""
    tables = world.database.query(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"
    )
    assert {name for (name,) in tables} | {"realtime.messages"} == set(MATRIX)
    check_that_it_is_whole(MATRIX)


def test_a_member_enters_and_leaves_presence(world: ChatWithPeople) -> None:
    """The matrix cannot show this insert, because every person already has a row."""
    with world.database.acting_as(world.users["member"]) as connection:
        connection.execute("delete from user_presence where user_id = auth.uid()")
        entered = connection.execute(
            "insert into user_presence (trip_id, status) values (%s, 'away') returning user_id",
            [world.trip],
        ).fetchall()
    assert entered == [(world.users["member"],)]


def test_a_demoted_admin_moderates_no_more(world: ChatWithPeople) -> None:
    """The next statement with the same token is refused."""
    delete = "delete from chat_messages where id = %(theirs)s"
    assert world.outcome("admin", delete) == 1
    update = "update trip_memberships set role = %s where user_id = %s"
    world.database.query(update, "MEMBER", world.users["admin"])
    try:
        assert world.outcome("admin", delete) == 0
    finally:
        world.database.query(update, "ADMIN", world.users["admin"])


def test_the_history_of_a_deleted_trip_stays_and_no_user_reads_it(target: TestDatabase) -> None:
    """The chat's rows do not depend on the mirrored rows, but access does."""
    trip, user = uuid4(), uuid4()
    target.query("insert into users values (%s)", user)
    target.query("insert into trips values (%s)", trip)
    target.query("insert into trip_memberships values (%s, %s, 'OWNER', 'ACTIVE')", trip, user)
    target.query("insert into chat_messages values (default, %s, %s, 'hello')", trip, user)
    with target.acting_as(user) as connection:
        assert len(connection.execute("select * from chat_messages").fetchall()) == 1

    target.query("delete from trips")
    assert target.value("select count(*) from chat_messages") == 1
    with target.acting_as(user) as connection:
        assert connection.execute("select * from chat_messages").fetchall() == []


def test_the_realtime_publication_holds_no_mirrored_table(target: TestDatabase) -> None:
    """DELETE events bypass row-level security: every listener would learn of each removed row."""
    published = target.query(
        "select tablename from pg_publication_tables where pubname = 'supabase_realtime'"
    )
    mirrored = {"users", "trips", "trip_memberships"}
    assert {name for (name,) in published} == set(MATRIX) - mirrored - {"realtime.messages"}


@pytest.mark.parametrize(
    ("role", "status"),
    [(role, "ACTIVE") for role in ("member", " MEMBER", "GUEST", "", None)]
    + [("OWNER", status) for status in ("active", "ACTIVE ", "PENDING", "", None)],
)
def test_an_undeclared_role_or_status_grants_nothing(
    world: ChatWithPeople, role: str | None, status: str | None
) -> None:
    """It may be unknown, misspelt, empty or missing: none falls back to one that grants."""
    user = uuid4()
    world.database.query("insert into users values (%s)", user)
    world.database.query(
        "insert into trip_memberships values (%s, %s, %s, %s)", world.trip, user, role, status
    )
    try:
        with world.database.acting_as(user) as connection:
            for table in ("trips", "trip_memberships", "chat_messages", "user_presence"):
                rows = connection.execute(
                    sql.SQL("select count(*) from {}").format(sql.Identifier(table))
                ).fetchone()
                assert rows == (0,), table
    finally:
        world.database.query("delete from users where id = %s", user)


def test_an_access_review_says_what_row_level_security_answers(world: ChatWithPeople) -> None:
    """For every person, helper, table and statement, by user and by trip."""
    with closing(Database(world.database.url, role="target")) as database:
        target = PostgresTarget(database)
        assert Reviewed(registry, target, world.database, world.users).check() > 300
