"""Explain and audit on another permission model, with several ways to a right."""

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from uuid import UUID

import pytest
from sqlalchemy import (
    BigInteger,
    Date,
    DateTime,
    Text,
    Uuid,
    column,
    exists,
    select,
    table,
    union_all,
)

from mirror.access.questions import AccessPath, AccessQuestion, FromRow, Given, Helper, Lookup
from mirror.devstack import PostgresCluster
from mirror.diagnostics.access_review import review
from mirror.diagnostics.explain import Explanation, audit, explain_resource, question_about
from mirror.diagnostics.explain.missing_row import missing_row_reasons
from mirror.model.mapping import Column, Mapping, Reference, SelectQuery
from mirror.model.registry import Registry
from mirror.reconcile.drift import Direction
from mirror.schema.migrate import upgrade
from mirror.settings import load_settings
from mirror.sync.connections import Database
from mirror.sync.drain import Drain
from mirror.sync.orders import resync
from mirror.sync.wiring import build_drain
from tests.support.databases import TestDatabase

_people = table(
    "people", column("id", BigInteger), column("user_id", Uuid), column("left_on", Date)
)
_jobs = table(
    "jobs",
    column("person_id", BigInteger),
    column("number", BigInteger),
    column("role_id", BigInteger),
)
_rights = table("rights", column("role_id", BigInteger), column("name", Text))
_loans = table(
    "loans", column("user_id", Uuid), column("name", Text), column("until", DateTime(timezone=True))
)

jobs = Mapping(
    name="jobs",
    table="jobs",
    key=("person_id", "number"),
    columns=(
        Column("person_id", "bigint"),
        Column("number", "bigint"),
        Column("user_id", "uuid"),
        Column("role_id", "bigint"),
    ),
    query=select(_jobs.c.person_id, _jobs.c.number, _people.c.user_id, _jobs.c.role_id)
    .join(_people, _people.c.id == _jobs.c.person_id)
    .where(_people.c.left_on.is_(None)),
    references=(Reference("person_id", "bigint", table="people"),),
)
rights = Mapping(
    name="rights",
    table="rights",
    key=("role_id", "name"),
    columns=(Column("role_id", "bigint"), Column("name", "text")),
    query=select(_rights.c.role_id, _rights.c.name),
)
loans = Mapping(
    name="loans",
    table="loans",
    key=("user_id", "name"),
    columns=(
        Column("user_id", "uuid"),
        Column("name", "text"),
        Column("until", "timestamptz"),
    ),
    query=select(_loans.c.user_id, _loans.c.name, _loans.c.until),
    expires="until",
)


@dataclass(frozen=True)
class Rights:
    """A user has a right by the role of their job, or on loan for a while."""

    def ddl(self, _registry: Registry) -> list[str]:
        """Return the SQL of the helper."""
        return [
            """\
create or replace function mirror.has_right(name text) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from public.jobs as j join public.rights as r on r.role_id = j.role_id
    where j.user_id = (select auth.uid()) and r.name = $1
  ) or exists (
    select from public.loans as l
    where l.user_id = (select auth.uid()) and l.name = $1 and (l.until is null or l.until > now())
  )
$$;""",
            "grant execute on function mirror.has_right(text) to authenticated;",
        ]

    def questions(self, _registry: Registry) -> tuple[AccessQuestion, ...]:
        """Return the only question."""
        by_job = AccessPath(
            (
                Lookup("jobs", {"user_id": Given.USER}),
                Lookup("rights", {"role_id": FromRow(0, "role_id"), "name": Given.RESOURCE}),
            ),
            level="has",
        )
        lent = AccessPath(
            (Lookup("loans", {"user_id": Given.USER, "name": Given.RESOURCE}),), level="has"
        )
        return (
            AccessQuestion(
                noun="right",
                via="rights",
                levels=("has",),
                paths=(by_job, lent),
                helpers=(Helper("has_right", (), "has", each=True),),
            ),
        )


registry = Registry("hospital", [jobs, rights, loans], access=[Rights()])
RIGHT = question_about(registry, "right")
NURSE, DOCTOR, GUEST, IDLE, GONE = (str(UUID(int=number << 124)) for number in (1, 4, 7, 10, 13))

