"""Explain where the mapping's query translates user ids, and joins, unites or groups tables."""

from collections.abc import Iterator
from contextlib import closing
from itertools import count
from typing import Any, Final
from uuid import uuid4

import pytest
from sqlalchemy import (
    BigInteger,
    DateTime,
    Text,
    Uuid,
    and_,
    case,
    cast,
    column,
    exists,
    func,
    intersect,
    literal,
    or_,
    select,
    table,
    union_all,
)

from mirror.access import Membership
from mirror.devstack import PostgresCluster
from mirror.diagnostics.explain import (
    Explanation,
    StepStatus,
    explain_key,
    explain_resource,
    question_about,
)
from mirror.diagnostics.explain.missing_row import missing_row_reasons
from mirror.model.mapping import Column, Mapping, Parent, Reference, SelectQuery
from mirror.model.registry import Registry
from mirror.schema.migrate import upgrade
from mirror.settings import load_settings
from mirror.sync.connections import Database
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_drain
from tests.support.databases import TestDatabase

TABLES: Final = """
    create table people (id bigint primary key, supabase_id text unique, deleted_at timestamp);
    create table teams (id uuid primary key, org_id bigint, deleted_at timestamp);
    create table team_members (
      team_id uuid, person_id bigint, role text not null, deleted_at timestamp,
      primary key (team_id, person_id)
    );
    create table orgs (id bigint primary key, suspended boolean not null default false);
    create table org_admins (org_id bigint, person_id bigint, primary key (org_id, person_id));
    create table bans (person_id bigint primary key, lifted_at timestamp);
    create table votes (team_id uuid, person_id bigint, points bigint)
"""
_people = table(
    "people", column("id", BigInteger), column("supabase_id", Text), column("deleted_at", DateTime)
)
_teams = table(
    "teams", column("id", Uuid), column("org_id", BigInteger), column("deleted_at", DateTime)
)
_members = table(
    "team_members",
    column("team_id", Uuid),
    column("person_id", BigInteger),
    column("role", Text),
    column("deleted_at", DateTime),
)
_orgs = table("orgs", column("id", BigInteger), column("suspended"))
_admins = table("org_admins", column("org_id", BigInteger), column("person_id", BigInteger))
_bans = table("bans", column("person_id", BigInteger), column("lifted_at", DateTime))
_votes = table(
    "votes",
    column("team_id", Uuid),
    column("person_id", BigInteger),
    column("points", BigInteger),
)

# As docs/capture.md translates them.
A_UUID: Final = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
auth_id = case((_people.c.supabase_id.regexp_match(A_UUID), cast(_people.c.supabase_id, Uuid)))
of_person = _people.c.id == _members.c.person_id

people = Mapping(
    name="people",
    table="people",
    key=("id",),
    columns=(Column("id", "uuid"),),
    query=select(auth_id.label("id"), _people.c.id.label("own_id")).where(
        auth_id.is_not(None), _people.c.deleted_at.is_(None)
    ),
    references=(Reference("own_id", "bigint", table="people"),),
)
teams = Mapping(
    name="teams",
    table="teams",
    key=("id",),
    columns=(Column("id", "uuid"),),
    query=select(_teams.c.id).where(_teams.c.deleted_at.is_(None)),
)
team_members = Mapping(
    name="team_members",
    table="team_members",
    key=("team_id", "user_id"),
    columns=(Column("team_id", "uuid"), Column("user_id", "uuid"), Column("role", "text")),
    query=select(
        _members.c.team_id,
        auth_id.label("user_id"),
        _members.c.role,
        _members.c.person_id.label("own_user_id"),
    )
    .join(_people, of_person)
    .where(auth_id.is_not(None), _members.c.deleted_at.is_(None)),
    references=(Reference("own_user_id", "bigint", table="people"),),
    parents=(Parent("teams", "team_id"), Parent("people", "user_id")),
)
registry = Registry(
    "translated",
    [people, teams, team_members],
    access=[
        Membership(
            mapping="team_members",
            resource="team_id",
            user="user_id",
            role="role",
            levels=("MEMBER", "OWNER"),
            noun="team",
        )
    ],
)


@pytest.fixture(scope="module")
def databases(
    primary_cluster: PostgresCluster, target_cluster: PostgresCluster, project_template: str
) -> Iterator[tuple[TestDatabase, TestDatabase]]:
    """Both databases, migrated."""
    name = "translated"
    primary_cluster.create_database(name)
    target_cluster.create_database(name, template=project_template, owner="postgres")
    primary = TestDatabase(primary_cluster.url(name))
    target = TestDatabase(target_cluster.url(name, user="postgres"))
    primary.query(TABLES)
    with primary.migrating() as connection:
        upgrade(connection, "primary", registry, triggers=True)
    with target.migrating() as connection:
        upgrade(connection, "supabase", registry)
    yield primary, target
    primary_cluster.drop_database(name)
    target_cluster.drop_database(name)


