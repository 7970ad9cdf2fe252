"""Flat grants: one table of users' rights to companies, workspaces and table views.

The primary does not have this table. Rights come from three tables, and some are inherited: owners
of a company have access to all of its workspaces, and members of a workspace to all of its views.
A user with two rights to one resource has the stronger one. When that one is revoked, the weaker
one remains.
"""

from typing import Any

from sqlalchemy import (
    DateTime,
    Select,
    Text,
    Uuid,
    case,
    cast,
    column,
    literal,
    null,
    select,
    table,
)

from mirror.access import Allow, Grants, Guard, Own
from mirror.model.mapping import Column, Mapping, Readable, Reference
from mirror.model.registry import Registry
from mirror.model.strongest import strongest

LEVELS = ("read", "write", "admin")
_ROLES = {"owner": "admin", "admin": "write", "editor": "write", "member": "read", "viewer": "read"}

_workspaces = table("workspaces", column("id", Uuid), column("company_id", Uuid))
_views = table("table_views", column("id", Uuid), column("workspace_id", Uuid))


def _given(name: str, resource: str, level: str) -> Any:
    """Return a table of the primary in which each row gives a user a level on a resource."""
    return table(
        name,
        column(resource, Uuid),
        column("user_id", Uuid),
        column(level, Text),
        column("granted_at", DateTime(timezone=True)),
        column("granted_by", Uuid),
    )


_companies_given = _given("company_members", "company_id", "role")
_workspaces_given = _given("workspace_members", "workspace_id", "role")
_views_given = _given("table_view_grants", "table_view_id", "permission")


def _grants(given: Any, kind: str, resource: Any, level: Any, workspace: Any) -> Select[Any]:
    """Return the query for the rights to resources of one kind that the table `given` gives."""
    return select(
        given.c.user_id,
        literal(kind, Text).label("resource_type"),
        resource.label("resource_id"),
        level.label("permission_level"),
        given.c.granted_at,
        given.c.granted_by,
        workspace.label("workspace_id"),
    )


_company_level = case(_ROLES, value=_companies_given.c.role)
_workspace_level = case(_ROLES, value=_workspaces_given.c.role)
_views_of_owners = (
    _grants(_companies_given, "table_view", _views.c.id, _company_level, _views.c.workspace_id)
    .join(_workspaces, _workspaces.c.company_id == _companies_given.c.company_id)
    .join(_views, _views.c.workspace_id == _workspaces.c.id)
)

user_permissions = Mapping(
    name="user_permissions",
    table="user_permissions",
    key=("user_id", "resource_type", "resource_id"),
    columns=(
        Column("user_id", "uuid"),
        Column("resource_type", "text"),
        Column("resource_id", "uuid"),
        Column("permission_level", "text"),
        Column("granted_at", "timestamptz", descriptive=True),
        Column("granted_by", "uuid", descriptive=True),
    ),
    query=strongest(
        _grants(
            _companies_given,
            "company",
            _companies_given.c.company_id,
            _company_level,
            cast(null(), Uuid),
        ),
        _grants(
            _workspaces_given,
            "workspace",
            _workspaces_given.c.workspace_id,
            _workspace_level,
            _workspaces_given.c.workspace_id,
        ),
        _grants(_companies_given, "workspace", _workspaces.c.id, _company_level, _workspaces.c.id)
        .join(_workspaces, _workspaces.c.company_id == _companies_given.c.company_id)
        .where(_companies_given.c.role == "owner"),
        _grants(
            _views_given,
            "table_view",
            _views_given.c.table_view_id,
            _views_given.c.permission,
            _views.c.workspace_id,
        ).join(_views, _views.c.id == _views_given.c.table_view_id),
        _grants(
            _workspaces_given, "table_view", _views.c.id, _workspace_level, _views.c.workspace_id
        ).join(_views, _views.c.workspace_id == _workspaces_given.c.workspace_id),
        _views_of_owners.where(_companies_given.c.role == "owner"),
        key=("user_id", "resource_type", "resource_id"),
        groups=("workspace_id",),
        level="permission_level",
        levels=LEVELS,
        first=("granted_at",),
    ),
    references=(
        Reference("user_id", "uuid"),
        Reference("resource_id", "uuid"),
        # A new, moved or deleted workspace or view changes the rights of all users to it.
        Reference("workspace_id", "uuid", table="workspaces"),
    ),
    readable=Readable(
        ("user_id", "resource_type", "resource_id", "permission_level", "granted_at", "granted_by"),
        "user_id = (select auth.uid())",
    ),
)

# The application's own tables, as in examples/grants/supabase.sql.
data_tables = Guard(
    table="data_tables",
    via="user_permissions:workspace",
    on="workspace_id",
    read="read",
    insert=Allow("write", columns=("id", "workspace_id", "name")),
    update=Allow("write", columns=("name",)),
    delete="admin",
)
view_comments = Guard(
    table="view_comments",
    via="user_permissions:table_view",
    on="table_view_id",
    owner="author_id",
    read="read",
    insert=Allow(Own("write"), columns=("table_view_id", "content")),
    delete=Allow(Own("read"), "admin"),
)

registry = Registry(
    "grants",
    [user_permissions],
    access=[
        Grants(
            mapping="user_permissions",
            kinds=("company", "workspace", "table_view"),
            levels=LEVELS,
        )
    ],
    guards=[data_tables, view_comments],
)
