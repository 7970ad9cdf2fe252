"""Data: a small company with three roles, nine permissions and four users."""

from sqlalchemy.orm import Session

from examples.rbac.models import Permission, Role, RolePermission, User

PERMISSIONS = {
    "users.create": "Create users",
    "users.read": "See all users",
    "users.update": "Change users",
    "users.delete": "Delete users",
    "roles.manage": "Change roles and their permissions",
    "profile.read": "See the own profile",
    "profile.update": "Change the own profile",
    "dashboard.view": "Read reports",
    "reports.generate": "Write reports",
}
ROLES = {
    "admin": tuple(PERMISSIONS),
    "manager": ("users.read", "users.update", "dashboard.view", "reports.generate"),
    "customer": ("profile.read", "profile.update"),
}
USERS = {
    "Admin User": ("admin@example.com", "admin"),
    "Manager User": ("manager@example.com", "manager"),
    "John Customer": ("john@example.com", "customer"),
    "Jane Customer": ("jane@example.com", "customer"),
}


def populate(session: Session) -> None:
    """Add the roles, permissions and users above to the database; the caller commits."""
    permissions = {
        name: Permission(name=name, description=text) for name, text in PERMISSIONS.items()
    }
    roles = {name: Role(name=name) for name in ROLES}
    session.add_all([*permissions.values(), *roles.values()])
    session.flush()
    session.add_all(
        RolePermission(role_id=roles[role].id, permission_id=permissions[name].id)
        for role, names in ROLES.items()
        for name in names
    )
    session.add_all(
        User(name=name, email=email, role_id=roles[role].id)
        for name, (email, role) in USERS.items()
    )