@pytest.fixture(scope="module")
def drain(databases: tuple[TestDatabase, TestDatabase]) -> Iterator[Drain]:
    """A worker's drain between the two."""
    settings = load_settings(
        primary_database_url=databases[0].url, supabase_db_url=databases[1].url
    )
    with closing(build_drain(settings, registry)) as drain:
        yield drain


@pytest.fixture(scope="module")
def database(databases: tuple[TestDatabase, TestDatabase]) -> Iterator[Database]:
    """The primary, as explain reads it."""
    with closing(Database(databases[0].url, role="primary")) as database:
        yield database


NUMBERS = count(1, 10)


@pytest.fixture
def names() -> dict[str, Any]:
    """A user {u} whose own id is {p}, a team {t} of org {o}, and others."""
    number = next(NUMBERS)
    ids: dict[str, Any] = {name: uuid4() for name in "utxy"}
    return ids | {"p": number, "q": number + 1, "o": number + 2, "n": number + 3}


def plant(primary: TestDatabase, statements: str, names: dict[str, Any]) -> None:
    """Run statements on the primary, in which names stand for ids."""
    texts = {
        name: str(value) if isinstance(value, int) else f"'{value}'"
        for name, value in names.items()
    }
    primary.query(statements.format(**texts))


PERSON: Final = "insert into people values ({p}, {u}), ({q}, {x});"
TEAM: Final = "insert into teams values ({t}, {o}), ({y}, {n});"
BOTH: Final = PERSON + TEAM
MEMBER: Final = BOTH + "insert into team_members values ({t}, {p}, 'OWNER');"
THE_ROW: Final = "has the row, but it does not satisfy the condition "
THE_ROWS: Final = "have the rows, but they do not satisfy the condition "
NO_MEMBER: Final = (
    "people has the row, but team_members has no row with team_members.team_id = '{t}' and"
    " people.id = team_members.person_id"
)
NO_PERSON: Final = "people has no row with user_id = '{u}' (computed from people.supabase_id)"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (BOTH, "team_members has no row with team_members.team_id = '{t}'"),
        (BOTH + "insert into team_members values ({t}, {q}, 'OWNER');", NO_MEMBER),
        (
            BOTH + "insert into team_members values ({t}, {q}, 'OWNER'), ({y}, {p}, 'OWNER');",
            NO_MEMBER,
        ),
        (
            BOTH
            + "insert into team_members values ({t}, {q}, 'OWNER', null);"
            + "insert into team_members values ({t}, {p}, 'OWNER', now());",
            "team_members " + THE_ROW + "team_members.deleted_at IS NULL",
        ),
        (
            BOTH + "insert into team_members values ({t}, {p}, 'OWNER', now());",
            "team_members " + THE_ROW + "team_members.deleted_at IS NULL",
        ),
        (TEAM + "insert into team_members values ({t}, {q}, 'OWNER');", NO_PERSON),
        (
            TEAM + "insert into people values ({p}); insert into team_members values"
            " ({t}, {p}, 'OWNER');",
            NO_PERSON,
        ),
        (
            TEAM + "insert into people values ({p}, 'auth0|{p}'); insert into team_members values"
            " ({t}, {p}, 'OWNER');",
            NO_PERSON,
        ),
        (
            MEMBER + "update people set deleted_at = now() where id = {p};",
            "its parent people {u} does not: people " + THE_ROW + "people.deleted_at IS NULL",
        ),
        (
            MEMBER + "update teams set deleted_at = now() where id = {t};",
            "its parent teams {t} does not: teams " + THE_ROW + "teams.deleted_at IS NULL",
        ),
        (
            MEMBER + "delete from teams where id = {t};",
            "its parent teams {t} does not: teams has no row with teams.id = '{t}'",
        ),
        (
            MEMBER + "update team_members set role = 'GUEST' where team_id = {t};",
            "its level is GUEST, which is not one of MEMBER, OWNER",
        ),
        (MEMBER + "delete from team_members where team_id = {t};", "team_members has no row"),
        (MEMBER, None),
    ],
)
def test_a_user_with_an_own_id_in_the_primary_is_followed(
    databases: tuple[TestDatabase, TestDatabase],
    drain: Drain,
    names: dict[str, Any],
    rows: str,
    says: str | None,
) -> None:
    """From Auth's id to the own id to the membership, and from the team to it."""
    plant(databases[0], rows, names)
    assert drain.run().failed == 0
    page = explained(drain, names)
    if says is None:
        assert page.exit_code == 0, page
        return
    assert page.first is not None
    assert (page.first.name, page.allowed) == ("primary", False)
    assert says.format(**names) in page.first.says


