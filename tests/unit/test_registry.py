"""Registries: a declaration that cannot work is refused; the message names mapping and remedy."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    BigInteger,
    Date,
    DateTime,
    Enum,
    Sequence,
    Table,
    Text,
    Uuid,
    bindparam,
    case,
    cast,
    column,
    exists,
    func,
    literal_column,
    select,
    table,
    text,
    true,
    tuple_,
    union,
    union_all,
)
from sqlalchemy.orm import aliased

from examples.trip_chat.models import Membership, Trip
from mappings.trips import registry as trips
from mirror.errors import ConfigError, MappingError
from mirror.model.mapping import Column, Mapping, Parent, Readable, Reference
from mirror.model.registry import Registry, load_registry

SEAT = table(
    "seats",
    column("id", BigInteger),
    column("team_id", BigInteger),
    column("boss_id", BigInteger),
    column("role", Text),
    column("until", DateTime),
)
TEAM = table("teams", column("id", BigInteger), column("archived", BigInteger), schema="app")
SEATS = Mapping(
    name="seats",
    table="seats",
    key=("id",),
    columns=(Column("id", "bigint"), Column("role", "text")),
    query=select(SEAT.c.id, SEAT.c.role),
)
TEAMS = Mapping(
    name="teams",
    table="teams",
    key=("id",),
    columns=(Column("id", "bigint"),),
    query=select(TEAM.c.id),
)


def seats(**changes: Any) -> Mapping:
    """Return a valid mapping with `changes`."""
    return replace(SEATS, **changes)


def refused(*mappings: Mapping) -> str:
    """Return the message with which a registry refuses mappings."""
    with pytest.raises(MappingError) as caught:
        Registry("some", mappings)
    return str(caught.value)


def test_a_valid_declaration_is_accepted() -> None:
    """Otherwise the refusals below would prove nothing."""
    assert [m.name for m in Registry("some", [SEATS, TEAMS])] == ["seats", "teams"]
    assert [m.name for m in trips][-1] == "trip_memberships"


def test_a_registry_looks_its_mappings_up_by_name() -> None:
    """For an unknown name, the error lists the declared ones."""
    registry = Registry("some", [SEATS, TEAMS])
    assert registry["seats"] is SEATS
    assert "seats" in registry
    assert "chairs" not in registry
    with pytest.raises(
        MappingError,
        match=r"mapping 'chairs' is not declared in registry 'some' \(declared: seats, teams\)",
    ):
        registry["chairs"]
    with pytest.raises(MappingError, match="declared: none"):
        Registry("empty", [])["seats"]


def test_parents_come_before_their_children_in_any_order_of_declaration() -> None:
    """The drain applies in this order, and deletes in the reverse order."""
    columns = (*SEATS.columns, Column("team_id", "bigint"))
    query = select(SEAT.c.id, SEAT.c.role, SEAT.c.team_id)
    child = seats(columns=columns, query=query, parents=(Parent("teams", "team_id"),))
    registry = Registry("some", [child, TEAMS])
    assert [m.name for m in registry] == ["teams", "seats"]
    assert registry.children(TEAMS) == ((child, Parent("teams", "team_id")),)
    assert registry.children(child) == ()


@pytest.mark.parametrize("name", ["Seats", "1seats", "se-ats", "s" * 41, "", 'x"; drop'])
def test_names_are_plain(name: str) -> None:
    """They are parts of the names of functions and tables."""
    assert "lower-case letters, digits" in refused(seats(name=name))
    with pytest.raises(MappingError, match="lower-case letters, digits"):
        Registry(name, [])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"key": ()}, "it has no key; name the columns"),
        ({"key": "slug"}, "its key is a text; write a tuple: ('slug',)"),
        ({"key": ("id", "id")}, "its key names a column twice; remove one"),
        ({"key": ("nr",)}, "key names 'nr', which is not among its columns; add it"),
        ({"active": {"state": {"A"}}}, "active names 'state', which is not among its columns"),
        ({"active": {"role": "ACTIVE"}}, "active['role'] is 'ACTIVE'; give the set of values"),
        ({"active": {"role": frozenset()}}, "give the set of values"),
        (
            {"readable": Readable(("id", "secret"), "true")},
            "readable names 'secret', which is not among its columns",
        ),
        ({"columns": (*SEATS.columns, SEATS.columns[0])}, "a column is declared twice; remove one"),
        (
            {"columns": (Column("id", "numeric"), Column("role", "text"))},
            "'id' is numeric, but keys and references are one of uuid, text, smallint",
        ),
        ({"references": (Reference("team_id", "date"),)}, "'team_id' is date, but keys"),
        (
            {"columns": (*SEATS.columns, Column("team_id", "bigint"))},
            "its query yields no 'team_id'; add that column, or .label('team_id')",
        ),
        ({"references": (Reference("team_id", "bigint"),)}, "its query yields no 'team_id'"),
        ({"references": (Reference("role", "uuid"),)}, "'role' is text as a column and uuid as a"),
        (
            {"references": (Reference("role", "text"), Reference("role", "text"))},
            "reference 'role' is declared twice; remove one",
        ),
        ({"references": (Reference("*", "text"),)}, "reference '*': use a name"),
        ({"references": (Reference("lane", "text"),)}, "not lane, which is a parameter"),
        (
            {"parents": (Parent("teams", "team_id"),)},
            "parent column 'team_id' is not among its columns; add it",
        ),
        (
            {"parents": (Parent("companies", "id"),)},
            "its parent 'companies' is not declared; add that mapping to registry 'some', or drop",
        ),
        ({"parents": (Parent("teams", "role"),)}, "a parent's key must be one column of the same"),
        ({"parents": (Parent("seats", "id"),)}, "its parents form a cycle (seats → seats)"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused(change: dict[str, Any], expected: str) -> None:
    """The message names the mapping and the remedy."""
    message = refused(seats(**change), TEAMS)
    assert message.startswith("mapping 'seats': ")
    assert expected in message


def test_a_parent_has_a_key_of_one_column() -> None:
    """A foreign key with one column could not refer to two."""
    pairs = replace(
        TEAMS,
        key=("id", "archived"),
        columns=(Column("id", "bigint"), Column("archived", "bigint")),
        query=select(TEAM.c.id, TEAM.c.archived),
    )
    assert "column 'id' cannot point at parent 'teams'" in refused(
        seats(parents=(Parent("teams", "id"),)), pairs
    )


def test_two_mappings_have_two_names() -> None:
    """Events contain the name."""
    assert refused(SEATS, seats(table="x")) == (
        "mapping 'seats' is declared twice in registry 'some'; rename one of them."
    )


def test_two_mappings_have_two_tables() -> None:
    """Each would delete the other's rows. A table of another schema may have the same name."""
    assert "another mapping writes public.seats, too" in refused(SEATS, seats(name="chairs"))
    Registry("some", [SEATS, seats(name="chairs", schema="app")])


