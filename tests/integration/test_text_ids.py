"""The same access with the uuids of Supabase Auth and with the texts of third-party auth."""

import json
import secrets
from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest

from mirror.devstack import PostgresCluster, prepare_services
from mirror.diagnostics.explain import explain_resource, question_about
from mirror.schema.migrate import upgrade
from mirror.settings import load_settings
from mirror.sync.drain import Drain
from tests.faults.tools import record
from tests.support.databases import TestDatabase, primary_with
from tests.support.drains import making_drains
from tests.support.text_ids import TABLES, model

TEAM, OTHER = UUID(int=1), UUID(int=2)
USERS = {
    "uuid": (str(UUID(int=11)), str(UUID(int=12))),
    "text": ("auth0|1 23", "user_2abc"),
}


@pytest.fixture(scope="module", params=["uuid", "text"])
def kind(request: pytest.FixtureRequest) -> str:
    """The type of users' ids."""
    return str(request.param)


@pytest.fixture(scope="module")
def target(
    kind: str, target_cluster: PostgresCluster, project_template: str
) -> Iterator[TestDatabase]:
    """A target in which the first user is a member of a team, and the second of none."""
    name = f"text_ids_{kind}"
    target_cluster.create_database(name, template=project_template, owner="postgres")
    prepare_services(target_cluster, name)
    database = TestDatabase(target_cluster.url(name, user="postgres"))
    database.query(TABLES.format(type=kind))
    with database.migrating() as connection:
        upgrade(connection, "supabase", model(kind), guards=True)
    member, stranger = USERS[kind]
    database.query("insert into teams values (%s), (%s)", TEAM, OTHER)
    database.query("insert into members values (%s, %s, 'MEMBER')", TEAM, member)
    database.query(
        "insert into grants values (gen_random_uuid(), %s, 'board', %s, 'view')", member, TEAM
    )
    for author in (member, stranger):
        database.query("insert into posts select count(*), %s, %s, 'a' from posts", TEAM, author)
        database.query("insert into notes select count(*), %s, 'a' from notes", author)
    yield database
    target_cluster.drop_database(name)


QUESTIONS = {
    "teams": "select count(*) from unnest(mirror.my_teams('MEMBER'))",
    "member": f"select mirror.is_team_member('{TEAM}')::int",
    "granted": f"select mirror.can('board', '{TEAM}', 'view')::int",
    "companions": "select count(*) from members",
    "posts": "select count(*) from posts",
    "notes": "select count(*) from notes",
}


def answers(target: TestDatabase, claims: object) -> dict[str, object]:
    """Return what somebody with these claims gets; an SQLSTATE where it fails."""
    found: dict[str, object] = {}
    for name, question in QUESTIONS.items():
        with target.connect(autocommit=False) as connection:
            connection.execute(
                "select set_config('request.jwt.claims', %s, true)", [json.dumps(claims)]
            )
            connection.execute("set local role authenticated")
            try:
                found[name] = connection.execute(question.encode()).fetchall()[0][0]
            except psycopg.Error as error:
                found[name] = error.sqlstate
            connection.rollback()
    return found


def test_a_member_is_let_in(target: TestDatabase, kind: str) -> None:
    """By each helper and policy."""
    claims = {"role": "authenticated", "sub": USERS[kind][0]}
    assert answers(target, claims) == {
        "teams": 1,
        "member": 1,
        "granted": 1,
        "companions": 1,
        "posts": 2,
        "notes": 1,
    }


def test_a_stranger_is_not(target: TestDatabase, kind: str) -> None:
    """They see what is their own."""
    claims = {"role": "authenticated", "sub": USERS[kind][1]}
    assert answers(target, claims) == dict.fromkeys(QUESTIONS, 0) | {"notes": 1}


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": []},
        {"sub": {}},
        {"sub": ["a"]},
        {"sub": "nobody"},
        [],
        None,
        "text",
    ],
    ids=json.dumps,
)
def test_odd_claims_let_nobody_in(target: TestDatabase, kind: str, claims: object) -> None:
    """They see nothing, or the question fails: a uuid cannot be made of each."""
    for name, answer in answers(target, claims).items():
        assert answer == 0 or (kind == "uuid" and answer == "22P02"), name


