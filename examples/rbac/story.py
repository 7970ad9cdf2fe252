"""A customer becomes a manager, the managers lose a permission, and their role is deleted."""

from pathlib import Path
from uuid import uuid4

from examples.sandbox import REFUSED, Sandbox

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


def story(sandbox: Sandbox) -> None:
    """Run the story: each step changes something and checks the effect."""
    ann, bob = uuid4(), uuid4()
    manager, customer = sandbox.backend(_ROLE, "manager"), sandbox.backend(_ROLE, "customer")
    for name in ("users.read", "reports.generate", "dashboard.view"):
        sandbox.backend(_GRANT, name, manager)
    sandbox.backend(_GRANT, "profile.read", customer)
    sandbox.backend(_USER, ann, "Ann", "ann@example.com", customer)
    sandbox.backend(_USER, bob, "Bob", "bob@example.com", manager)

    sandbox.expect("Ann is a customer, and sees only herself.", sandbox.user(ann, _SEE_USERS), 1)
    sandbox.expect("She may not write reports.", sandbox.user(ann, _WRITE, "Mine"), REFUSED)
    sandbox.expect("Bob is a manager, and sees both.", sandbox.user(bob, _SEE_USERS), 2)

    sandbox.backend("update users set role_id = %s where id = %s", manager, ann)
    both = sandbox.user(ann, _SEE_USERS), sandbox.user(ann, _WRITE, "Ours")
    sandbox.expect("Ann becomes a manager: she sees both users, and writes a report.", both, (2, 1))

    sandbox.backend(_REVOKE, manager, "reports.generate")
    both = sandbox.user(ann, _WRITE, "More"), sandbox.user(bob, _WRITE, "More")
    sandbox.expect(
        "One row is deleted, and no manager may write reports any more.", both, (REFUSED, REFUSED)
    )

    sandbox.backend("delete from roles where id = %s", manager)
    both = sandbox.user(ann, _SEE_USERS), sandbox.user(bob, _SEE_USERS)
    sandbox.expect(
        "The role is deleted: both users remain without a role, and see only themselves.",
        both,
        (1, 1),
    )
    seen = sandbox.user(bob, "select from reports")
    sandbox.expect("The report still exists, and neither of them may read it.", seen, 0)
