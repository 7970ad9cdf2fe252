"""A customer becomes a manager, the managers lose a right, and their role is given up."""

from pathlib import Path
from uuid import uuid4

from examples.sandbox import REFUSED, Sandbox

FOLDER = Path(__file__).parent

_ROLE = "insert into roles (id, name) values (gen_random_uuid(), %s) returning id"
_USER = "insert into users (id, name, email, role_id) values (%s, %s, %s, %s)"
_MAY = """
with named as (
  insert into permissions (id, name) values (gen_random_uuid(), %s)
  on conflict (name) do update set name = excluded.name
  returning id
)
insert into role_permissions (id, role_id, permission_id)
select gen_random_uuid(), %s, id from named
"""
_MAY_NOT = """
delete from role_permissions
where role_id = %s and permission_id = (select id from permissions where name = %s)
"""
_SEE_USERS = "select from users"
_WRITE = "insert into reports (title) values (%s)"


def story(sandbox: Sandbox) -> None:
    """Play it."""
    ann, bob = uuid4(), uuid4()
    manager, customer = sandbox.backend(_ROLE, "manager"), sandbox.backend(_ROLE, "customer")
    for name in ("users.read", "reports.generate", "dashboard.view"):
        sandbox.backend(_MAY, name, manager)
    sandbox.backend(_MAY, "profile.read", customer)
    sandbox.backend(_USER, ann, "Ann", "ann@example.com", customer)
    sandbox.backend(_USER, bob, "Bob", "bob@example.com", manager)

    sandbox.expect("Ann is a customer, and sees herself alone.", sandbox.user(ann, _SEE_USERS), 1)
    sandbox.expect("She may write no report.", sandbox.user(ann, _WRITE, "Mine"), REFUSED)
    sandbox.expect("Bob is a manager, and sees both.", sandbox.user(bob, _SEE_USERS), 2)

    sandbox.backend("update users set role_id = %s where id = %s", manager, ann)
    both = sandbox.user(ann, _SEE_USERS), sandbox.user(ann, _WRITE, "Ours")
    sandbox.expect("Ann is made a manager: she sees both, and writes.", both, (2, 1))

    sandbox.backend(_MAY_NOT, manager, "reports.generate")
    both = sandbox.user(ann, _WRITE, "More"), sandbox.user(bob, _WRITE, "More")
    sandbox.expect(
        "Managers may write no more: one row, and neither can.", both, (REFUSED, REFUSED)
    )

    sandbox.backend("delete from roles where id = %s", manager)
    both = sandbox.user(ann, _SEE_USERS), sandbox.user(bob, _SEE_USERS)
    sandbox.expect(
        "The role is given up: both stay, without one, and see themselves.", both, (1, 1)
    )
    seen = sandbox.user(bob, "select from reports")
    sandbox.expect("The report is there still, and nobody's to read.", seen, 0)