@pytest.mark.parametrize("claims", [{"sub": ""}, {"sub": 7}, {"sub": ["a"]}], ids=json.dumps)
def test_rows_of_odd_users_let_in_no_odd_claims(
    target: TestDatabase, kind: str, claims: dict[str, object]
) -> None:
    """An empty subject is none; others are texts as the token prints them."""
    if kind == "uuid":
        pytest.skip("no uuid is odd")
    subject = claims["sub"]
    printed = subject if isinstance(subject, str) else json.dumps(subject)
    with target.connect(autocommit=False) as connection:
        connection.execute("insert into members values (%s, %s, 'MEMBER')", [OTHER, printed])
        connection.execute(
            "select set_config('request.jwt.claims', %s, true)", [json.dumps(claims)]
        )
        connection.execute("set local role authenticated")
        found = connection.execute("select mirror.my_teams('MEMBER')").fetchall()[0][0]
        connection.rollback()
    assert found == ([] if subject == "" else [OTHER])


def inserts(target: TestDatabase, user: str, author: str) -> str | None:
    """Insert a post with an author as a user; return the SQLSTATE with which it fails."""
    with target.connect(autocommit=False) as connection:
        connection.execute(
            "select set_config('request.jwt.claims', %s, true)", [json.dumps({"sub": user})]
        )
        connection.execute("set local role authenticated")
        try:
            connection.execute("insert into posts values (9, %s, %s, 'b')", [TEAM, author])
        except psycopg.Error as error:
            return error.sqlstate
        finally:
            connection.rollback()
    return None


def test_a_member_writes_in_their_own_name_alone(target: TestDatabase, kind: str) -> None:
    """The owner of a row is the caller."""
    member, stranger = USERS[kind]
    assert inserts(target, member, member) is None
    assert inserts(target, member, stranger) == "42501"
    assert inserts(target, stranger, stranger) == "42501"


SOURCES = """
create table teams (id uuid primary key);
create table members (team uuid, person {type}, role text, primary key (team, person));
create table grants (id uuid primary key, person {type}, kind text, resource uuid, level text);
insert into teams values ('{team}');
insert into members values ('{team}', '{member}', 'MEMBER');
"""


@pytest.fixture
def primary(
    kind: str, target: TestDatabase, primary_cluster: PostgresCluster
) -> Iterator[TestDatabase]:
    """A primary in which the first user is a member; the target's rows by hand are gone."""
    tables = SOURCES.format(type=kind, team=TEAM, member=USERS[kind][0])
    target.query("truncate teams, members, grants")
    # Each test has a primary of its own, and the target shall know none yet.
    target.query("update mirror.state set step = null, token = null, step_fence = 0")
    target.query("delete from mirror.freshness; delete from mirror.scopes")
    for name in ("teams", "members", "grants"):
        target.query(f"delete from mirror.ledger_{name}")
    with primary_with(primary_cluster, f"text_ids_{kind}", tables) as primary:
        primary.query(
            "insert into mirror.outbox (lane, mapping, reference, key)"
            " select 1, unnest(array['teams', 'members', 'grants']), '*', '{}'"
        )
        yield primary


@pytest.fixture
def drain(kind: str, primary: TestDatabase, target: TestDatabase) -> Iterator[Drain]:
    """A worker between the two."""
    settings = load_settings(
        primary_database_url=primary.url, supabase_db_url=target.url, retry_seconds=0.001
    )
    with making_drains(settings, model(kind)) as make:
        yield make()


def test_explain_knows_users_of_both_kinds(kind: str, drain: Drain) -> None:
    """A member is allowed, and a stranger has no row."""
    drain.run()
    question = question_about(drain.registry, "team")
    found = [explain_resource(drain, question, user, str(TEAM)) for user in USERS[kind]]
    assert [one.allowed for one in found] == [True, False]
    assert [one.exit_code for one in found] == [0, 1]


def test_a_key_too_long_for_an_index_holds_nobody_elses_freshness_back(
    kind: str, drain: Drain, primary: TestDatabase, target: TestDatabase
) -> None:
    """No row of it was ever mirrored, so its revocation cannot be written and grants nothing."""
    if kind == "uuid":
        pytest.skip("no uuid is long")
    drain.run()
    # Compressed it would fit.
    record(primary, "members", TEAM, secrets.token_hex(20_000))
    drain.run()
    assert primary.value("select withheld_at is not null from mirror.retries")
    assert primary.query("select retries from mirror.look(0)") == [({},)]
    assert target.value("select count(*) from members") == 1
