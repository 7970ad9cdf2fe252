"""Roles and permissions end to end: each change in the primary, and every user's permissions."""

from collections.abc import Iterator
from random import Random
from typing import TypeVar
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session

from examples.rbac import data
from examples.rbac.models import Base, Permission, Role, RolePermission, User
from examples.rbac.story import story
from mappings import rbac
from mirror.devstack import PostgresCluster
from mirror.diagnostics.explain import audit, explain_resource, question_about
from mirror.reconcile.drift import Direction
from tests.support.example_model import model
from tests.support.model_pair import ModelPair
from tests.support.policy_matrix import DENIED, Outcome
from tests.support.reviewed import Reviewed

Matrix = dict[str, set[str]]
"""By user: the names of the permissions that the user has."""

T = TypeVar("T", Role, Permission, User)

OWN = ("profiles", "reports")
ALL = set(data.PERMISSIONS)
FIRST: Matrix = {name: set(data.ROLES[role]) for name, (_, role) in data.USERS.items()}


@pytest.fixture(scope="module")
def databases(
    primary_cluster: PostgresCluster, target_cluster: PostgresCluster, project_template: str
) -> Iterator[ModelPair]:
    """Both databases, created once."""
    with model(primary_cluster, target_cluster, project_template, rbac.registry) as found:
        pair = ModelPair(found, rbac.registry, Base.metadata.tables)
        yield pair
        pair.close()


@pytest.fixture
def pair(databases: ModelPair) -> ModelPair:
    """The example's data, mirrored."""
    databases.start(data.populate, *OWN)
    return databases


def named(session: Session, kind: type[T], name: str) -> T:
    """Return the row with this name."""
    return session.scalars(select(kind).where(kind.name == name)).one()


def link(session: Session, role: str, permission: str) -> RolePermission | None:
    """Return the row that grants a permission to a role, or None."""
    return session.scalars(
        select(RolePermission)
        .join(Role, Role.id == RolePermission.role_id)
        .join(Permission, Permission.id == RolePermission.permission_id)
        .where(Role.name == role, Permission.name == permission)
    ).one_or_none()


def user_id(pair: ModelPair, name: str) -> UUID:
    """Return a user's id."""
    found: UUID = pair.primary.value("select id from users where name = %s", name)
    return found


def matrix(pair: ModelPair) -> Matrix:
    """Ask the target, as each user, for each permission that ever existed."""
    asked = """
    select name, mirror.has_permission(name), name = any((select mirror.my_permissions())::text[])
    from unnest(%s::text[]) as name
    """
    found: Matrix = {}
    users = dict(pair.ask("select name, id from users"))
    for name, rows in pair.asked_by(users, asked, sorted(ALL | {"", "x"})).items():
        assert all(has is listed for _, has, listed in rows)
        found[name] = {str(permission) for permission, has, _ in rows if has}
    return found


def test_every_user_has_the_permissions_of_their_role_and_no_other(pair: ModelPair) -> None:
    """Four users, nine permissions, and names that are no permission."""
    assert matrix(pair) == FIRST


@pytest.mark.parametrize("user", [None, uuid4()])
def test_a_token_without_a_known_user_has_no_permission(pair: ModelPair, user: UUID | None) -> None:
    """One token has no subject, another one has a subject that the primary does not know."""
    asked = "select mirror.has_permission(n), mirror.my_permissions() from unnest(%s::text[]) as n"
    assert set(map(str, pair.asked(user, asked, sorted(ALL)))) == {"(False, [])"}


def test_one_granted_permission_is_one_row_for_all_users_of_the_role(pair: ModelPair) -> None:
    """Both customers get it at once, and lose it at once."""
    before = pair.mirrored()
    with pair.change() as session:
        role, permission = (
            named(session, Role, "customer"),
            named(session, Permission, "users.read"),
        )
        session.add(RolePermission(role_id=role.id, permission_id=permission.id))
        session.flush()
        assert pair_events(session) == [("role_permissions", None)]
    after = pair.mirrored()
    assert {name: len(after[name] ^ rows) for name, rows in before.items()} == {
        "users": 0,
        "roles": 0,
        "permissions": 0,
        "role_permissions": 1,
    }
    customers = {"John Customer", "Jane Customer"}
    assert matrix(pair) == FIRST | {name: FIRST[name] | {"users.read"} for name in customers}

    with pair.change() as session:
        session.delete(link(session, "customer", "users.read"))
    assert matrix(pair) == FIRST


