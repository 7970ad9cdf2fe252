"""Permissions as declarations: those that cannot work are refused by name."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import column, select, table

from mappings import rbac
from mirror.access import Guard, Own, Permission, Permissions
from mirror.errors import MappingError
from mirror.model.mapping import Column
from mirror.model.registry import Registry
from mirror.schema import guards_sql, model_sql

ACCESS = rbac.registry.access[0]
MAPPINGS = {mapping.name: mapping for mapping in rbac.registry}


def printed(access: Any, **mappings: Any) -> str:
    """Return the model's SQL with other helpers, or with another mapping."""
    return model_sql(Registry("m", list((MAPPINGS | mappings).values()), access=[access]))


def typed(name: str, column: str, kind: str) -> Any:
    """Return a mapping with a column of another type."""
    mapping = MAPPINGS[name]
    columns = [replace(c, type=kind) if c.name == column else c for c in mapping.columns]
    return replace(mapping, columns=tuple(columns), references=(), children=())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"user": "who"}, "'who' is not among the columns of mapping 'users'"),
        ({"role": "name"}, "'name' is not among the columns of mapping 'role_permissions'"),
        ({"permission": "right"}, "'right' is not among the columns of mapping 'role_permissions'"),
        ({"name": "id"}, "'id' of mapping 'permissions' names a permission; declare it as text"),
        ({"permissions": None}, "'permission_id' of mapping 'role_permissions' names a permission"),
        ({"permissions": "role_permissions"}, "the key of mapping 'role_permissions' is several"),
        ({"grants": "links"}, "mapping 'links' is not declared"),
    ],
)
def test_helpers_that_could_not_work_are_refused_with_the_remedy(
    changes: dict[str, Any], expected: str
) -> None:
    """At printing."""
    assert isinstance(ACCESS, Permissions)
    with pytest.raises(MappingError) as refused:
        printed(replace(ACCESS, **changes))
    assert expected in str(refused.value)


def test_columns_that_are_compared_have_the_same_type() -> None:
    """PostgreSQL would refuse to compare text with uuid at the first call."""
    with pytest.raises(MappingError, match="'role_id' of mapping 'users' is text and 'role_id' of"):
        printed(ACCESS, users=typed("users", "role_id", "text"))


def test_a_grant_may_name_its_permission_itself() -> None:
    """Two mappings are enough then; rows that are inactive or expired grant nothing."""
    links_table = table("links", *map(column, ("role_id", "name", "until", "status")))
    links = replace(
        MAPPINGS["role_permissions"],
        key=("role_id",),
        columns=(
            Column("role_id", "uuid"),
            Column("permission_id", "text"),
            Column("until", "timestamptz"),
            Column("status", "text"),
        ),
        query=select(
            links_table.c.role_id,
            links_table.c["name"].label("permission_id"),
            links_table.c.until,
            links_table.c.status,
        ),
        parents=(),
        readable=None,
        active={"status": frozenset({"ON"})},
        expires="until",
    )
    sql = printed(
        Permissions(holders="users", user="id", grants="role_permissions", noun="right"),
        role_permissions=links,
    )
    function = sql.split("function mirror.has_right(")[1].split("$$;")[0]
    assert "join public.permissions" not in function
    assert "g.permission_id = $1" in function
    assert "and g.status in ('ON')" in function
    assert "and (g.until is null or g.until > now())" in function


def test_permissions_stand_beside_roles_and_parents() -> None:
    """If a row follows a parent, the user must be able to read the parent, too."""
    notes = Guard(
        table="notes", through="reports", on="report_id", read=Permission("dashboard.view")
    )
    one = Registry(
        "m",
        list(MAPPINGS.values()),
        access=[ACCESS],
        guards=[rbac.reports, notes, Guard(table="logs", read=Own())],
    )
    policy = guards_sql(one).split("on public.notes for select")[1].split(";")[0]
    assert " ".join(policy.split()) == (
        "to authenticated using ( (select mirror.has_permission('dashboard.view'))"
        " and exists ( select from public.reports as parent1"
        " where parent1.id = notes.report_id offset 0 ) )"
    )