def test_parents_in_a_circle_are_named() -> None:
    """In no order would each parent be first."""
    one = seats(parents=(Parent("teams", "id"),))
    other = replace(TEAMS, parents=(Parent("seats", "id"),))
    message = refused(one, other)
    assert "form a cycle" in message
    assert "remove one of these parents" in message


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        (SEAT.c.until > func.now(), "now"),
        (SEAT.c.until > func.current_timestamp(), "CURRENT_TIMESTAMP"),
        (SEAT.c.until > func.CURRENT_DATE(), "current_date"),
        (SEAT.c.until > func.localtimestamp(), "localtimestamp"),
        (SEAT.c.until > func.pg_catalog.clock_timestamp(), "clock_timestamp"),
        (func.random() > 0.5, "random"),
        (SEAT.c.role == func.current_setting("app.role"), "current_setting"),
        (SEAT.c.role == func.current_user(), "current_user"),
        (func.age(SEAT.c.until) > text("interval '1 day'"), "age"),
        (SEAT.c.id < Sequence("numbers").next_value(), "next_value"),
        (SEAT.c.until > text("now ()"), "now"),
        (text("until > CURRENT_TIMESTAMP"), "CURRENT_TIMESTAMP"),
        (SEAT.c.until > literal_column("now()"), "now"),
        (func.coalesce(SEAT.c.until, func.greatest(func.now())) > SEAT.c.until, "now"),
        (SEAT.c.id.in_(select(SEAT.c.id).where(SEAT.c.until > func.now())), "now"),
        (case((SEAT.c.until > func.now(), 1), else_=0) == 1, "now"),
    ],
    ids=str,
)
def test_a_query_depends_on_rows_only(condition: Any, found: str) -> None:
    """Equal fences must mean equal data: no clock, no chance, no settings, at any depth."""
    message = refused(seats(query=select(SEAT.c.id, SEAT.c.role).where(condition)))
    assert f"its query depends on {found.lower()}, not on rows alone" in message.lower()
    assert "Mirror the column and compare it in the policy" in message