def pair_events(session: Session) -> list[tuple[str, str | None]]:
    """Return the transaction's events so far as (mapping, reference)."""
    rows = session.execute(text("select mapping, reference from mirror.outbox order by id"))
    return [(row.mapping, row.reference) for row in rows]


def test_a_user_with_another_role_has_its_permissions_and_none_of_the_old(pair: ModelPair) -> None:
    """This is one row again."""
    with pair.change() as session:
        named(session, User, "John Customer").role_id = named(session, Role, "manager").id
    assert matrix(pair) == FIRST | {"John Customer": FIRST["Manager User"]}


def test_a_role_that_is_deleted_leaves_its_users_with_no_role(pair: ModelPair) -> None:
    """The users stay on both sides, without a role or permissions."""
    with pair.change() as session:
        session.execute(delete(Role).where(Role.name == "customer"))
    nothing: Matrix = {"John Customer": set(), "Jane Customer": set()}
    assert matrix(pair) == FIRST | nothing
    assert pair.target.value("select count(*) from users where role_id is null") == 2

    # A new role with the same name is another role.
    with pair.change() as session:
        session.add(Role(name="customer"))
    assert matrix(pair) == FIRST | nothing


def test_a_permission_that_is_deleted_is_lost_for_every_user(pair: ModelPair) -> None:
    """A cascade deletes its links, which no hook would see."""
    with pair.change() as session:
        session.execute(delete(Permission).where(Permission.name == "users.read"))
    assert matrix(pair) == {name: names - {"users.read"} for name, names in FIRST.items()}


def test_a_permission_that_is_renamed_counts_under_its_new_name(pair: ModelPair) -> None:
    """This holds for every user with the permission."""
    with pair.change() as session:
        named(session, Permission, "users.read").name = "x"
    assert matrix(pair) == {
        name: names - {"users.read"} | ({"x"} if "users.read" in names else set())
        for name, names in FIRST.items()
    }


def test_a_user_who_is_deleted_may_nothing(pair: ModelPair) -> None:
    """Their token stays valid for a while."""
    admin = user_id(pair, "Admin User")
    with pair.change() as session:
        session.delete(session.get_one(User, admin))
    assert pair.asked(admin, "select mirror.my_permissions()") == [([],)]


def test_changes_by_hand_are_found_and_repaired(pair: ModelPair) -> None:
    """One permission and one role were granted by hand; one link was deleted."""
    pair.target.query(
        "insert into role_permissions select r.id, p.id from roles as r, permissions as p"
        " where r.name = 'customer' and p.name = 'roles.manage'"
    )
    pair.target.query(
        "update users set role_id = (select id from roles where name = 'admin')"
        " where name = 'Manager User'"
    )
    pair.target.query(
        "delete from role_permissions where permission_id ="
        " (select id from permissions where name = 'profile.read')"
    )
    planted = matrix(pair)
    assert "roles.manage" in planted["Jane Customer"]
    assert planted["Manager User"] == ALL - {"profile.read"}
    report = pair.model.reconcile()
    assert report.outcome == "repaired"
    found = {one.mapping: (one.over_grants, one.under_grants) for one in report.mappings}
    assert found["role_permissions"] == (1, 2)
    # The order of two roles is unknown, so a change of role counts as over-grant.
    assert found["users"] == (1, 0)
    assert matrix(pair) == FIRST
    assert pair.model.reconcile().outcome == "in line"


def test_explain_names_the_row_that_is_missing_and_the_one_that_was_planted(
    pair: ModelPair,
) -> None:
    """It follows the permission, the user and the link; a random audit finds the same fault."""
    question = question_about(pair.registry, "permission")
    manager, john = user_id(pair, "Manager User"), user_id(pair, "John Customer")
    assert explain_resource(pair.drain, question, str(manager), "users.read").exit_code == 0
    page = explain_resource(pair.drain, question, str(john), "users.read")
    assert page.first is not None
    assert (page.primary_grants, page.allowed, page.first.name) == (False, False, "primary")
    assert "role_permissions" in page.first.says
    assert audit(pair.drain, question, 60, Random(1)).mismatches == []

    # All of them are audited, so the sample includes the wrong ones.
    pair.target.query(
        "insert into role_permissions select u.role_id, p.id from users as u, permissions as p"
        " where u.name = 'John Customer' on conflict do nothing"
    )
    page = explain_resource(pair.drain, question, str(john), "users.read")
    assert page.first is not None
    assert (page.primary_grants, page.allowed, page.first.name) == (False, True, "target row")
    found = audit(pair.drain, question, 60, Random(1)).mismatches
    assert {one.direction for one in found} == {Direction.OVER}
    assert {one.resource for one in found} <= ALL - set(data.ROLES["customer"])


