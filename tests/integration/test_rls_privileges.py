"""Privileges of the API's roles, read from the catalogs, so that new objects are included."""

import psycopg
import pytest
from psycopg import errors, sql
from sqlalchemy import Text, Uuid, column, select, table

from mirror.access import Membership
from mirror.devstack import PostgresCluster
from mirror.errors import MappingError
from mirror.model.mapping import Column, Mapping
from mirror.model.registry import Registry
from mirror.schema.migrate import upgrade
from tests.support.databases import TestDatabase

API_ROLES = ("anon", "authenticated", "service_role")
MIRRORED = {"users", "trips", "trip_memberships"}
HELPERS = {
    "mirror.my_trips(text)",
    "mirror.my_trip_companions()",
    "mirror.is_trip_member(uuid)",
    "mirror.has_trip_role(uuid,text)",
    "mirror.is_fresh(text[],interval)",
    "mirror.any_withheld()",
    "mirror.withheld_users(uuid)",
    "mirror.withheld_trips(uuid)",
    "mirror.withheld_trip_memberships(uuid,uuid)",
}
# All our objects: schema mirror, and names beginning with mirror_ in an exposed schema.
OURS = """
    from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
    where (n.nspname = 'mirror' or (n.nspname = 'public' and p.proname like 'mirror\\_%%'))
"""


def functions(target: TestDatabase, condition: str = "true", *parameters: object) -> set[str]:
    """Return our functions for which a condition on pg_proc holds."""
    query = f"select p.oid::regprocedure::text {OURS} and ({condition})"
    return {signature for (signature,) in target.query(query, *parameters)}


def api_functions(target: TestDatabase) -> set[str]:
    """Return the functions that the REST API exposes."""
    return {name for name in functions(target) if not name.startswith("mirror.")}


def test_each_role_executes_what_it_needs_and_nothing_else(target: TestDatabase) -> None:
    """Users execute the policies' helpers, service_role the API's functions; new ones no role."""
    may = {
        role: functions(target, "has_function_privilege(%s, p.oid, 'execute')", role)
        for role in API_ROLES
    }
    assert may == {"anon": set(), "authenticated": HELPERS, "service_role": api_functions(target)}
    assert len(api_functions(target)) >= 5
    assert len(functions(target)) > len(api_functions(target)) + len(HELPERS) + 10


def test_nothing_of_ours_is_executable_by_public(target: TestDatabase) -> None:
    """A role that the project adds later starts with no privilege."""
    assert (
        functions(
            target,
            "exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner)))"
            " where grantee = 0)",
        )
        == set()
    )


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_calling_what_is_not_granted_is_refused(target: TestDatabase, role: str) -> None:
    """Each function, called with nulls, raises permission denied before any other error."""
    refused = target.query(
        "select n.nspname, p.proname,"
        f" array(select t::regtype::text from unnest(p.proargtypes) as t) {OURS}"
    )
    allowed = HELPERS if role == "authenticated" else set()
    tried = 0
    for schema, name, types in refused:
        if f"{schema}.{name}({','.join(types)})" in allowed:
            continue
        arguments = ", ".join(f"null::{kind}" for kind in types)
        call = f"select {schema}.{name}({arguments})"
        with (
            target.acting_as(None, role=role) as connection,
            pytest.raises(errors.InsufficientPrivilege),
        ):
            connection.execute(call.encode())
        tried += 1
    assert tried > 10


def test_only_helpers_and_api_functions_run_with_their_owners_rights(target: TestDatabase) -> None:
    """No other function is SECURITY DEFINER, and each of our functions pins its search_path."""
    # A SECURITY DEFINER function cannot set its role, and mirror_ask sets the user's role.
    assert functions(target, "p.prosecdef") == HELPERS | api_functions(target) - {
        "mirror_ask(text)"
    }
    assert (
        functions(
            target,
            "not exists (select from unnest(p.proconfig) as c where c like 'search_path=%%')",
        )
        == set()
    )


def test_helpers_search_the_callers_temporary_schema_last(target: TestDatabase) -> None:
    """Without its name in the path, it would be searched first, for tables and types."""
    last = "'search_path=pg_catalog, pg_temp' = any(p.proconfig)"
    assert functions(target, last) >= HELPERS


@pytest.mark.parametrize("role", API_ROLES)
def test_no_api_role_has_any_right_to_a_table_of_the_engine(
    target: TestDatabase, role: str
) -> None:
    """This includes tables, views, sequences and single columns."""
    relations = target.query(
        "select c.oid::regclass::text,"
        " has_table_privilege(%(role)s, c.oid,"
        "   'select, insert, update, delete, truncate, references, trigger')"
        " or (c.relkind <> 'S' and has_any_column_privilege(%(role)s, c.oid,"
        "   'select, insert, update, references'))"
        " from pg_class as c where c.relnamespace = 'mirror'::regnamespace"
        " and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')".replace("%(role)s", f"'{role}'")
    )
    assert len(relations) >= 7
    assert [name for name, may in relations if may] == []


@pytest.mark.parametrize("role", API_ROLES)
def test_reading_or_writing_the_engines_tables_is_refused(target: TestDatabase, role: str) -> None:
    """The test runs the statements on every table."""
    names = target.query(
        "select relname from pg_class where relnamespace = 'mirror'::regnamespace and relkind = 'r'"
    )
    for (name,) in names:
        relation = sql.Identifier("mirror", name)
        for statement in ("select from {}", "delete from {}", "insert into {} default values"):
            with (
                target.acting_as(None, role=role) as connection,
                pytest.raises(errors.InsufficientPrivilege),
            ):
                connection.execute(sql.SQL(statement).format(relation))


