"""A small company: three roles, nine permissions, four users."""

from sqlalchemy.orm import Session

from examples.rbac.models import Permission, Role, RolePermission, User

PERMISSIONS = {
    "users.create": "Sign somebody up",
    "users.read": "See everybody",
    "users.update": "Change what is known of somebody",
    "users.delete": "Remove somebody",
    "roles.manage": "Say what each role may do",
    "profile.read": "See one's own profile",
    "profile.update": "Change one's own profile",
    "dashboard.view": "Read the reports",
    "reports.generate": "Write a report",
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
    """Add all of it; the caller commits."""
    permissions = {name: Permission(name=name, description=d) for name, d in PERMISSIONS.items()}
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
