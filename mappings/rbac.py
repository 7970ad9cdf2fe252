"""Role-based access: users with a role, and roles with permissions like `users.update`.

A row of `role_permissions` decides for all users with the role, and it is one row in the target,
too. When a role is deleted, its rows of `role_permissions` are deleted, and its users have no
permission any more.
"""

from sqlalchemy import Text, Uuid, column, select, table

from mirror.access import Allow, Guard, Own, Permission, Permissions
from mirror.model.mapping import Column, Mapping, Parent, Readable, Reference
from mirror.model.registry import Registry

_users = table("users", column("id", Uuid), column("name", Text), column("role_id", Uuid))
_roles = table("roles", column("id", Uuid), column("name", Text))
_permissions = table("permissions", column("id", Uuid), column("name", Text))
_role_permissions = table(
    "role_permissions", column("role_id", Uuid), column("permission_id", Uuid)
)

_MY_ROLE = "(select u.role_id from public.users as u where u.id = (select auth.uid()))"

users = Mapping(
    name="users",
    table="users",
    key=("id",),
    columns=(
        Column("id", "uuid"),
        Column("name", "text", descriptive=True),
        # Not a parent: when the role is deleted, the user stays, without a role.
        Column("role_id", "uuid"),
    ),
    query=select(_users.c.id, _users.c.name, _users.c.role_id),
    references=(Reference("role_id", "uuid", table="roles"),),
    readable=Readable(
        ("id", "name", "role_id"),
        "id = (select auth.uid()) or (select mirror.has_permission('users.read'))",
    ),
)
roles = Mapping(
    name="roles",
    table="roles",
    key=("id",),
    columns=(Column("id", "uuid"), Column("name", "text", descriptive=True)),
    query=select(_roles.c.id, _roles.c.name),
    readable=Readable(
        ("id", "name"), f"id = {_MY_ROLE} or (select mirror.has_permission('roles.manage'))"
    ),
)
permissions = Mapping(
    name="permissions",
    table="permissions",
    key=("id",),
    # Not descriptive: policies decide by the name.
    columns=(Column("id", "uuid"), Column("name", "text")),
    query=select(_permissions.c.id, _permissions.c.name),
    readable=Readable(
        ("id", "name"),
        "name = any((select mirror.my_permissions())::text[])"
        " or (select mirror.has_permission('roles.manage'))",
    ),
)
role_permissions = Mapping(
    name="role_permissions",
    table="role_permissions",
    key=("role_id", "permission_id"),
    columns=(Column("role_id", "uuid"), Column("permission_id", "uuid")),
    query=select(_role_permissions.c.role_id, _role_permissions.c.permission_id),
    parents=(Parent("roles", "role_id"), Parent("permissions", "permission_id")),
    readable=Readable(
        ("role_id", "permission_id"),
        f"role_id = {_MY_ROLE} or (select mirror.has_permission('roles.manage'))",
    ),
)

# The application's own tables, as in examples/rbac/supabase.sql.
profiles = Guard(
    table="profiles",
    read=Allow(Own(Permission("profile.read")), Permission("users.read")),
    insert=Permission("users.create"),
    update=Allow(
        Own(Permission("profile.update")), Permission("users.update"), columns=("biography",)
    ),
    delete=Permission("users.delete"),
)
reports = Guard(
    table="reports",
    owner="author_id",
    read=Permission("dashboard.view"),
    insert=Allow(Own(Permission("reports.generate")), columns=("title", "body")),
    delete=Own(Permission("reports.generate")),
)

registry = Registry(
    "rbac",
    [users, roles, permissions, role_permissions],
    access=[
        Permissions(
            holders="users", user="id", grants="role_permissions", permissions="permissions"
        )
    ],
    guards=[profiles, reports],
)
