"""A customer becomes a manager, the managers lose a permission, and their role is deleted."""

from pathlib import Path
from uuid import uuid4

from examples.stage import REFUSED, Stage

FOLDER = Path(__file__).parent

_ROLE = "insert into roles (id, name) values (gen_random_uuid(), %s) returning id"
_USER = "insert into users (id, name, email, role_id) values (%s, %s, %s, %s)"
_GRANT = """
with permission as (
  insert into permissions (id, name) values (gen_random_uuid(), %s)
  on conflict (name) do update set name = excluded.name
  returning id
)
insert into role_permissions (id, role_id, permission_id)
select gen_random_uuid(), %s, id from permission
"""
_REVOKE = """
delete from role_permissions
where role_id = %s and permission_id = (select id from permissions where name = %s)
"""
_SEE_USERS = "select from users"
_WRITE = "insert into reports (title) values (%s)"


def story(stage: Stage) -> None:
    """Run the story: each step changes something and checks the effect."""
    ann, bob = uuid4(), uuid4()
    manager, customer = stage.backend(_ROLE, "manager"), stage.backend(_ROLE, "customer")
    for name in ("users.read", "reports.generate", "dashboard.view"):
        stage.backend(_GRANT, name, manager)
    stage.backend(_GRANT, "profile.read", customer)
    stage.backend(_USER, ann, "Ann", "ann@example.com", customer)
    stage.backend(_USER, bob, "Bob", "bob@example.com", manager)

    stage.expect("Ann is a customer, and sees only herself.", stage.user(ann, _SEE_USERS), 1)
    stage.expect("She may not write reports.", stage.user(ann, _WRITE, "Mine"), REFUSED)
    stage.expect("Bob is a manager, and sees both.", stage.user(bob, _SEE_USERS), 2)

    stage.backend("update users set role_id = %s where id = %s", manager, ann)
    both = stage.user(ann, _SEE_USERS), stage.user(ann, _WRITE, "Ours")
    stage.expect("Ann becomes a manager: she sees both users, and writes a report.", both, (2, 1))

    stage.backend(_REVOKE, manager, "reports.generate")
    both = stage.user(ann, _WRITE, "More"), stage.user(bob, _WRITE, "More")
    stage.expect(
        "One row is deleted, and no manager may write reports any more.", both, (REFUSED, REFUSED)
    )

    stage.backend("delete from roles where id = %s", manager)
    both = stage.user(ann, _SEE_USERS), stage.user(bob, _SEE_USERS)
    stage.expect(
        "The role is deleted: both users remain without a role, and see only themselves.",
        both,
        (1, 1),
    )
    seen = stage.user(bob, "select from reports")
    stage.expect("The report still exists, and neither of them may read it.", seen, 0)