def test_an_access_review_says_what_row_level_security_answers(pair: ModelPair) -> None:
    """For every user and permission, by user and by permission."""
    people = {name: UUID(user) for name, user in pair.ask("select name, id::text from users")}
    assert Reviewed(pair.registry, pair.drain.target, pair.target, people).check() > 30


def test_the_story_of_the_example_runs(databases: ModelPair) -> None:
    """The databases were empty before."""
    databases.start(lambda _: None, *OWN)
    story(databases.model.stage)
    assert len(databases.model.stage.log) > 5


# Tables. Without a right, the grant is missing, or the statement finds no row.

PEOPLE = ("anon", "unsigned", "stranger", *data.USERS)
Expected = dict[str, Outcome]


def everybody(outcome: Outcome, **others: Outcome) -> Expected:
    """Return each person's expected result: DENIED for anon; `outcome`, or that of `others`."""
    roles = {name: role for name, (_, role) in data.USERS.items()} | {"anon": "anon"}
    return {p: others.get(roles.get(p, ""), DENIED if p == "anon" else outcome) for p in PEOPLE}


NOBODY = everybody(DENIED)
STATEMENTS: dict[str, tuple[str, Expected]] = {
    # Mirrored tables: users see themselves and their role's rows; with the permission, all rows.
    "see users": (
        "select id, name, role_id from users",
        everybody(0, admin=4, manager=4, customer=1),
    ),
    "see roles": ("select id, name from roles", everybody(0, admin=3, manager=1, customer=1)),
    "see permissions": (
        "select id, name from permissions",
        everybody(0, admin=9, manager=4, customer=2),
    ),
    "see links": (
        "select role_id, permission_id from role_permissions",
        everybody(0, admin=15, manager=4, customer=2),
    ),
    "add a user": ("insert into users (id) values (gen_random_uuid())", NOBODY),
    "become an admin": (
        "update users set role_id = (select id from roles limit 1) where id = %(me)s",
        NOBODY,
    ),
    "delete users": ("delete from users", NOBODY),
    "change roles": ("update roles set name = 'x'", NOBODY),
    "change permissions": ("update permissions set name = 'x'", NOBODY),
    "grant all": (
        "insert into role_permissions select r.id, p.id from roles as r, permissions as p",
        NOBODY,
    ),
    "revoke all": ("delete from role_permissions", NOBODY),
    # Tables of the application
    "see profiles": ("select * from profiles", everybody(0, admin=4, manager=4, customer=1)),
    "make a profile": (
        "insert into profiles values (gen_random_uuid(), 'new')",
        everybody(DENIED, admin=1),
    ),
    "change profiles": (
        "update profiles set biography = 'x'",
        everybody(0, admin=4, manager=4, customer=1),
    ),
    "hand a profile over": ("update profiles set user_id = gen_random_uuid()", NOBODY),
    "delete profiles": ("delete from profiles", everybody(0, admin=4)),
    "see reports": ("select * from reports", everybody(0, admin=4, manager=4)),
    "write a report": (
        "insert into reports (title) values ('x')",
        everybody(DENIED, admin=1, manager=1),
    ),
    "write in another's name": (
        "insert into reports (title, author_id) values ('x', gen_random_uuid())",
        NOBODY,
    ),
    "change reports": ("update reports set title = 'x'", NOBODY),
    "delete one's own reports": ("delete from reports", everybody(0, admin=1, manager=1)),
}


@pytest.fixture(scope="module")
def world(databases: ModelPair) -> dict[str, UUID]:
    """Each person's id; each user has a profile and has written a report."""
    databases.start(data.populate, *OWN)
    databases.target.query("insert into profiles select id from users")
    databases.target.query("insert into reports (author_id, title) select id, 'x' from users")
    return dict(databases.primary.query("select name, id from users"))


@pytest.mark.parametrize("attempt", STATEMENTS)
def test_each_statement_affects_only_permitted_rows_for_every_user(
    databases: ModelPair, world: dict[str, UUID], attempt: str
) -> None:
    """Every person tries one statement, which is rolled back."""
    statement, expected = STATEMENTS[attempt]
    ids = {person: world.get(person) for person in PEOPLE} | {"stranger": uuid4()}
    assert databases.attempts(statement, ids) == expected
