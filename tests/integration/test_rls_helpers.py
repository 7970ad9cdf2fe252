"""The helper functions of policies give each person the right answer, and cannot be tricked."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from mirror.devstack import PostgresCluster
from tests.support.databases import TestDatabase

TRIP = UUID("00000000-0000-4000-8000-000000000001")
OTHER_TRIP = UUID("00000000-0000-4000-8000-000000000002")
PEOPLE = {
    name: UUID(f"00000000-0000-4000-8000-00000000010{number}")
    for number, name in enumerate(
        ("member", "admin", "owner", "invited", "inactive", "stranger", "outsider")
    )
}
MEMBERSHIPS = [
    (TRIP, "member", "MEMBER", "ACTIVE"),
    (TRIP, "admin", "ADMIN", "ACTIVE"),
    (TRIP, "owner", "OWNER", "ACTIVE"),
    (TRIP, "invited", "OWNER", "INVITED"),
    (TRIP, "inactive", "OWNER", "INACTIVE"),
    (OTHER_TRIP, "outsider", "OWNER", "ACTIVE"),
    (OTHER_TRIP, "admin", "MEMBER", "ACTIVE"),
]
# The names that each role satisfies, from weakest to strongest.
REACHES = {
    "member": ["MEMBER"],
    "admin": ["MEMBER", "ADMIN"],
    "owner": ["MEMBER", "ADMIN", "OWNER"],
}
ASKED = ["MEMBER", "ADMIN", "OWNER", "NONSENSE", "member", "", None]

YES_OR_NO = "select mirror.has_trip_role(%s, %s)"


@pytest.fixture(scope="module")
def people(target_cluster: PostgresCluster, target_template: str) -> Iterator[TestDatabase]:
    """Two trips and persons of every kind; the tests change no row."""
    target_cluster.create_database("rls_helpers", template=target_template, owner="postgres")
    database = TestDatabase(target_cluster.url("rls_helpers", user="postgres"))
    with database.connect() as connection:
        for name, user in PEOPLE.items():
            connection.execute("insert into users values (%s, %s, %s)", [user, "x@y", name])
        for trip in (TRIP, OTHER_TRIP):
            connection.execute("insert into trips values (%s)", [trip])
        for trip, name, role, status in MEMBERSHIPS:
            connection.execute(
                "insert into trip_memberships values (%s, %s, %s, %s)",
                [trip, PEOPLE[name], role, status],
            )
        connection.execute("insert into chat_messages values (default, %s, %s, 'hi')", [TRIP, TRIP])
    yield database
    target_cluster.drop_database("rls_helpers")


def ask(database: TestDatabase, user: UUID | str | None, query: str, *values: object) -> Any:
    """Return the answer of a helper to one person."""
    with database.acting_as(user) as connection:
        row = connection.execute(query.encode(), values).fetchone()
        assert row is not None
        return row[0]


@pytest.mark.parametrize("person", PEOPLE)
def test_a_role_includes_the_weaker_ones_and_nothing_else(
    people: TestDatabase, person: str
) -> None:
    """OWNER > ADMIN > MEMBER; the answer is yes or no, also for names that are no roles."""
    answers = {role: ask(people, PEOPLE[person], YES_OR_NO, TRIP, role) for role in ASKED}
    assert answers == {role: role in REACHES.get(person, []) for role in ASKED}


@pytest.mark.parametrize("person", PEOPLE)
def test_my_trips_returns_the_trips_where_the_user_has_the_role(
    people: TestDatabase, person: str
) -> None:
    """It is never null: with `= any(null)`, a policy's answer would depend on its form."""
    elsewhere = {"outsider": ["MEMBER", "ADMIN", "OWNER"], "admin": ["MEMBER"]}
    for role in ASKED:
        trips = ask(people, PEOPLE[person], "select mirror.my_trips(%s)", role)
        expected = {TRIP} if role in REACHES.get(person, []) else set()
        expected |= {OTHER_TRIP} if role in elsewhere.get(person, []) else set()
        assert set(trips) == expected, role