@pytest.mark.parametrize(
    "condition",
    [
        SEAT.c.role == "now",
        text("role <> 'current_user'"),
        text('"user" is null'),
        func.knower(SEAT.c.role) == 1,
        text("until is distinct from null"),
        func.lower(SEAT.c.role) == "a",
        column("user") == 1,
    ],
    ids=str,
)
def test_words_that_only_look_like_the_clock_are_accepted(condition: Any) -> None:
    """Values, quoted names and parts of names do not read the clock."""
    Registry("some", [seats(query=select(SEAT.c.id, SEAT.c.role).where(condition))])


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (select(SEAT.c.id, SEAT.c.role).limit(5), "has a LIMIT"),
        (select(SEAT.c.id, SEAT.c.role).order_by(SEAT.c.id).limit(5), "has a LIMIT"),
        (select(SEAT.c.id, SEAT.c.role).offset(5), "has an OFFSET"),
        (select(SEAT.c.id, SEAT.c.role).fetch(5), "has a FETCH"),
        (
            union(select(SEAT.c.id, SEAT.c.role), select(SEAT.c.id, SEAT.c.role)).limit(1),
            "has a LIMIT",
        ),
        (
            select(SEAT.c.id, select(SEAT.c.role).limit(1).scalar_subquery().label("role")),
            "LIMIT without ORDER BY",
        ),
        (select(SEAT.c.id, SEAT.c.role).with_for_update(), "its query locks rows"),
        (select(SEAT.c.id, SEAT.c.role).where(SEAT.c.id == bindparam("x")), "parameter 'x' has no"),
        (
            select(SEAT.c.id, SEAT.c.role).where(func.odd(bindparam("x", object())) == 1),
            "cannot be printed",
        ),
        (text("select id, role from seats"), "its query is a TextClause; use SQLAlchemy's select"),
        (SEAT, "its query is a TableClause"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_query_with_an_unsuitable_shape_is_refused(query: Any, expected: str) -> None:
    """Rows alone decide its result, and it can be printed and read."""
    message = refused(seats(query=query))
    assert message.startswith("mapping 'seats': ")
    assert expected in message


def test_a_random_sample_is_refused() -> None:
    """TABLESAMPLE is not a function call, but it is random, too."""
    sample = SEAT.tablesample(func.system(50))
    assert "TABLESAMPLE" in refused(seats(query=select(sample.c.id, sample.c.role)))


JOIN = SEAT.join(TEAM, TEAM.c.id == SEAT.c.team_id)
ALIAS = TEAM.alias("t")
SUBQUERY = select(TEAM.c.id).where(TEAM.c.archived == 0).subquery()
CTE = select(TEAM.c.id).where(TEAM.c.archived == 0).cte("open")
PLAIN = select(SEAT.c.id, SEAT.c.role, SEAT.c.team_id)
READS_TEAMS = {
    "join": PLAIN.select_from(JOIN).where(TEAM.c.archived == 0),
    "comma": PLAIN.where(TEAM.c.id == SEAT.c.team_id),
    "alias": PLAIN.where(ALIAS.c.id == SEAT.c.team_id),
    "subquery": PLAIN.where(SUBQUERY.c.id == SEAT.c.team_id),
    "cte": PLAIN.where(CTE.c.id == SEAT.c.team_id),
    "in": PLAIN.where(SEAT.c.team_id.in_(select(TEAM.c.id))),
    "exists": PLAIN.where(exists().where(TEAM.c.id == SEAT.c.team_id)),
    "not exists": PLAIN.where(~exists(select(TEAM.c.id).where(TEAM.c.id == SEAT.c.team_id))),
    "scalar": select(
        SEAT.c.id,
        select(func.max(TEAM.c.archived)).scalar_subquery().label("role"),
        SEAT.c.team_id,
    ),
    "lateral": PLAIN.select_from(
        SEAT.join(select(TEAM.c.id).where(TEAM.c.id == SEAT.c.team_id).lateral(), true())
    ),
    "union": union_all(PLAIN, PLAIN.where(exists().where(TEAM.c.id == SEAT.c.team_id))),
    "nested union": union(PLAIN, union_all(PLAIN, PLAIN.select_from(JOIN))),
    "case": select(
        SEAT.c.id,
        case((exists().where(TEAM.c.id == SEAT.c.team_id), "A"), else_="B").label("role"),
        SEAT.c.team_id,
    ),
}


@pytest.mark.parametrize("form", READS_TEAMS)
def test_each_table_that_a_query_reads_needs_a_reference(form: str) -> None:
    """A change of one of its rows must lead to keys, however the query reads the table."""
    query = READS_TEAMS[form]
    message = refused(seats(query=query))
    assert "its query reads 'app.teams', but no reference leads to that table" in message
    assert "Declare Reference(<label>, <type>, table='app.teams')" in message
    Registry(
        "some",
        [seats(query=query, references=(Reference("team_id", "bigint", table="app.teams"),))],
    )


@pytest.mark.parametrize(
    "condition",
    [
        text("exists (select 1 from bans where bans.id = seats.id)"),
        literal_column("(SELECT archived FROM teams LIMIT 1)") == 0,
    ],
)
def test_a_table_inside_text_is_refused(condition: Any) -> None:
    """The name of the table is unknown."""
    assert "reads a table inside text()" in refused(
        seats(query=select(SEAT.c.id, SEAT.c.role).where(condition))
    )


def test_a_table_named_by_text_is_refused() -> None:
    """The text is the FROM element itself."""
    query: Any = select(literal_column("id").label("id"), literal_column("role").label("role"))
    assert "reads a table inside text()" in refused(seats(query=query.select_from(text("seats"))))


BOSS = SEAT.alias("boss")


@pytest.mark.parametrize(
    "query",
    [
        select(SEAT.c.id, BOSS.c.role, SEAT.c.boss_id).where(BOSS.c.id == SEAT.c.boss_id),
        select(SEAT.c.id, SEAT.c.role, SEAT.c.boss_id).where(
            exists().where(BOSS.c.id == SEAT.c.boss_id, BOSS.c.role == "A")
        ),
        select(SEAT.c.id, BOSS.c.role, SEAT.c.boss_id).select_from(
            SEAT.outerjoin(BOSS, BOSS.c.id == SEAT.c.boss_id)
        ),
    ],
    ids=["comma", "exists", "join"],
)
def test_a_table_that_is_joined_with_itself_needs_a_reference(query: Any) -> None:
    """The key names one of the two rows; a change of the other one must lead to the key, too."""
    assert "its query reads 'seats' more than once" in refused(seats(query=query))
    reference = Reference("boss_id", "bigint", table="seats")
    Registry("some", [seats(query=query, references=(reference,))])


def test_a_table_holds_the_key_in_its_own_branch_of_a_union_only() -> None:
    """In the other branch its rows lead to other keys."""
    other = select(TEAM.c.id, literal_column("'OWNER'").label("role"))
    Registry("some", [seats(query=union_all(select(SEAT.c.id, SEAT.c.role), other))])
    tied = other.where(exists().where(SEAT.c.team_id == TEAM.c.id))
    Registry("some", [seats(query=union_all(select(SEAT.c.id, SEAT.c.role), tied))])
    tied = other.where(exists().where(SEAT.c.team_id > TEAM.c.id))
    assert "reads 'seats', but no reference" in refused(
        seats(query=union_all(select(SEAT.c.id, SEAT.c.role), tied))
    )


def test_a_key_may_be_cast_and_pass_through_a_subquery() -> None:
    """The message for a wrong key type recommends it."""
    inner = select(SEAT.c.id, SEAT.c.role).subquery()
    columns = (Column("id", "text"), Column("role", "text"))
    query = select(cast(inner.c.id, Text).label("id"), inner.c.role)
    Registry("some", [seats(columns=columns, query=query)])


def test_a_computed_key_is_refused() -> None:
    """A changed row would not contain its key."""
    query = select(func.coalesce(SEAT.c.id, SEAT.c.team_id).label("id"), SEAT.c.role)
    assert "its query reads 'seats', but no reference" in refused(seats(query=query))


def test_a_composite_key_comes_from_the_table_that_contains_all_of_it() -> None:
    """A table with half of the key names no single row."""
    pair = tuple_(SEAT.c.id, SEAT.c.team_id)
    query = select(SEAT.c.id, SEAT.c.team_id, SEAT.c.role).where(pair.is_not(None))
    columns = (Column("id", "bigint"), Column("team_id", "bigint"), Column("role", "text"))
    Registry("some", [seats(key=("id", "team_id"), columns=columns, query=query)])
    half = select(SEAT.c.id, TEAM.c.id.label("team_id"), SEAT.c.role).select_from(JOIN)
    message = refused(seats(key=("id", "team_id"), columns=columns, query=half))
    assert "its query reads 'app.teams', but no reference" in message


def test_orm_models_and_tables_work_as_core_tables_do() -> None:
    """A backend need not declare its tables twice."""
    membership = aliased(Membership)
    assert isinstance(Membership.__table__, Table)
    for source in (Membership, membership):
        mapping = Mapping(
            name="trip_memberships",
            table="trip_memberships",
            key=("trip_id", "user_id"),
            columns=(
                Column("trip_id", "uuid"),
                Column("user_id", "uuid"),
                Column("role", "text"),
            ),
            query=select(
                source.trip_id, source.user_id, cast(source.role, Text).label("role")
            ).where(source.deleted_at.is_(None)),
        )
        assert Registry("some", [mapping])["trip_memberships"].digest
        joined = replace(
            mapping,
            query=mapping.query.join(Trip, Trip.id == source.trip_id),  # type: ignore[union-attr]
        )
        assert "its query reads 'trips', but no reference" in refused(joined)
        tied = replace(joined, references=(Reference("trip_id", "uuid", table="trips"),))
        assert Registry("some", [tied])


def test_an_orm_enum_in_the_query_is_printed() -> None:
    """The literal is printed without a database."""
    t = table("t", column("id", Uuid), column("state", Enum("ON", "OFF", name="state")))
    mapping = Mapping(
        name="t",
        table="t",
        key=("id",),
        columns=(Column("id", "uuid"), Column("state", "text")),
        query=select(t.c.id, t.c.state).where(t.c.state.in_(["ON"])),
    )
    assert "IN ('ON')" in Registry("some", [mapping])["t"].sql


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, r"does not import \(ModuleNotFoundError: No module named"),
        ("import nowhere_to_be_found", r"does not import \(ModuleNotFoundError"),
        ("1 / 0", r"does not import \(ZeroDivisionError: division by zero\)"),
        ("def (", r"does not import \(SyntaxError"),
        ("", "holds no Registry"),
        ("registry = []", "holds no Registry"),
    ],
)
def test_a_module_without_a_registry_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, expected: str
) -> None:
    """The message names the setting MIRROR_MAPPINGS."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    if content is not None:
        (tmp_path / "broken_mappings.py").write_text(content)
    monkeypatch.delitem(sys.modules, "broken_mappings", raising=False)
    with pytest.raises(ConfigError, match=f"'broken_mappings' {expected}") as caught:
        load_registry("broken_mappings")
    assert "MIRROR_MAPPINGS must name an importable module with a `registry`" in str(caught.value)


@pytest.mark.parametrize("name", ["", ".relative"])
def test_an_invalid_module_name_is_an_error_of_the_setting(name: str) -> None:
    """It is not an error of importlib."""
    with pytest.raises(ConfigError, match="MIRROR_MAPPINGS must name an importable module"):
        load_registry(name)


def test_a_declaration_that_cannot_work_keeps_its_message_through_the_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message already names the mapping or the registry."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "circular_mappings.py").write_text(
        "from mirror import Registry\nregistry = Registry('Bad Name', [])"
    )
    with pytest.raises(MappingError, match="registry 'Bad Name'"):
        load_registry("circular_mappings")


@pytest.mark.parametrize("name", ["fence", "present", "stale", "p_id", "later_scopes", "ref_id"])
def test_a_column_named_like_the_printed_functions_variables_is_refused(name: str) -> None:
    """The name would be ambiguous in the function, at the first write."""
    message = refused(
        seats(
            columns=(Column("id", "bigint"), Column(name, "text")),
            query=select(SEAT.c.id, SEAT.c.role.label(name)),
        )
    )
    assert f"{name!r}" in message
    assert ".label()" in message


_UNTIL = SEAT.c.until.label("until")
_ZONED = func.timezone("UTC", SEAT.c.until).label("until")


def expiring(query: Any, type_: str = "timestamptz") -> Mapping:
    """Return a mapping whose rows expire by the query's column `until`."""
    columns = (Column("id", "bigint"), Column("until", type_))
    return seats(columns=columns, query=query, expires="until")


