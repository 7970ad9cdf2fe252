"""The page on SQL functions is what pg_proc says of migrated databases; its policy works."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from examples.trip_chat.models import Membership
from mappings import grants, rbac
from mirror.testing import Sandboxes
from tests.support.databases import TestDatabase
from tests.support.example_model import model
from tests.support.shared_pair import SharedPair

PAGE = (Path(__file__).parent.parent.parent / "docs" / "sql.md").read_text(encoding="utf-8")


class Function(NamedTuple):
    """A function as the page describes it."""

    signature: str
    returns: str
    volatility: str = "STABLE"


def section(title: str) -> list[list[str]]:
    """Return the cells of a section's table, without backquotes."""
    text = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return [[cell.replace("`", "") for cell in row] for row in rows]


def functions(database: TestDatabase, condition: str, *parameters: object) -> set[Function]:
    """Return our functions for which a condition on pg_proc holds."""
    found = database.query(
        "select concat(n.nspname, '.', p.proname, '(', pg_get_function_arguments(p.oid), ')'),"
        " pg_get_function_result(p.oid),"
        " case p.provolatile when 's' then 'STABLE' when 'v' then 'VOLATILE' else 'IMMUTABLE' end"
        " from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace"
        " where (n.nspname = 'mirror' or n.nspname = 'public' and p.proname ~ '^mirror_')"
        f" and ({condition})",
        *parameters,
    )
    return {Function(*each) for each in found}


CALLABLE = "has_function_privilege(%s, p.oid, 'execute')"


def described(of: set[str], *, noun: str = "", id_type: str, user: str = "uuid") -> set[Function]:
    """Return the page's functions for policies of these declarations, with names filled in."""
    found = set()
    for signature, declaration, returns, _ in section("In policies"):
        if declaration in of:
            filled = [
                re.sub(r"\bID\b", id_type, text.replace("NOUN", noun)).replace("USER", user)
                for text in (signature, returns)
            ]
            found.add(Function(*filled))
    return found


def users_functions(target: TestDatabase) -> set[Function]:
    """Return the functions that users may call, all with their owner's rights.

    Those of one mapping each, which the page shows as one pattern, are left out.
    """
    found = functions(target, CALLABLE, "authenticated")
    assert functions(target, f"{CALLABLE} and p.prosecdef", "authenticated") == found
    withheld = {each for each in found if each.signature.startswith("mirror.withheld_")}
    assert {each[1:] for each in withheld} == {("boolean", "STABLE")}
    return found - withheld


def test_users_may_call_what_the_page_says_for_a_membership(target: TestDatabase) -> None:
    """The trips model: arguments by name, result and volatility."""
    own = described({"Membership", "every target"}, noun="trip", id_type="uuid")
    assert users_functions(target) == own
    assert functions(target, CALLABLE, "anon") == set()


def test_users_may_call_what_the_page_says_for_permissions(sandboxes: Sandboxes) -> None:
    """The model of roles and permissions."""
    with model(sandboxes, rbac.registry) as installed:
        own = described({"Permissions", "every target"}, id_type="uuid")
        assert users_functions(installed.target) == own


def test_users_may_call_what_the_page_says_for_grants(sandboxes: Sandboxes) -> None:
    """The model of flat grants."""
    with model(sandboxes, grants.registry) as installed:
        own = described({"Grants", "every target"}, id_type="uuid")
        assert users_functions(installed.target) == own


@pytest.mark.parametrize("role", ["service_role", "mirror_writer"])
def test_workers_may_call_what_the_page_says(target: TestDatabase, role: str) -> None:
    """With the volatility by which PostgREST lets a read go to a replica."""
    listed = {Function(*cells[:3]) for cells in section("Of the API")}
    assert functions(target, CALLABLE, role) == listed
    definers = {Function(*cells[:3]) for cells in section("Of the API") if "_ask(" not in cells[0]}
    assert functions(target, f"{CALLABLE} and p.prosecdef", role) == definers


def test_a_backend_may_call_what_the_page_says(primary: TestDatabase) -> None:
    """Those that read the mirror's tables for it; trigger functions cannot be called."""
    listed = {Function(*cells[:2]) for cells in section("In the primary")}
    callable_ones = "p.prosecdef and p.prorettype <> 'trigger'::regtype"
    assert functions(primary, callable_ones) == listed
    assert functions(primary, f"{callable_ones} and {CALLABLE}", "public") == listed


@pytest.mark.parametrize(
    "call",
    [
        "mirror.my_trips('CAPTAIN')",
        "mirror.my_trips(null)",
        "mirror.has_trip_role(%(trip)s, 'CAPTAIN')",
        "mirror.has_trip_role(%(trip)s, null)",
        "mirror.has_trip_role(null, 'MEMBER')",
        "mirror.is_trip_member(null)",
        "mirror.is_fresh('{}', '1 hour')",
        "mirror.is_fresh(array['unheard_of'], '1 hour')",
    ],
)
def test_unknown_names_and_null_refuse(world: SharedPair, call: str) -> None:
    """An owner of a trip asks; no answer is NULL, which would turn into a grant under NOT."""
    member = world.member(role="OWNER")
    with world.target.acting_as(member.user_id) as connection:
        cursor = connection.execute(f"select {call}".encode(), {"trip": member.trip_id})
        assert cursor.fetchall() in ([([],)], [(False,)])


@pytest.fixture
def notes(world: SharedPair) -> Iterator[Membership]:
    """The page's table and function, with a note of a member's trip."""
    scripts = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    assert len(scripts) == 2
    member = world.member(role="MEMBER")
    for script in scripts:
        world.target.query(script)
    world.target.query(
        "insert into public.notes (trip_id, body) values (%s, 'Pack')", member.trip_id
    )
    yield member
    world.target.query("drop table public.notes cascade")


@pytest.mark.parametrize("source", ["notes", "notes_of(%(trip)s)"])
def test_the_pages_policy_and_function_admit_members_and_nobody_else(
    world: SharedPair, notes: Membership, source: str
) -> None:
    """Until the membership is gone."""
    stranger = world.member(role="OWNER")

    def read(member: Membership) -> list[tuple[object, ...]]:
        with world.target.acting_as(member.user_id) as connection:
            query = f"select body from {source}".encode()
            return connection.execute(query, {"trip": notes.trip_id}).fetchall()

    assert (read(notes), read(stranger)) == ([("Pack",)], [])
    world.change("status = 'INACTIVE'", notes)
    world.record(notes)
    world.mirror()
    assert read(notes) == []
