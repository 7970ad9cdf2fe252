"""A guest is invited, becomes an owner of the company, and leaves it; the invitation remains."""

from pathlib import Path
from uuid import uuid4

from examples.sandbox import REFUSED, Sandbox

FOLDER = Path(__file__).parent

_USER = "insert into users (id, email) values (%s, %s)"
_COMPANY = "insert into companies (id, name) values (gen_random_uuid(), 'Acme') returning id"
_WORKSPACE = """
insert into workspaces (id, company_id, name) values (gen_random_uuid(), %s, 'Design') returning id
"""
_VIEW = """
insert into table_views (id, workspace_id, name) values (gen_random_uuid(), %s, 'Plan') returning id
"""
_SHARE = (
    "insert into table_view_grants (table_view_id, user_id, permission) values (%s, %s, 'read')"
)
_INVITE = "insert into workspace_members (workspace_id, user_id, role) values (%s, %s, 'editor')"
_JOIN = "insert into company_members (company_id, user_id, role) values (%s, %s, 'owner')"
_LEAVE = "delete from company_members where user_id = %s"
_RIGHTS = "select from user_permissions"
_TABLE = "insert into data_tables (workspace_id, name) values (%s, 'Tasks')"
_CLEAR = "delete from data_tables where workspace_id = %s"
_COMMENT = "insert into view_comments (table_view_id, content) values (%s, 'Looks good')"


def story(sandbox: Sandbox) -> None:
    """Run the story: each step changes something and checks the effect."""
    gus = uuid4()
    sandbox.backend(_USER, gus, "gus@example.com")
    company = sandbox.backend(_COMPANY)
    workspace = sandbox.backend(_WORKSPACE, company)
    view = sandbox.backend(_VIEW, workspace)
    sandbox.expect("Gus has no rights at all.", sandbox.user(gus, _RIGHTS), 0)

    sandbox.backend(_SHARE, view, gus)
    got = sandbox.user(gus, _RIGHTS), sandbox.user(gus, _COMMENT, view)
    sandbox.expect("A view is shared with him: one right, to read.", got, (1, REFUSED))

    sandbox.backend(_INVITE, workspace, gus)
    got = sandbox.user(gus, _RIGHTS), sandbox.user(gus, _COMMENT, view)
    sandbox.expect(
        "He is invited to its workspace: he has rights on both, and writes.", got, (2, 1)
    )
    sandbox.expect("He adds a table.", sandbox.user(gus, _TABLE, workspace), 1)
    sandbox.expect("Editors may not delete tables.", sandbox.user(gus, _CLEAR, workspace), 0)

    sandbox.backend(_JOIN, company, gus)
    owner = sandbox.user(gus, _RIGHTS), sandbox.user(gus, _CLEAR, workspace)
    sandbox.expect(
        "He becomes an owner of the company, and so an admin of all its workspaces.", owner, (3, 1)
    )

    sandbox.backend(_LEAVE, gus)
    got = sandbox.user(gus, _RIGHTS), sandbox.user(gus, _TABLE, workspace)
    sandbox.expect("He leaves the company, and is still an editor of the workspace.", got, (2, 1))
    sandbox.backend("delete from workspaces where id = %s", workspace)
    sandbox.expect(
        "The workspace is deleted, and all his rights with it.", sandbox.user(gus, _RIGHTS), 0
    )