TABLES = """
create table people (id bigint primary key, user_id uuid, left_on date);
create table jobs (person_id bigint, number bigint, role_id bigint);
create table rights (role_id bigint, name text);
create table loans (user_id uuid, name text, until timestamptz);
"""


@dataclass
class Hospital:
    """Both databases, and a drain."""

    primary: TestDatabase
    target: TestDatabase
    drain: Drain

    def explain(self, user: str, right: str) -> Explanation:
        """Explain a right."""
        return explain_resource(self.drain, RIGHT, user, right)

    def mirror(self) -> None:
        """Mirror all rows."""
        resync(self.drain.queue, registry, [])
        assert self.drain.run().failed == 0


@pytest.fixture(scope="module")
def hospital(
    primary_cluster: PostgresCluster, target_cluster: PostgresCluster, project_template: str
) -> Iterator[Hospital]:
    """A hospital with two roles and five people."""
    primary_cluster.create_database("primary_hospital")
    target_cluster.create_database("target_hospital", template=project_template, owner="postgres")
    primary = TestDatabase(primary_cluster.url("primary_hospital"))
    target = TestDatabase(target_cluster.url("target_hospital", user="postgres"))
    primary.query(TABLES)
    with primary.migrating() as connection:
        upgrade(connection)
    with target.migrating() as connection:
        upgrade(connection, "supabase", registry)
    primary.query(
        "insert into people select n, u::uuid, d::date"
        " from unnest(%s::int[], %s::text[], %s::text[]) as x (n, u, d)",
        [1, 2, 3, 4, 5],
        [NURSE, DOCTOR, GUEST, IDLE, GONE],
        [None, None, None, None, "2020-01-01"],
    )
    primary.query(
        "insert into jobs values (1, 1, 1), (2, 1, 1), (2, 2, 2), (4, 1, null), (5, 1, 2);"
        "insert into rights values (1, 'read'), (2, 'prescribe')"
    )
    primary.query(
        "insert into loans values (%s, 'read', '2020-01-01'), (%s, 'prescribe', 'infinity')",
        GUEST,
        NURSE,
    )
    settings = load_settings(primary_database_url=primary.url, supabase_db_url=target.url)
    with closing(build_drain(settings, registry)) as drain:
        made = Hospital(primary, target, drain)
        made.mirror()
        yield made
    primary_cluster.drop_database("primary_hospital")
    target_cluster.drop_database("target_hospital")


@pytest.mark.parametrize(
    ("user", "right", "says"),
    [
        (NURSE, "read", None),
        (NURSE, "prescribe", None),
        (DOCTOR, "prescribe", None),
        (DOCTOR, "operate", "and rights.name = 'operate'."),
        (GUEST, "read", "until is past"),
        (GUEST, "operate", "people has the row, but jobs has no row with"),
        (
            IDLE,
            "read",
            "a row of rights is found by role_id, name, and one of these values is NULL",
        ),
        (
            GONE,
            "prescribe",
            "people has the row, but it does not satisfy the condition people.left_on IS NULL",
        ),
    ],
)
def test_the_way_that_grants_is_followed_else_the_one_that_gets_farthest(
    hospital: Hospital, user: str, right: str, says: str | None
) -> None:
    """A user has a right by a role, on loan, or not at all."""
    page = hospital.explain(user, right)
    if says is None:
        assert page.exit_code == 0, page
    else:
        assert page.first is not None
        assert page.first.name == "primary"
        assert says in page.first.says
        # The step's text also says where the other way breaks.
        assert any(line.startswith("nor by ") for line in page.first.details)


def test_each_row_of_a_way_is_checked(hospital: Hospital) -> None:
    """The right was taken from the role by hand; the job is unchanged."""
    hospital.target.query("delete from rights where name = 'prescribe'")
    page = hospital.explain(DOCTOR, "prescribe")
    hospital.mirror()
    assert page.first is not None
    assert page.first.name == "target row"
    assert page.first.says.startswith("rights: Missing")
    names = [step.name for step in page.steps]
    assert names == [
        "user",
        *("primary",) * 2,
        *("events",) * 2,
        *("ledger",) * 2,
        *("target row",) * 2,
        "decision",
    ]