def test_on_mirrored_tables_the_api_reads_and_does_nothing_else(target: TestDatabase) -> None:
    """TRUNCATE is not granted, nor are triggers or foreign keys, which could keep a row."""
    rights = target.query(
        "select c.relname, a.grantee::regrole::text, a.privilege_type"
        " from pg_class as c, aclexplode(c.relacl) as a"
        " where c.relnamespace = 'public'::regnamespace and c.relname = any(%s)"
        " and a.grantee <> c.relowner",
        list(MIRRORED),
    )
    assert set(rights) == {(name, "service_role", "SELECT") for name in MIRRORED}
    columns = target.query(
        "select c.relname, t.attname, a.grantee::regrole::text, a.privilege_type"
        " from pg_class as c join pg_attribute as t on t.attrelid = c.oid,"
        " aclexplode(t.attacl) as a"
        " where c.relnamespace = 'public'::regnamespace and c.relname = any(%s)",
        list(MIRRORED),
    )
    readable = {
        "users": ("id", "username"),
        "trips": ("id", "name", "created_by"),
        "trip_memberships": ("trip_id", "user_id", "role", "status"),
    }
    assert set(columns) == {
        (name, one, "authenticated", "SELECT") for name, those in readable.items() for one in those
    }


def test_row_level_security_is_on_for_every_exposed_table(target: TestDatabase) -> None:
    """Each table of the exposed schema has it, and one permissive policy per action at most."""
    assert (
        target.query(
            "select relname from pg_class where relnamespace = 'public'::regnamespace"
            " and relkind = 'r' and not relrowsecurity"
        )
        == []
    )
    assert (
        target.query(
            "select polrelid::regclass, polcmd from pg_policy group by 1, 2 having count(*) > 1"
        )
        == []
    )


def test_the_schema_is_open_to_the_policies_callers_alone(target: TestDatabase) -> None:
    """No role may create objects in it."""
    rights = {
        (role, right)
        for role in API_ROLES
        for right in ("usage", "create")
        if target.value("select has_schema_privilege(%s, 'mirror', %s)", role, right)
    }
    assert rights == {("authenticated", "usage")}


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_a_user_cannot_become_a_role_that_may_more(
    target_cluster: PostgresCluster, target: TestDatabase, role: str
) -> None:
    """Membership of roles does not allow it; the API's login role cannot reach the owner either."""
    above = ["postgres", "supabase_admin", "supabase_auth_admin"]
    for other in [*above, "service_role", "authenticator"]:
        assert not target.value("select pg_has_role(%s, %s, 'member')", role, other)
    name = target.url.rsplit("/", 1)[-1]
    with psycopg.connect(target_cluster.url(name, user="authenticator")) as connection:
        for other in above:
            connection.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute(sql.SQL("set role {}").format(sql.Identifier(other)))
            connection.rollback()


def test_service_role_uses_only_the_api_functions(target: TestDatabase) -> None:
    """It reads the mirrored tables to compare them, but writes none and reads no inner table."""
    with target.acting_as(None, role="service_role") as connection:
        assert connection.execute("select public.mirror_describe()").fetchone()
        for statement in (
            "select mirror.describe()",
            "select * from mirror.state",
            "insert into users (id) values (gen_random_uuid())",
            "delete from trip_memberships",
        ):
            with pytest.raises(errors.InsufficientPrivilege), connection.transaction():
                connection.execute(statement.encode())


def membership_of(columns: tuple[Column, ...], **changes: object) -> Registry:
    """Return a registry with one table of memberships and helpers for it."""
    seats = table(
        "seats", *(column(one.name, Uuid if one.type == "uuid" else Text) for one in columns)
    )
    mapping = Mapping(
        name="seats",
        table="seats",
        key=tuple(one.name for one in columns if one.type == "uuid"),
        columns=columns,
        query=select(*seats.c),
    )
    options: dict[str, object] = {
        "mapping": "seats",
        "resource": columns[0].name,
        "user": columns[1].name,
        "role": columns[2].name,
        "levels": ("LOW", "HIGH"),
        "noun": "room",
    }
    return Registry("rooms", [mapping], access=[Membership(**(options | changes))])  # type: ignore[arg-type]


def test_a_column_called_like_a_helpers_parameter_does_not_win_over_it(
    project: TestDatabase,
) -> None:
    """`resource = resource` would be true for every row."""
    columns = (Column("room", "uuid"), Column("resource", "uuid"), Column("min_role", "text"))
    with project.migrating() as connection:
        upgrade(connection, "supabase", membership_of(columns))
    user = "00000000-0000-4000-8000-000000000001"
    room = "00000000-0000-4000-8000-000000000002"
    project.query("insert into seats values (%s, %s, 'LOW')", room, user)
    with project.acting_as(user) as connection:
        asked = "select mirror.has_room_role(%(r)s, 'LOW'), mirror.has_room_role(%(r)s, 'HIGH')"
        assert connection.execute(asked, {"r": room}).fetchone() == (True, False)
        assert connection.execute(asked, {"r": user}).fetchone() == (False, False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"role": "rank"}, "'rank' is not among the mapping's columns"),
        ({"levels": ()}, "it has no levels"),
        ({"noun": "r" * 60}, "longer than the 63 bytes"),
    ],
)
def test_helpers_that_could_not_work_are_refused_when_printed(
    project: TestDatabase, changes: dict[str, object], message: str
) -> None:
    """The error has the mapping's name and the remedy; no database is needed."""
    columns = (Column("room", "uuid"), Column("guest", "uuid"), Column("role", "text"))
    with (
        pytest.raises(MappingError, match=message),
        project.migrating() as connection,
    ):
        upgrade(connection, "supabase", membership_of(columns, **changes))
    assert project.value("select to_regnamespace('mirror')") is None