@pytest.mark.parametrize("person", PEOPLE)
def test_only_an_active_member_is_a_member(people: TestDatabase, person: str) -> None:
    """This is per trip; an invitation is no membership."""
    answer = ask(people, PEOPLE[person], "select mirror.is_trip_member(%s)", TRIP)
    assert answer is (person in REACHES)


def test_companions_are_the_active_members_of_the_users_trips_and_the_user(
    people: TestDatabase,
) -> None:
    """A user who shares no trip has only themself."""
    companions = {
        person: set(ask(people, user, "select mirror.my_trip_companions()"))
        for person, user in PEOPLE.items()
    }
    together = {PEOPLE[name] for name in ("member", "admin", "owner")}
    assert companions == {
        "member": together,
        "admin": together | {PEOPLE["outsider"]},
        "owner": together,
        "outsider": {PEOPLE["outsider"], PEOPLE["admin"]},
        "invited": {PEOPLE["invited"]},
        "inactive": {PEOPLE["inactive"]},
        "stranger": {PEOPLE["stranger"]},
    }


def test_a_row_without_a_declared_role_makes_nobody_a_companion(people: TestDatabase) -> None:
    """The user of such a row has no access to the trip."""
    with people.connect(autocommit=False) as connection:
        for role in ("GUEST", None):
            connection.execute(
                "update trip_memberships set role = %s where user_id = %s",
                [role, PEOPLE["member"]],
            )
            connection.execute(
                "select set_config('request.jwt.claims', %s, true)",
                [json.dumps({"sub": str(PEOPLE["owner"])})],
            )
            found = connection.execute("select unnest(mirror.my_trip_companions())::text")
            assert {row[0] for row in found.fetchall()} == {
                str(PEOPLE[name]) for name in ("admin", "owner")
            }
        connection.rollback()


def test_null_is_no_users_trip(people: TestDatabase) -> None:
    """The answer is no, not null."""
    assert ask(people, PEOPLE["owner"], YES_OR_NO, None, "MEMBER") is False
    assert ask(people, PEOPLE["owner"], "select mirror.is_trip_member(null)") is False
    assert ask(people, PEOPLE["owner"], YES_OR_NO, None, None) is False


def test_a_token_without_a_subject_has_no_access(people: TestDatabase) -> None:
    """An API key's token is like this."""
    assert ask(people, None, YES_OR_NO, TRIP, "MEMBER") is False
    assert ask(people, None, "select mirror.is_trip_member(%s)", TRIP) is False
    assert ask(people, None, "select mirror.my_trips('MEMBER')") == []
    assert ask(people, None, "select count(*) from chat_messages") == 0
    assert ask(people, None, "select count(*) from users") == 0


@pytest.mark.parametrize("claims", ["", "null", "{}", '{"sub": null}', '{"sub": ""}', "[]", "1"])
def test_claims_without_a_user_allow_nothing(people: TestDatabase, claims: str) -> None:
    """The answer is empty or an error."""
    with people.connect(autocommit=False) as connection:
        connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
        connection.execute("set local role authenticated")
        for query in ("select 1 from chat_messages", "select 1 from users"):
            try:
                with connection.transaction():
                    assert connection.execute(query.encode()).fetchall() == []
            except psycopg.errors.InvalidTextRepresentation:
                pass
        connection.rollback()


@pytest.mark.parametrize("subject", ["service-account", f"{PEOPLE['owner']} ", "1", "' or true --"])
@pytest.mark.parametrize(
    "query",
    [
        "select 1 where mirror.is_trip_member('00000000-0000-4000-8000-000000000001')",
        "select unnest(mirror.my_trips('MEMBER'))",
        "select unnest(mirror.my_trip_companions())",
        "select 1 from chat_messages",
        "select 1 from users",
        (
            "insert into chat_messages (trip_id, content)"
            " values ('00000000-0000-4000-8000-000000000001', 'x') returning 1"
        ),
    ],
)
def test_a_subject_that_is_no_uuid_is_an_error_and_never_allowed(
    people: TestDatabase, subject: str, query: str
) -> None:
    """auth.uid() casts it, so the statement fails, even for a UUID with a blank around it."""
    with (
        people.acting_as(subject) as connection,
        pytest.raises(psycopg.errors.InvalidTextRepresentation),
    ):
        connection.execute(query.encode())


