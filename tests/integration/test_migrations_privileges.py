"""Projects without default privileges: the migrations grant every privilege by name."""

import json
from uuid import uuid4

import psycopg
import pytest

from mappings.trips import registry
from mirror.devstack import PostgresCluster
from mirror.schema.migrate import upgrade
from tests.support.databases import SCHEMA, TestDatabase


@pytest.fixture
def bare(target_cluster: PostgresCluster, project: TestDatabase) -> TestDatabase:
    """A migrated project where new objects in public carry no grants, as on newer projects."""
    superuser = TestDatabase(target_cluster.url(project.url.rsplit("/", 1)[-1]))
    for kind in ("tables", "sequences", "functions"):
        superuser.query(
            "alter default privileges for role postgres, supabase_admin in schema public"
            f" revoke all on {kind} from anon, authenticated, service_role"
        )
    superuser.query(
        "alter default privileges for role postgres, supabase_admin"
        " revoke execute on functions from public"
    )
    project.query("create table bystander (id int)")
    assert not project.value("select has_table_privilege('service_role', 'bystander', 'select')")
    with project.migrating() as connection:
        upgrade(connection, "supabase", registry)
    project.query(SCHEMA.read_text())
    with project.migrating() as connection:
        upgrade(connection, "supabase", registry, guards=True)
    return project


def test_the_service_role_can_do_what_the_mirror_does_over_rest(bare: TestDatabase) -> None:
    """It may call every function of the API, and reads the mirrored tables to compare them."""
    functions = [
        row[0]
        for row in bare.query(
            "select oid::regprocedure::text from pg_proc"
            " where pronamespace = 'public'::regnamespace and proname like 'mirror\\_%'"
        )
    ]
    assert len(functions) >= 5
    for function in functions:
        assert bare.value("select has_function_privilege('service_role', %s, 'execute')", function)
    with bare.acting_as(None, role="service_role") as connection:
        row = connection.execute("select public.mirror_describe()").fetchone()
        assert row is not None
        assert set(row[0]["mappings"]) == {"users", "trips", "trip_memberships"}
        for table in ("users", "trips", "trip_memberships"):
            assert connection.execute(f"select * from {table}".encode()).fetchall() == []


def test_an_api_function_can_call_the_functions_behind_it(bare: TestDatabase) -> None:
    """The function runs the inner ones with its owner's rights, not with service_role's."""
    request = {"identity": "test", "epoch": 0, "fence": 1, "sections": []}
    with bare.acting_as(None, role="service_role") as connection:
        connection.execute("select public.mirror_apply(%s)", [json.dumps(request)])
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select mirror.describe()")


def test_a_member_can_chat_and_read_what_is_granted(bare: TestDatabase) -> None:
    """The helpers of policies are granted; the e-mail address is not."""
    user, trip = uuid4(), uuid4()
    bare.query("insert into users values (%s, 'ada@example.com', 'ada')", user)
    bare.query("insert into trips values (%s, 'Lisbon', %s)", trip, user)
    bare.query("insert into trip_memberships values (%s, %s, 'MEMBER', 'ACTIVE')", trip, user)
    with bare.acting_as(user) as connection:
        connection.execute("insert into chat_messages (trip_id, content) values (%s, 'hi')", [trip])
        assert connection.execute("select content from chat_messages").fetchall() == [("hi",)]
        assert connection.execute("select username from users").fetchall() == [("ada",)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select email from users")
