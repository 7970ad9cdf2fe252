"""While a mapping is older than the declared bound, policies that read it let in no user."""

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID, uuid4

import psycopg
import pytest

from mirror.devstack import PostgresCluster, prepare_services
from mirror.schema.migrate import upgrade
from mirror.testing import DENIED, Result
from tests.support.bounded_model import BOUND, bounded, report
from tests.support.databases import SCHEMA, TestDatabase
from tests.support.policy_matrix import attempts, joins

ROWS = """
insert into users values ('{me}');
insert into trips values ('{trip}');
insert into trip_memberships values ('{trip}', '{me}', 'MEMBER', 'ACTIVE');
insert into chat_messages values ('{message}', '{trip}', '{me}', 'hello');
insert into chat_messages (trip_id, sender_id, content)
select '{trip}', '{me}', 'more' from generate_series(1, 200);
insert into chat_reactions (message_id, user_id, emoji)
select id, sender_id, '+' from chat_messages;
insert into user_presence values ('{trip}', '{me}', 'online');
insert into storage.buckets (id, name) values ('closed', 'closed'), ('open', 'open');
insert into storage.objects (bucket_id, name)
select unnest(array['closed', 'open']), 'trips/{trip}/a';
"""


@dataclass(frozen=True)
class World:
    """A target with the bounded model, and a member with a message, a reaction and files."""

    database: TestDatabase
    superuser: TestDatabase
    user: UUID
    trip: UUID
    message: UUID

    def tries(self, statements: dict[str, str]) -> dict[str, Result]:
        """Return what becomes of each statement of the member."""
        values = {"me": self.user, "trip": self.trip, "message": self.message}
        return {
            name: attempts(self.database, statement, {"member": (self.user, values)})["member"]
            for name, statement in statements.items()
        }


@pytest.fixture(scope="module")
def world(target_cluster: PostgresCluster, project_template: str) -> Iterator[World]:
    """The bounded model in a target that no worker has written to."""
    name = "staleness_world"
    target_cluster.create_database(name, template=project_template, owner="postgres")
    prepare_services(target_cluster, name)
    database = TestDatabase(target_cluster.url(name, user="postgres"))
    database.query(SCHEMA.read_text())
    with database.migrating() as connection:
        upgrade(connection, "supabase", bounded(), guards=True)
    made = World(database, TestDatabase(target_cluster.url(name)), uuid4(), uuid4(), uuid4())
    database.query(ROWS.format(me=made.user, trip=made.trip, message=made.message))
    yield made
    target_cluster.drop_database(name)


CLOSED = {
    "select": "select from chat_messages where id = %(message)s",
    "insert": "insert into chat_messages (trip_id, content) values (%(trip)s, 'x')",
    "update": "update chat_messages set content = 'x' where id = %(message)s",
    "delete": "delete from chat_messages where id = %(message)s",
    "select below a parent": "select from chat_reactions where message_id = %(message)s",
    "insert below a parent": (
        "insert into chat_reactions (message_id, emoji) values (%(message)s, '-')"
    ),
    "a mirrored table": "select trip_id from trip_memberships",
    "a file": "select from storage.objects where bucket_id = 'closed'",
    "an upload": (
        "insert into storage.objects (bucket_id, name)"
        " values ('closed', 'trips/' || %(trip)s || '/b')"
    ),
}
IGNORING = {
    "select": "select from user_presence",
    "update": "update user_presence set status = 'away'",
    "a mirrored table": "select id from trips",
    "a file": "select from storage.objects where bucket_id = 'open'",
    "an upload": (
        "insert into storage.objects (bucket_id, name)"
        " values ('open', 'trips/' || %(trip)s || '/b')"
    ),
}
ALL = {"broadcast", "presence"}


def test_within_the_bound_a_member_is_let_in(world: World) -> None:
    """On every way."""
    report(world.database, trip_memberships=BOUND - 10)
    assert world.tries(CLOSED) == dict.fromkeys(CLOSED, 1)
    assert joins(world.database, world.user, f"trip:{world.trip}") == ALL


@pytest.mark.parametrize(
    "ages",
    [
        pytest.param({"trip_memberships": BOUND + 1}, id="older than the bound"),
        pytest.param({"trip_memberships": None}, id="never reported"),
        pytest.param({"trip_memberships": -3600}, id="the clock stepped back"),
        pytest.param({"trips": BOUND + 1}, id="a parent is older"),
    ],
)
def test_beyond_the_bound_no_member_is_let_in(world: World, ages: dict[str, float | None]) -> None:
    """On no way, except by declarations that ignore the bound."""
    report(world.database, **ages)
    refused = {name: DENIED if sql.startswith("insert") else 0 for name, sql in CLOSED.items()}
    assert world.tries(CLOSED) == refused
    assert joins(world.database, world.user, f"trip:{world.trip}") == set()
    assert world.tries(IGNORING) == dict.fromkeys(IGNORING, 1)
    assert joins(world.database, world.user, f"open:{world.trip}") == ALL
    # It depends on no mirrored row.
    assert joins(world.database, world.user, f"user:{world.user}") == {"broadcast"}


def test_the_clocks_may_differ_by_a_second(world: World) -> None:
    """The report of another session may be a little ahead."""
    report(world.database, trip_memberships=-0.5)
    assert world.tries(CLOSED) == dict.fromkeys(CLOSED, 1)


@pytest.mark.parametrize(
    ("statement", "calls"),
    [
        ("select from chat_messages", 1),
        ("update chat_messages set content = 'x'", 2),
        ("select from chat_reactions", 2),
        ("insert into chat_messages (trip_id, content) select trip_id, 'x' from chat_messages", 2),
        ("select from trip_memberships, generate_series(1, 100)", 1),
        ("select from storage.objects", 1),
    ],
)
def test_a_statement_asks_once_for_each_policy(world: World, statement: str, calls: int) -> None:
    """However many rows it reads or writes; a policy for a parent's rows asks, too."""
    report(world.database)
    with world.superuser.connect(autocommit=False) as connection:
        connection.execute("set local track_functions = 'all'")
        connection.execute(
            "select set_config('request.jwt.claims', %s, true)", [f'{{"sub": "{world.user}"}}']
        )
        connection.execute("set local role authenticated")
        connection.execute(statement.encode())
        connection.execute("reset role")
        found = connection.execute(
            "select calls from pg_stat_xact_user_functions where funcname = 'is_fresh'"
        ).fetchall()
        connection.rollback()
    assert found == [(calls,)]


@pytest.mark.parametrize(
    ("mappings", "bound"),
    [
        (None, "1 minute"),
        ([], "1 minute"),
        ([None], "1 minute"),
        (["users", None], "1 minute"),
        (["users"], None),
        (["users", "unknown"], "1 minute"),
    ],
)
def test_a_question_without_an_answer_counts_as_stale(
    world: World, mappings: list[str | None] | None, bound: str | None
) -> None:
    """Also of a policy that a person wrote."""
    report(world.database)
    question = "select mirror.is_fresh(%s::text[], %s::interval)"
    assert world.database.value(question, ["users"], "1 minute") is True
    assert world.database.value(question, mappings, bound) is False


@pytest.mark.parametrize("role", ["anon", "service_role"])
def test_only_signed_in_users_may_ask(world: World, role: str) -> None:
    """And no API role may read or write the table."""
    with (
        world.database.acting_as(world.user, role=role) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("select mirror.is_fresh(array['users'], interval '1 minute')")
    with (
        world.database.acting_as(world.user) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("select from mirror.freshness")
