"""The access matrix of a second model: quoted names, expiry, a chain of parents, Storage."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest

from mirror.devstack import PostgresCluster, prepare_services
from mirror.schema.migrate import upgrade
from mirror.testing import DENIED
from tests.support.databases import TestDatabase
from tests.support.guarded_model import SCHEMA, registry
from tests.support.policy_matrix import (
    NOBODY,
    USERS,
    ChatWithPeople,
    Matrix,
    check_that_it_is_whole,
    everybody,
)


@pytest.fixture(scope="module")
def world(target_cluster: PostgresCluster, project_template: str) -> Iterator[ChatWithPeople]:
    """A room with a person of every kind in or near it; each has a message and a file."""
    name = "rls_rooms"
    target_cluster.create_database(name, template=project_template, owner="postgres")
    prepare_services(target_cluster, name)
    database = TestDatabase(target_cluster.url(name, user="postgres"))
    database.query(SCHEMA)
    with database.migrating() as connection:
        upgrade(connection, "supabase", registry, guards=True)
    users = {person: uuid4() for person in USERS}
    here, elsewhere = uuid4(), uuid4()
    messages = {person: uuid4() for person in (*USERS, "nobody")}
    expired = uuid4()
    fill(database, users, here, elsewhere)
    write(database, users, here, elsewhere, messages, expired)
    yield ChatWithPeople(database, users, here, elsewhere, messages, {"expired": expired})
    target_cluster.drop_database(name)


def fill(database: TestDatabase, users: dict[str, UUID], here: UUID, elsewhere: UUID) -> None:
    """Insert the participants and the buckets."""
    seats = [
        (here, "member", "MEMBER", "ACTIVE"),
        (here, "admin", "ADMIN", "ACTIVE"),
        (here, "owner", "OWNER", "ACTIVE"),
        (here, "invited", "OWNER", "INVITED"),
        (here, "inactive", "OWNER", "INACTIVE"),
        (here, "removed", "OWNER", "ACTIVE"),
        (elsewhere, "outsider", "OWNER", "ACTIVE"),
    ]
    for where, person, role, status in seats:
        database.query(
            'insert into "Participants" values (%s, %s, %s, %s)', where, users[person], role, status
        )
    database.query('delete from "Participants" where "userId" = %s', users["removed"])
    database.query(
        "insert into storage.buckets (id, name) values ('attachments', 'attachments'),"
        " ('plans', 'plans'), ('other', 'other')"
    )


def write(
    database: TestDatabase,
    users: dict[str, UUID],
    here: UUID,
    elsewhere: UUID,
    messages: dict[str, UUID],
    expired: UUID,
) -> None:
    """Insert a message of each person with the rows below it, and files; and an expired message."""
    with database.connect() as connection:
        for person, message in messages.items():
            where = elsewhere if person == "outsider" else here
            user = users.get(person) or uuid4()
            connection.execute(
                'insert into "Messages" values (%s, %s, %s, %s)', [message, where, user, "hello"]
            )
            # All rows of a chain share one id, so that a known value leads from each to the next.
            connection.execute(
                'insert into "Attachments" values (%s, %s, %s)', [message, message, user]
            )
            connection.execute('insert into "parent1" values (%s, %s)', [message, message])
            for bucket, path in (
                ("attachments", f"rooms/{where}/{user}/scan.pdf"),
                ("attachments", f"rooms/{where}/{user}/deep/er/scan.pdf"),
                ("plans", f"shared/{where}/{user}.pdf"),
            ):
                connection.execute(
                    "insert into storage.objects (bucket_id, name) values (%s, %s)", [bucket, path]
                )
        connection.execute(
            'insert into "Messages" values'
            " (%(id)s, %(here)s, %(member)s, 'gone', now() - interval '1 second'),"
            " (default, %(here)s, %(member)s, 'not yet', now() + interval '1 hour')",
            {"id": expired, "here": here, "member": users["member"]},
        )
        connection.execute('insert into "Attachments" values (default, %s, %s)', [expired, uuid4()])


# Each person has a message, one of them elsewhere; the member has two more, one expired.
HERE = len(USERS)

MATRIX: Matrix = {
    "Messages": {
        "select": ('select * from "Messages"', everybody(members=HERE + 1, outsider=1)),
        "select an expired one": (
            'select * from "Messages" where id = %(expired)s',
            everybody(),
        ),
        "insert": (
            'insert into "Messages" ("roomId", content) values (%(trip)s, $$x$$)',
            everybody(DENIED, members=1),
        ),
        "insert elsewhere": (
            'insert into "Messages" ("roomId", content) values (%(other_trip)s, $$x$$)',
            everybody(DENIED, outsider=1),
        ),
        "insert as somebody else": (
            (
                'insert into "Messages" ("roomId", "senderId", content)'
                " values (%(trip)s, %(other)s, 'x')"
            ),
            NOBODY,
        ),
        "update one's own": (
            'update "Messages" set content = $$x$$ where id = %(mine)s',
            everybody(members=1, outsider=1),
        ),
        "update somebody else's": (
            'update "Messages" set content = $$x$$ where id = %(theirs)s',
            everybody(),
        ),
        "update an expired one": (
            'update "Messages" set content = $$x$$ where id = %(expired)s',
            everybody(),
        ),
        # WITH CHECK is needed: with USING alone, a user could move their own row anywhere.
        "move one's own elsewhere": (
            'update "Messages" set "roomId" = %(other_trip)s where id = %(mine)s',
            everybody(members=DENIED, outsider=1),
        ),
        "move one's own without a word about it": (
            'update "Messages" set "roomId" = gen_random_uuid()',
            everybody(members=DENIED, outsider=DENIED),
        ),
        "delete one's own": (
            'delete from "Messages" where id = %(mine)s',
            everybody(members=1, outsider=1),
        ),
        "delete somebody else's": (
            'delete from "Messages" where id = %(theirs)s',
            everybody(owner=1),
        ),
        "delete an expired one": (
            'delete from "Messages" where id = %(expired)s',
            everybody(),
        ),
    },
    "Attachments": {
        # A user's own need no role, in any room; no user may have the one on the expired message.
        "select": (
            'select * from "Attachments"',
            everybody(1, unsigned=0, members=HERE),
        ),
        "insert": (
            'insert into "Attachments" ("messageId") values (%(fresh)s)',
            everybody(DENIED, members=1),
        ),
        "insert as somebody else": (
            'insert into "Attachments" ("messageId", "userId") values (%(fresh)s, %(other)s)',
            NOBODY,
        ),
        "insert to an expired message": (
            'insert into "Attachments" ("messageId") values (%(expired)s)',
            NOBODY,
        ),
        "update": (
            'update "Attachments" set "order" = 1 where id = %(theirs)s',
            everybody(moderators=1),
        ),
        "update more than is granted": (
            'update "Attachments" set "userId" = %(me)s where id = %(theirs)s',
            NOBODY,
        ),
        "delete one's own": (
            'delete from "Attachments" where id = %(mine)s',
            everybody(1, unsigned=0),
        ),
        "delete somebody else's": (
            'delete from "Attachments" where id = %(theirs)s',
            everybody(),
        ),
    },
    "parent1": {
        "select": ("select * from parent1", everybody(moderators=HERE, outsider=1)),
        "insert": (
            'insert into parent1 ("attachmentId") values (%(fresh)s)',
            everybody(DENIED, owner=1),
        ),
        "insert elsewhere": (
            'insert into parent1 ("attachmentId") values (gen_random_uuid())',
            NOBODY,
        ),
        "update": ("update parent1 set note = 'x' where id = %(fresh)s", everybody(owner=1)),
        "delete": ("delete from parent1 where id = %(fresh)s", everybody(owner=1)),
    },
    "storage.objects": {
        "select": (
            "select * from storage.objects",
            everybody(anon=0, members=3 * HERE, outsider=3),
        ),
        "insert": (
            (
                "insert into storage.objects (bucket_id, name) values"
                " ('attachments', format('rooms/%%s/%%s/x', %(trip)s::uuid, %(me)s::uuid))"
            ),
            everybody(DENIED, members=1),
        ),
        "insert as somebody else": (
            (
                "insert into storage.objects (bucket_id, name) values ('attachments',"
                " format('rooms/%%s/%%s/x', %(trip)s::uuid, %(other)s::uuid))"
            ),
            NOBODY,
        ),
        "insert under one's own id in capitals": (
            (
                "insert into storage.objects (bucket_id, name) values ('attachments',"
                " format('rooms/%%s/%%s/x', %(trip)s::uuid, upper(%(me)s::text)))"
            ),
            NOBODY,
        ),
        "insert into another bucket": (
            (
                "insert into storage.objects (bucket_id, name) values"
                " ('other', format('rooms/%%s/%%s/x', %(trip)s::uuid, %(me)s::uuid))"
            ),
            NOBODY,
        ),
        "insert a plan": (
            (
                "insert into storage.objects (bucket_id, name)"
                " values ('plans', format('shared/%%s/x', %(trip)s::uuid))"
            ),
            everybody(DENIED, moderators=1),
        ),
        "update one's own": (
            (
                "update storage.objects set metadata = '{}' where name ="
                " format('rooms/%%s/%%s/scan.pdf', %(trip)s::uuid, %(me)s::uuid)"
            ),
            everybody(anon=0, members=1),
        ),
        "move one's own to somebody else": (
            (
                "update storage.objects set name ="
                " format('rooms/%%s/%%s/moved', %(trip)s::uuid, %(other)s::uuid) where name"
                " = format('rooms/%%s/%%s/scan.pdf', %(trip)s::uuid, %(me)s::uuid)"
            ),
            everybody(anon=0, members=DENIED),
        ),
        "delete somebody else's": (
            (
                "delete from storage.objects where name ="
                " format('rooms/%%s/%%s/scan.pdf', %(trip)s::uuid, %(other)s::uuid)"
            ),
            everybody(anon=0, moderators=1),
        ),
        "delete one's own": (
            (
                "delete from storage.objects where name ="
                " format('rooms/%%s/%%s/scan.pdf', %(trip)s::uuid, %(me)s::uuid)"
            ),
            everybody(anon=0, members=1),
        ),
        "delete a plan": (
            "delete from storage.objects where bucket_id = 'plans'",
            everybody(anon=0),
        ),
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


def test_the_matrix_covers_every_guard_and_every_kind_of_statement() -> None:
    """A guard that is added to the model must be added here."""
    guarded = {".".join(guard.relation).removeprefix("public.") for guard in registry.guards}
    assert guarded == set(MATRIX)
    check_that_it_is_whole(MATRIX)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "x",
        "rooms",
        "rooms/",
        "rooms/not-a-uuid/{me}/x",
        "rooms/{here}",
        "rooms/{here}/",
        "rooms/{here}/{me}",
        "rooms/{here}/{me}/",
        "rooms//{here}/{me}/x",
        "/rooms/{here}/{me}/x",
        "rooms/{HERE}/{me}/x",
        "rooms/{here} /{me}/x",
        "Rooms/{here}/{me}/x",
        "../rooms/{here}/{me}/x",
        "x/rooms/{here}/{me}/x",
        "rooms/%/{me}/x",
    ],
)
def test_a_malformed_path_belongs_to_no_user(world: ChatWithPeople, path: str) -> None:
    """It can be neither written nor read, even by its owner, and gives no other error."""
    here, me = str(world.trip), str(world.users["owner"])
    name = path.format(here=here, me=me, HERE=here.upper())
    with world.database.connect(autocommit=False) as connection:
        connection.execute(
            "insert into storage.objects (bucket_id, name) values ('attachments', %s)", [name]
        )
        connection.execute(
            "select set_config('request.jwt.claims', %s, true)", [f'{{"sub": "{me}"}}']
        )
        connection.execute("set local role authenticated")
        found = connection.execute("select 1 from storage.objects where name = %s", [name])
        assert found.fetchall() == []
        connection.rollback()
    world.values["name"] = name
    insert = "insert into storage.objects (bucket_id, name) values ('attachments', %(name)s)"
    assert world.outcome("owner", insert) == DENIED
