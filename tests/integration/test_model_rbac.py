"""Roles and permissions end to end: each change in the primary, and every user's permissions."""

from collections.abc import Iterator
from random import Random
from typing import TypeVar
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session

from examples.rbac import data
from examples.rbac.models import Permission, Role, RolePermission, User
from examples.rbac.story import story
from mappings import rbac
from mirror.diagnostics.explain import audit, explain_resource, question_about
from mirror.reconcile.drift import Direction
from mirror.testing import Sandboxes
from tests.support.example_model import model
from tests.support.model_pair import ModelPair, model_pair
from tests.support.reviewed import Reviewed

Matrix = dict[str, set[str]]
"""By user: the names of the permissions that the user has."""

T = TypeVar("T", Role, Permission, User)

ALL = set(data.PERMISSIONS)
FIRST: Matrix = {name: set(data.ROLES[role]) for name, (_, role) in data.USERS.items()}


@pytest.fixture
def pair(sandboxes: Sandboxes) -> Iterator[ModelPair]:
    """The example's data, mirrored."""
    with model_pair(sandboxes, rbac.registry, data.populate) as pair:
        yield pair


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
    assert "roles.manage" not in planted["Jane Customer"], "the ledger does not have that row"
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
        "update users set role_id = (select id from roles where name = 'admin')"
        " where name = 'John Customer'"
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


def test_the_story_of_the_example_runs(sandboxes: Sandboxes) -> None:
    """The databases were empty before."""
    with model(sandboxes, rbac.registry) as installed:
        story(installed.stage)
        assert len(installed.stage.log) > 5


# Tables. Without a right, the grant is missing, or the statement finds no row.

STATEMENTS = {
    # Mirrored tables: users see themselves and their role's rows; with the permission, all rows.
    "see users": "select id, name, role_id from users",
    "see roles": "select id, name from roles",
    "see permissions": "select id, name from permissions",
    "see links": "select role_id, permission_id from role_permissions",
    "add a user": "insert into users (id) values (gen_random_uuid())",
    "become an admin": (
        "update users set role_id = (select id from roles limit 1) where id = %(me)s"
    ),
    "delete users": "delete from users",
    "change roles": "update roles set name = 'x'",
    "change permissions": "update permissions set name = 'x'",
    "grant all": "insert into role_permissions select r.id, p.id from roles as r, permissions as p",
    "revoke all": "delete from role_permissions",
    # Tables of the application
    "see profiles": "select * from profiles",
    "make a profile": "insert into profiles values (gen_random_uuid(), 'new')",
    "change profiles": "update profiles set biography = 'x'",
    "hand a profile over": "update profiles set user_id = gen_random_uuid()",
    "delete profiles": "delete from profiles",
    "see reports": "select * from reports",
    "write a report": "insert into reports (title) values ('x')",
    "write in another's name": (
        "insert into reports (title, author_id) values ('x', gen_random_uuid())"
    ),
    "change reports": "update reports set title = 'x'",
    "delete one's own reports": "delete from reports",
}
MATRIX = """
                          anon    unsigned  stranger  admin   manager  john    jane
see users                 denied  0         0         4       4        1       1
see roles                 denied  0         0         3       1        1       1
see permissions           denied  0         0         9       4        2       2
see links                 denied  0         0         15      4        2       2
add a user                denied  denied    denied    denied  denied   denied  denied
become an admin           denied  denied    denied    denied  denied   denied  denied
delete users              denied  denied    denied    denied  denied   denied  denied
change roles              denied  denied    denied    denied  denied   denied  denied
change permissions        denied  denied    denied    denied  denied   denied  denied
grant all                 denied  denied    denied    denied  denied   denied  denied
revoke all                denied  denied    denied    denied  denied   denied  denied
see profiles              denied  0         0         4       4        1       1
make a profile            denied  denied    denied    1       denied   denied  denied
change profiles           denied  0         0         4       4        1       1
hand a profile over       denied  denied    denied    denied  denied   denied  denied
delete profiles           denied  0         0         4       0        0       0
see reports               denied  0         0         4       4        0       0
write a report            denied  denied    denied    1       1        denied  denied
write in another's name   denied  denied    denied    denied  denied   denied  denied
change reports            denied  denied    denied    denied  denied   denied  denied
delete one's own reports  denied  0         0         1       1        0       0
"""


def test_each_statement_affects_only_permitted_rows_for_every_user(pair: ModelPair) -> None:
    """Every person tries each statement, which is rolled back."""
    pair.target.query("insert into profiles select id from users")
    pair.target.query("insert into reports (author_id, title) select id, 'x' from users")
    users = pair.ask("select lower(split_part(name, ' ', 1)), id from users")
    pair.sandbox.check(MATRIX, STATEMENTS, dict(users) | {"unsigned": None, "stranger": uuid4()})