@pytest.mark.parametrize(
    "query",
    [
        select(SEAT.c.id, _UNTIL),
        select(SEAT.c.id, cast(SEAT.c.until, Date).label("until")),
        union_all(select(SEAT.c.id, _ZONED), select(SEAT.c.id, _UNTIL)),
    ],
)
def test_an_expiry_without_a_time_zone_is_refused(query: Any) -> None:
    """It would be read as UTC without a word; the message says how to give it a zone."""
    message = refused(expiring(query))
    assert "'until'" in message
    assert "AT TIME ZONE 'UTC'" in message


@pytest.mark.parametrize("type_", ["timestamp", "text"])
def test_an_expiry_is_declared_with_a_time_zone(type_: str) -> None:
    """The target's policies compare the column with now()."""
    message = refused(expiring(select(SEAT.c.id, _ZONED), type_))
    assert f"'until', which is {type_}" in message
    assert "AT TIME ZONE 'UTC'" in message


@pytest.mark.parametrize(
    "until",
    [
        _ZONED,
        cast(SEAT.c.until, DateTime(timezone=True)).label("until"),
        column("until", _selectable=SEAT),
    ],
)
def test_an_expiry_with_a_time_zone_or_of_an_unknown_type_is_accepted(until: Any) -> None:
    """The doctor asks the server for the types that SQLAlchemy does not know."""
    Registry("some", [expiring(select(SEAT.c.id, until))])