def test_a_mapping_that_is_declared_unreadable_is_no_fault(
    databases: tuple[TestDatabase, TestDatabase], drain: Drain, names: dict[str, Any]
) -> None:
    """The row is in the target, and no user may read it."""
    plant(databases[0], MEMBER, names)
    drain.run()
    page = explain_key(drain, registry["teams"], (str(names["t"]),), str(names["u"]))
    assert (page.allowed, page.primary_grants) == (False, True)
    assert page.first is not None
    assert page.first.status is StepStatus.NO
    assert page.first.says == "teams: no user may read it, as declared: it has no `readable`."


def explained(drain: Drain, names: dict[str, Any]) -> Explanation:
    """Explain the user's access to the team."""
    question = question_about(registry, "team")
    return explain_resource(drain, question, str(names["u"]), str(names["t"]))


def mapping(query: SelectQuery) -> Mapping:
    """Return a mapping of users in teams."""
    return Mapping(
        name="made",
        table="made",
        key=("team_id", "user_id"),
        columns=(Column("team_id", "uuid"), Column("user_id", "uuid")),
        query=query,
    )


_of_team = select(_members.c.team_id, auth_id.label("user_id")).join(_people, of_person)
_of_org = (
    select(_teams.c.id.label("team_id"), auth_id.label("user_id"))
    .join(_orgs, _orgs.c.id == _teams.c.org_id)
    .join(_admins, _admins.c.org_id == _orgs.c.id)
    .join(_people, _people.c.id == _admins.c.person_id)
)
_not_banned = _of_team.outerjoin(_bans, _bans.c.person_id == _people.c.id).where(
    _bans.c.person_id.is_(None)
)
_pardoned = _of_team.outerjoin(_bans, _bans.c.person_id == _people.c.id).where(
    _bans.c.lifted_at.is_not(None)
)
_voted = (
    select(_votes.c.team_id, auth_id.label("user_id"))
    .join(_people, _people.c.id == _votes.c.person_id)
    .group_by(_votes.c.team_id, auth_id)
    .having(func.sum(_votes.c.points) >= 10)
)
_grouped = _voted.subquery("voted")
_inside = (
    select(_grouped.c.team_id, _grouped.c.user_id)
    .join(_teams, _teams.c.id == _grouped.c.team_id)
    .where(_teams.c.deleted_at.is_(None))
)
_any = union_all(
    _of_team.where(_members.c.deleted_at.is_(None)), _of_org.where(_orgs.c.suspended.is_(False))
)
_one_of_two = _any.subquery("rights")
_boss = _people.alias("boss")
_aliased = (
    select(_members.c.team_id, auth_id.label("user_id"))
    .join(_people, of_person)
    .join(_boss, and_(_boss.c.id == _people.c.id + 1, _boss.c.deleted_at.is_(None)))
)
MEMBERSHIP: Final = "insert into team_members values ({t}, {p}, 'x');"
ADMIN: Final = "insert into orgs values ({o}), ({n}); insert into org_admins values ({o}, {p});"
ELSEWHERE: Final = "insert into orgs values ({o}), ({n}); insert into org_admins values ({n}, {p});"
NO_ADMIN: Final = "org_admins has no row with"