def test_an_over_grant_is_followed_along_what_the_target_has(hospital: Hospital) -> None:
    """A user inserted the job by hand."""
    hospital.target.query("insert into jobs values (9, 1, %s, 2)", GUEST)
    page = hospital.explain(GUEST, "prescribe")
    found = audit(hospital.drain, RIGHT, 60, random.Random(2))
    hospital.target.query("delete from jobs where user_id = %s", GUEST)
    assert (page.primary_grants, page.allowed) == (False, True)
    assert page.first is not None
    assert page.first.says == "jobs: The row was inserted by hand."
    assert {(one.direction, one.user, one.resource) for one in found.mismatches} == {
        (Direction.OVER, GUEST, "prescribe")
    }


def test_an_audit_asks_about_every_way(hospital: Hospital) -> None:
    """The audit finds nothing if both sides agree."""
    found = audit(hospital.drain, RIGHT, 60, random.Random(2))
    assert (found.mismatches, found.under_way) == ([], 0)
    # The nurse has two rights, the doctor two.
    assert found.granted == 4


def _left(query: SelectQuery) -> Mapping:
    return Mapping(
        name="left",
        table="left",
        key=("user_id",),
        columns=(Column("user_id", "uuid"),),
        query=query,
    )


_BASE = select(_people.c.user_id)


@pytest.mark.parametrize(
    ("query", "user", "says"),
    [
        (
            _BASE.where(_people.c.left_on.is_(None)),
            GONE,
            ["does not satisfy the condition people.left_on IS NULL"],
        ),
        (
            _BASE.where(_people.c.left_on.is_(None)),
            str(UUID(int=7)),
            ["people has no row with people.user_id"],
        ),
        (
            _BASE.join(_jobs, _jobs.c.person_id == _people.c.id),
            GUEST,
            ["people has the row, but jobs has no row with jobs.person_id = people.id"],
        ),
        (
            # An old-style join, with a condition on the other table.
            _BASE.where(_jobs.c.person_id == _people.c.id, _jobs.c.role_id == 7),
            NURSE,
            ["does not satisfy the condition jobs.role_id = 7"],
        ),
        (
            _BASE.where(exists().where(_loans.c.user_id == _people.c.user_id)),
            DOCTOR,
            ["people has the row, but loans has no row with loans.user_id = people.user_id"],
        ),
        (
            union_all(
                _BASE.where(_people.c.id > 100),
                select(_loans.c.user_id).where(_loans.c.name == "50%"),
            ),
            GUEST,
            [
                "does not satisfy the condition people.id > 100",
                "does not satisfy the condition loans.name = '50%'",
            ],
        ),
    ],
)
def test_the_condition_that_drops_a_row_is_named_for_each_kind_of_query(
    hospital: Hospital, query: SelectQuery, user: str, says: list[str]
) -> None:
    """Filters, joins, subqueries, and each part of a union can drop a row."""
    with closing(Database(hospital.primary.url, role="primary")) as database:
        found = [
            str(part) for part in missing_row_reasons(database, _left(query), {"user_id": user})
        ]
    assert len(found) == len(says)
    for part, wanted in zip(found, says, strict=True):
        assert wanted in part


def test_an_access_review_is_what_the_helper_answers(hospital: Hospital) -> None:
    """By right and by user, along both ways, for every pair."""
    users, names = (NURSE, DOCTOR, GUEST, IDLE, GONE), ("read", "prescribe", "operate")
    allowed = set()
    for user in users:
        with hospital.target.acting_as(user) as connection:
            allowed |= {
                (user, name)
                for name in names
                if connection.execute("select mirror.has_right(%s)", [name]).fetchall()[0][0]
            }
    assert allowed
    by_right = [
        one
        for name in names
        for one in review(registry, hospital.drain.target, [RIGHT], {Given.RESOURCE: name}).access
    ]
    by_user = [
        one
        for user in users
        for one in review(registry, hospital.drain.target, [RIGHT], {Given.USER: user}).access
    ]
    for found in (by_right, by_user):
        assert {(one.user, one.resource) for one in found if one.level == "has"} == allowed
        assert all(one.level for one in found)
    doctors = [one for one in by_right if (one.user, one.resource) == (DOCTOR, "read")]
    assert [one.by for one in doctors] == [("jobs 2,1", "rights 1,read")]
