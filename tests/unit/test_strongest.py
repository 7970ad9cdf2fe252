"""Rights from several sources: refused declarations, effects of a change, printed helpers."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Text, Uuid, column, literal, select, table

from mappings import grants
from mirror.access import Allow, Folder, Folders, Grants, Guard, Topic, Topics
from mirror.errors import MappingError
from mirror.model.mapping import Column, Mapping, Reference
from mirror.model.registry import Registry
from mirror.model.strongest import strongest
from mirror.schema import guards_sql, model_sql

A, B = (
    table(name, *(column(c, Uuid) for c in ("user_id", "id")), column("level", Text))
    for name in ("a", "b")
)
OPTIONS: dict[str, Any] = {"key": ("user_id", "id"), "level": "level", "levels": ("low", "high")}
GRANTS = grants.registry.access[0]


@pytest.mark.parametrize(
    ("sources", "changes", "expected"),
    [
        ([select(A), select(B.c.user_id, B.c.id)], {}, "source 2 yields other columns"),
        ([select(A), select(B.c.id, B.c.user_id, B.c.level)], {}, "source 2 yields other columns"),
        ([select(A)], {"key": ("who",)}, "no source yields 'who'"),
        ([select(A)], {"level": "rank"}, "no source yields 'rank'"),
        ([select(A)], {"groups": ("place",)}, "no source yields 'place'"),
        ([select(A)], {"first": ("since",)}, "no source yields 'since'"),
        ([], {}, "no source yields 'user_id'"),
        ([select(A)], {"levels": ()}, "name each level once"),
        ([select(A)], {"levels": ("low", "low")}, "name each level once"),
    ],
)
def test_a_union_that_could_not_work_is_refused(
    sources: list[Any], changes: dict[str, Any], expected: str
) -> None:
    """At its declaration."""
    with pytest.raises(MappingError) as refused:
        strongest(*sources, **(OPTIONS | changes))
    assert expected in str(refused.value)


def test_a_change_in_a_source_means_a_user_or_a_resource_and_never_all() -> None:
    """This holds for all tables that the union reads, however many it joins."""
    assert {
        table: [(effect.reference, effect.columns) for effect in effects]
        for table, effects in grants.registry.effects.items()
    } == {
        "company_members": [("user_id", ("user_id",))],
        "workspace_members": [("user_id", ("user_id",))],
        "table_view_grants": [("user_id", ("user_id",))],
        "table_views": [("resource_id", ("id",))],
        "workspaces": [("workspace_id", ("id",))],
    }


def test_a_source_without_a_reference_is_refused_by_name() -> None:
    """The mirror would miss its changes."""
    references = grants.user_permissions.references[:2]
    with pytest.raises(MappingError, match=r"Declare Reference.*, table='workspaces'"):
        Registry("m", [replace(grants.user_permissions, references=references)])


def test_a_source_may_contain_the_key_in_one_place_and_half_of_it_in_another() -> None:
    """A chief in `a` has a right on every row of `b`: by key, by user, and by resource."""
    of_chiefs = (
        select(A.c.user_id, B.c.id, literal("low", Text).label("level"))
        .select_from(A.join(B, literal(value=True)))
        .where(A.c.level == "chief")
    )
    mapping = Mapping(
        name="rights",
        table="rights",
        key=("user_id", "id"),
        columns=(Column("user_id", "uuid"), Column("id", "uuid"), Column("level", "text")),
        query=strongest(select(A), of_chiefs, **OPTIONS),
        references=(Reference("user_id", "uuid"), Reference("id", "uuid")),
    )
    effects = Registry("m", [mapping]).effects
    assert {t: [e.reference for e in found] for t, found in effects.items()} == {
        "a": [None, "user_id"],
        "b": ["id"],
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"user": "who"}, "'who' is not among the mapping's columns"),
        ({"kind": "resource_id"}, "'resource_id' is uuid; declare it as text"),
        ({"level": "granted_at"}, "'granted_at' is timestamptz; declare it as text"),
        ({"kinds": ()}, "name each of its kinds once"),
        ({"levels": ("read", "read")}, "name each of its levels once"),
    ],
)
def test_helpers_that_could_not_work_are_refused(changes: dict[str, Any], expected: str) -> None:
    """At printing."""
    assert isinstance(GRANTS, Grants)
    with pytest.raises(MappingError) as refused:
        model_sql(Registry("m", [grants.user_permissions], access=[replace(GRANTS, **changes)]))
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    ("guard", "expected"),
    [
        (replace(grants.data_tables, via="user_permissions"), "'' is not one of its kinds"),
        (replace(grants.data_tables, via="user_permissions:tea"), "'tea' is not one of its kinds"),
        (replace(grants.data_tables, via="rights:workspace"), "nor Grants; add them"),
        (replace(grants.data_tables, read="boss"), "'boss' is not one of the roles"),
        (
            Topics(personal="user", tell=("user_permissions:company",)),
            "has no Membership of mapping",
        ),
    ],
)
def test_a_guard_by_kind_that_could_not_work_is_refused(guard: Any, expected: str) -> None:
    """At printing."""
    with pytest.raises(MappingError) as refused:
        guards_sql(Registry("m", [grants.user_permissions], access=[GRANTS], guards=[guard]))
    assert expected in str(refused.value)


def test_channels_and_files_are_guarded_by_kind_as_well() -> None:
    """As they are by a membership."""
    via = "user_permissions:company"
    guards: list[Any] = [
        Topics(topics=(Topic(prefix="company", via=via, receive="read"),)),
        Folders(folders=(Folder(bucket="b", path="companies/{id}", via=via, read="write"),)),
        Guard(table="invoices", via=via, on="company_id", read=Allow("admin", columns=("id",))),
    ]
    sql = guards_sql(Registry("m", [grants.user_permissions], access=[GRANTS], guards=guards))
    for level in ("read", "write", "admin"):
        assert f"mirror.my_resources('company', '{level}')" in sql