@pytest.mark.parametrize(
    ("query", "rows", "says"),
    [
        # Joins of four tables.
        (_of_org, PERSON, ["teams has no row with teams.id = '{t}'"]),
        (_of_org, BOTH, ["teams has the row, but orgs has no row with orgs.id = teams.org_id"]),
        (
            _of_org,
            BOTH + "insert into orgs values ({o})",
            ["teams, orgs have the rows, but org_admins has no row with org_admins.org_id ="],
        ),
        (_of_org, BOTH + ELSEWHERE, ["but " + NO_ADMIN]),
        (_of_org, BOTH + ELSEWHERE + "insert into org_admins values ({o}, {q})", [NO_ADMIN]),
        (_of_org, TEAM + ADMIN, [NO_PERSON]),
        (
            _of_org.where(_orgs.c.suspended.is_(False)),
            BOTH + ADMIN + "update orgs set suspended = true where id = {o}",
            ["orgs " + THE_ROW + "orgs.suspended IS false"],
        ),
        (
            _of_org.where(_orgs.c.suspended.is_(False), _people.c.deleted_at.is_(None)),
            BOTH
            + ADMIN
            + "update orgs set suspended = true where id = {o};"
            + "update people set deleted_at = now() where id = {p}",
            ["orgs.suspended IS false and people.deleted_at IS NULL"],
        ),
        # Outer joins.
        (
            _not_banned,
            BOTH + MEMBERSHIP + "insert into bans values ({p})",
            ["people, bans " + THE_ROWS + "bans.person_id IS NULL"],
        ),
        (
            _pardoned,
            BOTH + MEMBERSHIP,
            ["but bans has no row with bans.person_id = people.id"],
        ),
        (
            _pardoned,
            BOTH + MEMBERSHIP + "insert into bans values ({p})",
            ["people, bans " + THE_ROWS + "bans.lifted_at IS NOT NULL"],
        ),
        (_not_banned, BOTH, ["team_members has no row"]),
        # Unions, as the whole query and inside of it.
        (_any, BOTH, ["team_members has no row", "orgs has no row"]),
        (
            _any,
            BOTH + MEMBERSHIP + ADMIN + "update team_members set deleted_at = now();"
            "update orgs set suspended = true where id = {o}",
            ["team_members.deleted_at IS NULL", "orgs.suspended IS false"],
        ),
        (
            select(_one_of_two.c.team_id, _one_of_two.c.user_id),
            BOTH + ELSEWHERE,
            ["team_members has no row", NO_ADMIN],
        ),
        (
            intersect(_of_team, _of_org),
            BOTH + MEMBERSHIP + ELSEWHERE,
            [NO_ADMIN],
        ),
        (
            _of_team.except_(_of_org),
            BOTH + MEMBERSHIP + ADMIN,
            ["EXCEPT of the query drops the row"],
        ),
        (
            union_all(
                _of_team.where(literal("a") == "b"),
                _of_org,
            ),
            BOTH + ADMIN.replace("{o}, {p}", "{n}, {p}") + MEMBERSHIP,
            ["condition 'a' = 'b'", NO_ADMIN],
        ),
        # Groups, as the whole query and inside of it.
        (_voted, BOTH, ["votes has no row with votes.team_id = '{t}'"]),
        (
            _voted,
            BOTH + "insert into votes values ({t}, {p}, 4), ({t}, {p}, 5)",
            ["votes " + THE_ROW + "sum(votes.points) >= 10"],
        ),
        (
            _inside,
            BOTH + "insert into votes values ({t}, {p}, 4)",
            ["sum(votes.points) >= 10"],
        ),
        (
            _inside,
            BOTH
            + "insert into votes values ({t}, {p}, 14);"
            + "update teams set deleted_at = now() where id = {t}",
            ["teams " + THE_ROW + "teams.deleted_at IS NULL"],
        ),
        # Subqueries and two occurrences of one table.
        (
            _of_team.where(exists().where(_admins.c.person_id == _people.c.id)),
            BOTH + MEMBERSHIP,
            ["but org_admins has no row with org_admins.person_id = people.id"],
        ),
        (
            _of_team.where(_people.c.id.in_(select(_admins.c.person_id))),
            BOTH + MEMBERSHIP,
            ["but org_admins has no row with people.id = org_admins.person_id"],
        ),
        (
            _of_team.where(~exists().where(_bans.c.person_id == _people.c.id)),
            BOTH + MEMBERSHIP + "insert into bans values ({p})",
            ["people " + THE_ROW + "NOT (EXISTS"],
        ),
        (
            _of_team.where(or_(_members.c.role == "a", _people.c.deleted_at.is_not(None))),
            BOTH + MEMBERSHIP,
            ["team_members.role = 'a' OR people.deleted_at IS NOT NULL"],
        ),
        (
            _aliased,
            BOTH + MEMBERSHIP + "update people set deleted_at = now() where id = {q}",
            ["people as boss " + THE_ROW + "boss.deleted_at IS NULL"],
        ),
        (
            _aliased,
            "insert into people values ({p}, {u});" + TEAM + MEMBERSHIP,
            ["people as boss has no row with boss.id = people.id + 1"],
        ),
    ],
)
def test_the_row_or_condition_is_named_for_each_kind_of_query(
    databases: tuple[TestDatabase, TestDatabase],
    database: Database,
    names: dict[str, Any],
    query: SelectQuery,
    rows: str,
    says: list[str],
) -> None:
    """Joins of several tables, outer joins, unions and groups."""
    plant(databases[0], rows, names)
    values = {"team_id": str(names["t"]), "user_id": str(names["u"])}
    found = [str(one) for one in missing_row_reasons(database, mapping(query), values)]
    assert len(found) == len(says), found
    for one, wanted in zip(found, says, strict=True):
        assert wanted.format(**names) in one


def test_a_row_that_is_there_has_no_reason(
    databases: tuple[TestDatabase, TestDatabase], database: Database, names: dict[str, Any]
) -> None:
    """It may have come since the query did not yield it."""
    plant(databases[0], BOTH + MEMBERSHIP, names)
    values = {"team_id": str(names["t"]), "user_id": str(names["u"])}
    assert missing_row_reasons(database, mapping(_of_team), values) == []