def test_no_helper_is_planned_for_each_statement(people: TestDatabase) -> None:
    """A function in SQL is, before PostgreSQL 18. Nor are those that each write calls."""
    assert not people.query(
        "select p.oid::regprocedure::text from pg_proc as p"
        " join pg_language as l on l.oid = p.prolang"
        " where l.lanname = 'sql' and p.pronamespace = any ('{public,mirror}'::regnamespace[])"
        " and (p.proname in ('mirror_apply', 'may_be_altered', 'trip_roles')"
        "  or has_function_privilege('authenticated', p.oid, 'execute'))"
    )


# Each case creates an object that an unqualified name would find before the real one.
SHADOWS = {
    "a temporary table": """
        create temp table trip_memberships (trip_id uuid, user_id uuid, role text, status text);
        insert into trip_memberships
          values ('00000000-0000-4000-8000-000000000001', auth.uid(), 'OWNER', 'ACTIVE');
    """,
    "a temporary type": """
        create function pg_temp.rob(value pg_catalog.uuid) returns pg_catalog.bool
          language plpgsql as $$ begin raise exception 'ran as %', current_user; end $$;
        create domain pg_temp.uuid as pg_catalog.uuid check (pg_temp.rob(value));
    """,
    "a temporary text type": """
        create function pg_temp.rob(value pg_catalog.text) returns pg_catalog.bool
          language plpgsql as $$ begin raise exception 'ran as %', current_user; end $$;
        create domain pg_temp.text as pg_catalog.text check (pg_temp.rob(value));
    """,
    "a table in a schema of one's own": """
        create table attacker.trip_memberships
          (trip_id uuid, user_id uuid, role text, status text);
        insert into attacker.trip_memberships
          values ('00000000-0000-4000-8000-000000000001', auth.uid(), 'OWNER', 'ACTIVE');
    """,
    "functions in a schema of one's own": """
        create function attacker.my_trips(text) returns uuid[] language sql
          as $$ select array['00000000-0000-4000-8000-000000000001'::uuid] $$;
        create function attacker.uid() returns uuid language sql
          as $$ select '00000000-0000-4000-8000-000000000102'::uuid $$;
        create function attacker.trip_roles(text) returns text[] language sql
          as $$ select array['MEMBER', 'OWNER', 'ADMIN', 'GUEST'] $$;
    """,
    "an operator in a schema of one's own": """
        create function attacker.yes(uuid, uuid) returns boolean language sql as 'select true';
        create operator attacker.= (leftarg = uuid, rightarg = uuid, function = attacker.yes);
    """,
}


@pytest.mark.parametrize("shadow", SHADOWS)
@pytest.mark.parametrize("path", ["attacker, pg_temp, public, mirror, auth", "pg_temp, public"])
@pytest.mark.parametrize("person", ["stranger", "member"])
def test_the_callers_search_path_does_not_trick_the_helpers(
    people: TestDatabase, shadow: str, path: str, person: str
) -> None:
    """They answer as before, and run no code of the caller with their definer's rights."""
    allowed = person == "member"
    with people.acting_as(PEOPLE[person]) as connection:
        connection.execute("reset role")
        connection.execute("create schema attacker")
        connection.execute("grant all on schema attacker to authenticated")
        connection.execute("set local role authenticated")
        connection.execute(SHADOWS[shadow].encode())
        connection.execute(f"set local search_path = {path}".encode())
        answers = connection.execute(
            "select mirror.is_trip_member(%(trip)s), mirror.has_trip_role(%(trip)s, 'OWNER'),"
            " mirror.my_trips('MEMBER'),"
            " (select count(distinct c) from unnest(mirror.my_trip_companions()) as c),"
            " (select count(*) from public.chat_messages),"
            " (select count(*) from public.trips)",
            {"trip": str(TRIP)},
        ).fetchall()
    assert answers == [
        (allowed, False, [TRIP] if allowed else [], 3 if allowed else 1, allowed, allowed)
    ]
