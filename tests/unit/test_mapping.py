"""Mappings: the digest of a declaration, and the properties derived from it."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import BigInteger, Text, Uuid, column, select, table

from mirror.errors import InvalidKey
from mirror.model.mapping import Column, Mapping, Parent, Reference

T = table("seats", column("id", BigInteger), column("team", BigInteger), column("role", Text))
SEATS = Mapping(
    name="seats",
    table="seats",
    key=("id",),
    columns=(Column("id", "bigint"), Column("role", "text")),
    query=select(T.c.id, T.c.role, T.c.team).where(T.c.role.in_(["A", "B"])),
    references=(Reference("team", "bigint", table="teams"),),
    active={"role": frozenset({"A", "B"})},
)

PRINT_DIGEST = """
from sqlalchemy import Text, column, select, table
from mirror.model.mapping import Column, Mapping
T = table("t", column("id", Text), column("role", Text))
print(Mapping(
    name="t", table="t", key=("id",), columns=(Column("id", "text"),),
    query=select(T.c.id).where(T.c.role.in_({"A", "B", "C", "D"})),
    active={"id": frozenset({"x", "y", "z"})},
).digest)
"""


@pytest.mark.parametrize(
    "change",
    [
        {"name": "chairs"},
        {"table": "chairs"},
        {"schema": "app"},
        {"key": ("id", "role")},
        {"columns": (Column("id", "integer"), Column("role", "text"))},
        {"columns": (Column("id", "bigint"), Column("role", "text"), Column("team", "bigint"))},
        {"query": SEATS.query.where(T.c.id > 0)},  # type: ignore[union-attr]
        {"query": select(T.c.id, T.c.role, T.c.team).where(T.c.role.in_(["A", "C"]))},
        {"references": (Reference("team", "text", table="teams"),)},
        {"references": ()},
        {"parents": (Parent("teams", "role"),)},
        {"active": {"role": frozenset({"A"})}},
        {"on_delete": "retain"},
        {"children": (("documents", "seat_id"),)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_digest_changes_with_each_part_that_decides_the_targets_rows(
    change: dict[str, Any],
) -> None:
    """The target must recognise a worker with another declaration."""
    assert replace(SEATS, **change).digest != SEATS.digest


def test_the_digest_stays_the_same_if_only_an_order_changes() -> None:
    """The order of values in a set or in IN does not matter."""
    same = replace(
        SEATS,
        query=select(T.c.id, T.c.role, T.c.team).where(T.c.role.in_(("B", "A"))),
        active={"role": frozenset({"B", "A"})},
    )
    assert same.digest == SEATS.digest


def test_the_digest_is_the_same_in_every_process() -> None:
    """Two workers of one version must agree, although each process orders sets differently."""
    found = {
        subprocess.run(
            [sys.executable, "-c", PRINT_DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parent.parent.parent,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


def test_references_are_the_declared_ones_and_the_parents_columns() -> None:
    """A parent's column that is declared as a reference appears once, as declared."""
    mapping = replace(
        SEATS,
        references=(Reference("team", "bigint", table="teams"),),
        parents=(Parent("roles", "role"), Parent("seats", "id"), Parent("roles", "role")),
    )
    assert [ref.name for ref in mapping.all_references] == ["team", "role", "id"]
    assert mapping.all_references[0].table == "teams"
    assert mapping.reference("role") == Reference("role", "text")
    assert mapping.reference("none") is None


def test_a_reference_has_a_canonical_form_as_keys_have() -> None:
    """The message names the mapping and the reference."""
    assert SEATS.canonical_reference("team", "007") == "7"
    with pytest.raises(InvalidKey, match="mapping 'seats', column 'team': expected bigint"):
        SEATS.canonical_reference("team", "x")
    with pytest.raises(LookupError):
        SEATS.canonical_reference("none", 1)


def test_a_parent_that_names_no_column_does_not_break_the_references() -> None:
    """The registry refuses it later, with a better message."""
    assert replace(SEATS, parents=(Parent("x", "gone"),)).all_references == SEATS.references


def test_the_query_contains_its_values_as_text() -> None:
    """A digest over the placeholder `:id_1` would not depend on its value."""
    t = table("t", column("id", Uuid), column("name", Text))
    mapping = Mapping(
        name="t",
        table="t",
        key=("id",),
        columns=(Column("id", "uuid"),),
        query=select(t.c.id).where(t.c.name != "it's 100%"),
    )
    assert "'it''s 100%%'" in mapping.sql


def test_backslashes_and_percent_signs_reach_the_database_unchanged() -> None:
    """For psycopg, a backslash stands once and a percent sign twice."""
    things = table("things", column("id", Text), column("path", Text))
    mapping = Mapping(
        name="things",
        table="things",
        key=("id",),
        columns=(Column("id", "text"),),
        query=select(things.c.id).where(things.c.path == "a\\b%"),
    )
    assert "'a\\b%%'" in mapping.sql
