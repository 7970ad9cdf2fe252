"""A guest is invited, becomes an owner of the company, and leaves it; the invitation remains."""

from pathlib import Path
from uuid import uuid4

from examples.stage import REFUSED, Stage

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


def story(stage: Stage) -> None:
    """Run the story: each step changes something and checks the effect."""
    gus = uuid4()
    stage.backend(_USER, gus, "gus@example.com")
    company = stage.backend(_COMPANY)
    workspace = stage.backend(_WORKSPACE, company)
    view = stage.backend(_VIEW, workspace)
    stage.expect("Gus has no rights at all.", stage.user(gus, _RIGHTS), 0)

    stage.backend(_SHARE, view, gus)
    got = stage.user(gus, _RIGHTS), stage.user(gus, _COMMENT, view)
    stage.expect("A view is shared with him: one right, to read.", got, (1, REFUSED))

    stage.backend(_INVITE, workspace, gus)
    got = stage.user(gus, _RIGHTS), stage.user(gus, _COMMENT, view)
    stage.expect("He is invited to its workspace: he has rights on both, and writes.", got, (2, 1))
    stage.expect("He adds a table.", stage.user(gus, _TABLE, workspace), 1)
    stage.expect("Editors may not delete tables.", stage.user(gus, _CLEAR, workspace), 0)

    stage.backend(_JOIN, company, gus)
    owner = stage.user(gus, _RIGHTS), stage.user(gus, _CLEAR, workspace)
    stage.expect(
        "He becomes an owner of the company, and so an admin of all its workspaces.", owner, (3, 1)
    )

    stage.backend(_LEAVE, gus)
    got = stage.user(gus, _RIGHTS), stage.user(gus, _TABLE, workspace)
    stage.expect("He leaves the company, and is still an editor of the workspace.", got, (2, 1))
    stage.backend("delete from workspaces where id = %s", workspace)
    stage.expect(
        "The workspace is deleted, and all his rights with it.", stage.user(gus, _RIGHTS), 0
    )
