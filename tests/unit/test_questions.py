"""The rights that rows grant, and how PostgreSQL combines policies."""

from dataclasses import replace

import pytest
from sqlalchemy import DateTime, Text, column, select, table

from mappings.trips import registry, trip_memberships, trips
from mirror.access.questions import access_questions, inactive_reason
from mirror.model.mapping import Column, Mapping, Readable
from mirror.sync.targets.asking import AppliedPolicy, AskResult

TRIP = access_questions(registry)["trip"]
ROW: dict[str, str | None] = {"trip_id": "1", "user_id": "2", "role": "ADMIN", "status": "ACTIVE"}

_passes = table("passes", column("id", Text), column("until", DateTime(timezone=True)))
EXPIRING = Mapping(
    name="passes",
    table="passes",
    key=("id",),
    columns=(Column("id", "text"), Column("until", "timestamptz")),
    query=select(_passes.c.id, _passes.c.until),
    expires="until",
)


def test_a_role_includes_those_before_it() -> None:
    """An admin is a member, too."""
    assert TRIP.grant(TRIP.paths[0], 0, trip_memberships, ROW).levels == {"MEMBER", "ADMIN"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": "INVITED"}, "status is INVITED, and only ACTIVE counts"),
        ({"status": None}, "status is None, and only ACTIVE counts"),
        ({"role": "KING"}, "its level is KING, which is not one of MEMBER, ADMIN, OWNER"),
    ],
)
def test_a_row_that_grants_nothing_gives_the_reason(
    change: dict[str, str | None], reason: str
) -> None:
    """The reason contains the value that decides."""
    grant = TRIP.grant(TRIP.paths[0], 0, trip_memberships, {**ROW, **change})
    assert (grant.levels, grant.reason) == (frozenset(), reason)


@pytest.mark.parametrize(
    ("until", "counts"),
    [
        (None, True),
        ("infinity", True),
        ("12024-01-01 00:00:00+00", True),
        ("2999-01-01 00:00:00.5+00", True),
        ("2001-01-01 00:00:00+00", False),
        ("-infinity", False),
        ("0044-03-15 12:00:00+00 BC", False),
    ],
)
def test_a_row_counts_until_it_expires(until: str | None, counts: bool) -> None:  # noqa: FBT001
    """Each form of a time that PostgreSQL prints is understood."""
    assert (inactive_reason(EXPIRING, {"id": "1", "until": until}) is None) is counts


def test_a_policy_is_recognised_by_the_helper_that_it_calls() -> None:
    """No other part of it matters."""
    assert TRIP.reads(trip_memberships) == ("trip_id", "MEMBER")
    assert TRIP.reads(trips) == ("id", "MEMBER")
    assert TRIP.reads(replace(trips, readable=Readable(("id",), "true"))) is None
    assert TRIP.reads(replace(trips, readable=None)) is None


def policies(**holds: bool | None) -> AskResult:
    """Return an answer; a policy's name gives its command, and says whether it is restrictive."""
    return AskResult(
        policies=tuple(
            AppliedPolicy(name, name.split("_")[0], not name.endswith("_restricts"), held)
            for name, held in holds.items()
        )
    )


@pytest.mark.parametrize(
    ("result", "verb", "passes"),
    [
        (policies(), "select", False),
        (policies(select=True), "select", True),
        (policies(all=True), "insert", True),
        (policies(select_1=False, select_2=True), "select", True),
        (policies(select=True, select_restricts=False), "select", False),
        (policies(select_restricts=True), "select", False),
        (policies(select=None), "select", False),
        # A user who changes a row must be able to read it.
        (policies(update=True), "update", False),
        (policies(update=True, select=True), "update", True),
        (policies(select=True), "delete", False),
        (replace(policies(), active=False), "delete", True),
    ],
)
def test_policies_combine_as_they_do_in_the_database(
    result: AskResult,
    verb: str,
    passes: bool,  # noqa: FBT001
) -> None:
    """One permissive policy and all restrictive ones must pass."""
    assert result.passes(verb) is passes
