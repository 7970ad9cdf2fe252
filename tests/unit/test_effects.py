"""What a change of a row means to the mappings, derived from their queries."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import (
    BigInteger,
    Boolean,
    Numeric,
    Select,
    Text,
    cast,
    column,
    except_,
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
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import aliased

from examples.trip_chat.models import Membership, User
from mappings.trips import registry as trips
from mirror.errors import MappingError
from mirror.model.mapping import EVERYTHING, Column, Mapping, Parent, Reference
from mirror.model.query.effects import Effect, effects
from mirror.model.registry import Registry
from tests.faults.teams import registry as teams

pytestmark = pytest.mark.fast

PEOPLE = table("people", column("id", BigInteger), column("auth_id", Text), column("name", Text))
TRIPS = table("trips", column("id", BigInteger), column("deleted", Boolean))
MEMBERS = table(
    "members",
    column("trip_id", BigInteger),
    column("person_id", BigInteger),
    column("role", Text),
    column("note", Text),
)
BANS = table("bans", column("trip_id", BigInteger), column("person_id", BigInteger))

# The primary's own id of a person is not the one that Supabase Auth gave.
TRANSLATED = Mapping(
    name="memberships",
    table="memberships",
    key=("trip_id", "user_id"),
    columns=(
        Column("trip_id", "bigint"),
        Column("user_id", "text"),
        Column("role", "text"),
        Column("note", "text", descriptive=True),
    ),
    query=select(
        MEMBERS.c.trip_id,
        PEOPLE.c.auth_id.label("user_id"),
        MEMBERS.c.role,
        MEMBERS.c.note,
        PEOPLE.c.id.label("person_id"),
    )
    .join(PEOPLE, PEOPLE.c.id == MEMBERS.c.person_id)
    .where(PEOPLE.c.auth_id.is_not(None)),
    references=(Reference("person_id", "bigint", table="people"),),
)
MEMBERSHIPS = replace(
    TRANSLATED,
    columns=(Column("trip_id", "bigint"), Column("person_id", "bigint"), Column("role", "text")),
    key=("trip_id", "person_id"),
    query=select(MEMBERS.c.trip_id, MEMBERS.c.person_id, MEMBERS.c.role),
    references=(),
)


def of(mapping: Mapping, source: str, **changes: Any) -> Effect:
    """Return the one effect that a table's rows have on a mapping."""
    (effect,) = effects(replace(mapping, **changes))[source]
    return effect


def named(effect: Effect) -> tuple[str | None, tuple[str, ...]]:
    """Return what a row names."""
    return effect.reference, effect.columns


def test_a_row_that_shows_the_key_names_it() -> None:
    """And says by which columns access is decided."""
    (effect,) = trips.effects["trip_memberships"]
    assert effect == Effect(
        mapping="trip_memberships",
        reference=None,
        columns=("trip_id", "user_id"),
        reads=frozenset({"trip_id", "user_id", "role", "status", "deleted_at"}),
        decides=frozenset({"trip_id", "user_id", "role", "status", "deleted_at"}),
        adds=True,
        unique=True,
    )


def test_descriptive_columns_decide_nothing() -> None:
    """Unless the query also filters by them."""
    (effect,) = trips.effects["users"]
    assert effect.reads == frozenset({"id", "email", "username", "deleted_at"})
    assert effect.decides == frozenset({"id", "deleted_at"})
    assert of(TRANSLATED, "members").decides == frozenset({"trip_id", "person_id", "role"})
    filtered = of(TRANSLATED, "members", query=TRANSLATED.query.where(MEMBERS.c.note != ""))  # type: ignore[union-attr]
    assert filtered.decides == frozenset({"trip_id", "person_id", "role", "note"})


def test_a_joined_row_names_the_scope_that_ties_it_in() -> None:
    """By the column that the join makes equal to the reference."""
    (effect,) = teams.effects["workspaces"]
    assert named(effect) == ("workspace_id", ("id",))
    assert effect.reads == frozenset({"id", "company_id", "archived"})
    assert "companies" not in teams.effects


def test_a_translated_id_ties_both_sides_of_the_join() -> None:
    """Neither shows the whole key: the member lacks one half, the person the other."""
    assert named(of(TRANSLATED, "people")) == ("person_id", ("id",))
    assert named(of(TRANSLATED, "members")) == ("person_id", ("person_id",))


def test_equal_columns_stand_for_each_other_in_the_key() -> None:
    """The query may show the key from the other side of a join."""
    query = select(TRIPS.c.id.label("trip_id"), MEMBERS.c.person_id, MEMBERS.c.role).join(
        MEMBERS, MEMBERS.c.trip_id == TRIPS.c.id
    )
    mapping = replace(MEMBERSHIPS, query=query, references=(Reference("trip_id", "bigint"),))
    assert named(of(mapping, "members")) == (None, ("trip_id", "person_id"))
    assert named(of(mapping, "trips")) == ("trip_id", ("id",))


def test_a_parents_column_ties_a_table_in_without_being_declared() -> None:
    """It is a reference like any other."""
    query = select(MEMBERS.c.trip_id, MEMBERS.c.person_id, MEMBERS.c.role).where(
        exists().where(TRIPS.c.id == MEMBERS.c.trip_id, ~TRIPS.c.deleted)
    )
    registry = Registry(
        "some",
        [
            replace(MEMBERSHIPS, query=query, parents=(Parent("trips", "trip_id"),)),
            Mapping(
                name="trips",
                table="trips",
                key=("id",),
                columns=(Column("id", "bigint"),),
                query=select(TRIPS.c.id).where(~TRIPS.c.deleted),
            ),
        ],
    )
    assert {(e.mapping, *named(e)) for e in registry.effects["trips"]} == {
        ("trips", None, ("id",)),
        ("memberships", "trip_id", ("id",)),
    }


def test_the_reference_declared_for_a_table_comes_before_others() -> None:
    """Both tie it in; the declared one is the narrower, or so its author thought."""
    query = select(MEMBERS.c.trip_id, MEMBERS.c.person_id, MEMBERS.c.role).where(
        ~exists().where(
            BANS.c.trip_id == MEMBERS.c.trip_id, BANS.c.person_id == MEMBERS.c.person_id
        )
    )
    two = (Reference("trip_id", "bigint"), Reference("person_id", "bigint", table="bans"))
    key = ("role",)
    columns = (Column("trip_id", "bigint"), Column("person_id", "bigint"), Column("role", "text"))
    effect = of(MEMBERSHIPS, "bans", query=query, references=two, key=key, columns=columns)
    assert named(effect) == ("person_id", ("person_id",))
    # With the key made of both, a ban shows all of it.
    assert named(of(MEMBERSHIPS, "bans", query=query)) == (None, ("trip_id", "person_id"))


JOINED = select(MEMBERS.c.trip_id, MEMBERS.c.person_id, MEMBERS.c.role)


@pytest.mark.parametrize(
    ("query", "adds"),
    [
        (JOINED.join(TRIPS, TRIPS.c.id == MEMBERS.c.trip_id), True),
        (JOINED.outerjoin(TRIPS, TRIPS.c.id == MEMBERS.c.trip_id), False),
        (JOINED.where(~exists().where(TRIPS.c.id == MEMBERS.c.trip_id)), False),
        (
            except_(
                JOINED,
                select(TRIPS.c.id, literal_column("1"), literal_column("''")),
            ),
            False,
        ),
        (
            JOINED.join(TRIPS, TRIPS.c.id == MEMBERS.c.trip_id).group_by(
                MEMBERS.c.trip_id, MEMBERS.c.person_id, MEMBERS.c.role
            ),
            False,
        ),
    ],
    ids=["join", "outer join", "not exists", "except", "group"],
)
def test_an_inserted_row_may_take_access_away(query: Any, adds: bool) -> None:  # noqa: FBT001 - a parameter
    """A ban does; a trip that is joined does not."""
    reference = Reference("trip_id", "bigint", table="trips", column="id")
    assert of(MEMBERSHIPS, "trips", query=query, references=(reference,)).adds is adds


PAGE = select(TRIPS.c.id).order_by(TRIPS.c.id).limit(3).subquery()
TREE = select(TRIPS.c.id).cte("tree", recursive=True)
TREE = TREE.union_all(select(MEMBERS.c.person_id).where(MEMBERS.c.trip_id == TREE.c.id))


@pytest.mark.parametrize(
    "query",
    [
        JOINED.where(exists().where(TRIPS.c.id > MEMBERS.c.trip_id)),
        JOINED.join(PAGE, PAGE.c.id == MEMBERS.c.trip_id),
        JOINED.add_columns(func.count().over(order_by=TRIPS.c.id)).join(
            TRIPS, TRIPS.c.id == MEMBERS.c.trip_id
        ),
        JOINED.join(TRIPS, TRIPS.c.id == MEMBERS.c.trip_id).ext(distinct_on(MEMBERS.c.trip_id)),
        JOINED.join(TREE, TREE.c.id == MEMBERS.c.trip_id),
    ],
    ids=["inequality", "limit", "window", "distinct on", "recursive"],
)
def test_where_values_do_not_tie_a_row_to_keys_it_means_the_whole_mapping(query: Any) -> None:
    """Too much is slow; too little would leave somebody in."""
    reference = Reference("trip_id", "bigint", table="trips")
    effect = of(MEMBERSHIPS, "trips", query=query, references=(reference,))
    assert named(effect) == (EVERYTHING, ())


def test_distinct_on_the_key_chooses_among_rows_of_that_key() -> None:
    """So nobody else is concerned."""
    query = JOINED.ext(distinct_on(MEMBERS.c.trip_id, MEMBERS.c.person_id))
    assert named(of(MEMBERSHIPS, "members", query=query)) == (None, ("trip_id", "person_id"))


def test_an_equality_that_is_not_demanded_ties_nothing() -> None:
    """Under OR, a row may matter without it."""
    query = JOINED.where(
        exists().where((TRIPS.c.id == MEMBERS.c.trip_id) | TRIPS.c.deleted),
    )
    reference = Reference("trip_id", "bigint", table="trips")
    effect = of(MEMBERSHIPS, "trips", query=query, references=(reference,))
    assert effect.reference == EVERYTHING


def test_text_hides_what_is_read() -> None:
    """So that any column of any of the tables may matter."""
    effect = of(MEMBERSHIPS, "members", query=JOINED.where(text("members.note <> ''")))
    assert effect.reads is None
    assert effect.decides is None
    plain = of(MEMBERSHIPS, "members", query=JOINED.where(literal_column("true")))
    assert plain.reads == frozenset({"trip_id", "person_id", "role"})


def test_each_branch_of_a_union_has_its_own_effects() -> None:
    """And its columns are put together by their order."""
    owners = select(TRIPS.c.id, literal_column("7").label("person"), literal_column("'OWNER'"))
    reference = Reference("trip_id", "bigint", table="trips")
    found = effects(replace(MEMBERSHIPS, query=union_all(JOINED, owners), references=(reference,)))
    assert [named(e) for e in found["members"]] == [(None, ("trip_id", "person_id"))]
    assert [named(e) for e in found["trips"]] == [("trip_id", ("id",))]


def test_orm_models_and_aliases_are_seen_through() -> None:
    """A backend need not declare its tables twice."""
    member, user = aliased(Membership), aliased(User)
    query = select(member.trip_id, user.id.label("person_id"), member.role).join(
        user, user.id == member.user_id
    )
    reference = Reference("person_id", "bigint", table="users")
    mapping = replace(MEMBERSHIPS, query=query, references=(reference,))
    assert named(of(mapping, "trip_memberships")) == (None, ("trip_id", "user_id"))
    assert named(of(mapping, "users")) == ("person_id", ("id",))


def test_two_occurrences_of_a_table_are_tied_each_by_its_own_value() -> None:
    """Whichever of the two rows changes."""
    host = PEOPLE.alias("host")
    query = (
        select(MEMBERS.c.trip_id, MEMBERS.c.person_id, host.c.name.label("role"))
        .join(PEOPLE, PEOPLE.c.id == MEMBERS.c.person_id)
        .join(host, host.c.id == MEMBERS.c.trip_id)
    )
    references = (
        Reference("person_id", "bigint", table="people"),
        Reference("trip_id", "bigint", table="people"),
    )
    found = effects(replace(MEMBERSHIPS, query=query, references=references))["people"]
    assert {(*named(e), e.reads) for e in found} == {
        ("person_id", ("id",), frozenset({"id"})),
        ("trip_id", ("id",), frozenset({"id", "name"})),
    }


def tied_to_trips(query: Any, **changes: Any) -> list[tuple[str | None, tuple[str, ...]]]:
    """Return what rows of `trips` name, where nothing but the query ties them to trip_id."""
    reference = Reference("trip_id", "bigint", table="trips")
    found = effects(replace(MEMBERSHIPS, query=query, references=(reference,), **changes))
    return [named(effect) for effect in found["trips"]]


def test_the_same_table_in_two_subqueries_is_two() -> None:
    """Each is tied by what its own subquery demands."""
    query = JOINED.where(
        exists().where(PEOPLE.c.id == MEMBERS.c.person_id),
        exists().where(PEOPLE.c.auth_id == MEMBERS.c.role),
    )
    references = (Reference("person_id", "bigint"), Reference("role", "text"))
    found = effects(replace(MEMBERSHIPS, query=query, references=references))["people"]
    assert {named(e) for e in found} == {("person_id", ("id",)), ("role", ("auth_id",))}


def test_a_table_inside_a_subquery_is_not_the_one_beside_it() -> None:
    """A row inside shows another key than its own."""
    inner = select(MEMBERS.c.person_id, MEMBERS.c.note).where(MEMBERS.c.role == "HOST").subquery()
    query = JOINED.join(inner, inner.c.note == MEMBERS.c.note)
    reference = Reference("trip_id", "bigint", table="members")
    effect = of(MEMBERSHIPS, "members", query=query, references=(reference,))
    assert named(effect) == (EVERYTHING, ())


@pytest.mark.parametrize(
    "query",
    [
        JOINED.where(
            ~exists().where(BANS.c.trip_id == MEMBERS.c.trip_id, BANS.c.trip_id == TRIPS.c.id)
        ).select_from(MEMBERS.join(TRIPS, TRIPS.c.deleted)),
        JOINED.join(TRIPS, TRIPS.c.id > 0).where(
            exists().where(BANS.c.trip_id == MEMBERS.c.trip_id, BANS.c.trip_id == TRIPS.c.id)
            | ~TRIPS.c.deleted
        ),
    ],
    ids=["not exists", "or"],
)
def test_what_a_subquery_demands_holds_inside_it(query: Any) -> None:
    """It is no equality of the rows around it."""
    references = (
        Reference("trip_id", "bigint", table="trips"),
        Reference("role", "text", table="bans"),
    )
    found = effects(replace(MEMBERSHIPS, query=query, references=references))
    assert [named(effect) for effect in found["trips"]] == [(EVERYTHING, ())]


def test_an_outer_join_demands_nothing_of_the_side_that_stays() -> None:
    """Where the other is missing, its value is NULL, and ties nothing."""
    query = select(MEMBERS.c.trip_id, MEMBERS.c.person_id, MEMBERS.c.role)
    left = query.outerjoin(TRIPS, TRIPS.c.id == MEMBERS.c.trip_id)
    changes: dict[str, Any] = {
        "key": ("person_id", "role"),
        "references": (Reference("trip_id", "bigint", table="trips"),),
    }
    assert named(of(MEMBERSHIPS, "trips", query=left, **changes)) == ("trip_id", ("id",))
    demanded = left.where(~TRIPS.c.deleted)
    assert named(of(MEMBERSHIPS, "trips", query=demanded, **changes)) == ("trip_id", ("id",))
    assert named(of(MEMBERSHIPS, "members", query=left, **changes)) == (
        None,
        ("person_id", "role"),
    )
    shown = left.with_only_columns(
        TRIPS.c.id.label("trip_id"), MEMBERS.c.person_id, MEMBERS.c.role
    ).select_from(MEMBERS.outerjoin(TRIPS, TRIPS.c.id == MEMBERS.c.trip_id))
    missing = shown.where(TRIPS.c.id.is_(None))
    assert named(of(MEMBERSHIPS, "trips", query=missing, **changes)) == (EVERYTHING, ())


FULL = MEMBERS.outerjoin(TRIPS, TRIPS.c.id == MEMBERS.c.trip_id, full=True)
LATERAL = select(TRIPS.c.id).where(TRIPS.c.id == MEMBERS.c.trip_id).lateral()


@pytest.mark.parametrize(
    "query",
    [
        JOINED.select_from(FULL),
        JOINED.outerjoin(TRIPS, exists().where(TRIPS.c.id == BANS.c.trip_id)),
        JOINED.join(LATERAL, true()),
        JOINED.join(func.unnest(TRIPS.c.id).alias("ids"), true()).join(TRIPS, ~TRIPS.c.deleted),
    ],
    ids=["full join", "subquery in a left join", "lateral", "function"],
)
def test_a_query_of_a_rare_shape_is_not_looked_into(query: Any) -> None:
    """Any change of what it reads means everything, whatever the column."""
    references = tuple(Reference(name, "bigint", table=f"{name}s") for name in ("trip", "ban"))
    found = effects(replace(MEMBERSHIPS, query=query, references=references))
    assert {(*named(e), e.reads) for of_table in found.values() for e in of_table} == {
        (EVERYTHING, (), None)
    }
    assert "trips" in found


def test_an_in_of_several_columns_ties_nothing() -> None:
    """One of one column does."""
    two = tuple_(MEMBERS.c.trip_id, MEMBERS.c.role).in_(select(TRIPS.c.id, TRIPS.c.deleted))
    assert tied_to_trips(JOINED.where(two)) == [(EVERYTHING, ())]
    one = MEMBERS.c.trip_id.in_(select(TRIPS.c.id))
    assert tied_to_trips(JOINED.where(one)) == [("trip_id", ("id",))]


def test_a_value_that_may_be_null_and_ties_all_the_same() -> None:
    """A row that has none is read for again as a part of everything."""
    query = (
        select(MEMBERS.c.trip_id, PEOPLE.c.id.label("person_id"), MEMBERS.c.note.label("role"))
        .join(PEOPLE, PEOPLE.c.auth_id == MEMBERS.c.role)
        .where(MEMBERS.c.trip_id.is_not(None))
    )
    by_note = (Reference("role", "text", table="members"), Reference("person_id", "bigint"))
    effect = of(MEMBERSHIPS, "members", query=query, references=by_note)
    assert (*named(effect), effect.nulls) == ("role", ("note",), True)
    demanded = query.where(MEMBERS.c.note != "")
    assert not of(MEMBERSHIPS, "members", query=demanded, references=by_note).nulls
    assert not of(MEMBERSHIPS, "people", query=query, references=by_note).nulls


def test_a_limit_within_a_union_picks_rows() -> None:
    """Which of them, depends on the others."""
    page = union(select(TRIPS.c.id), select(BANS.c.trip_id)).order_by("id").limit(3).subquery()
    assert tied_to_trips(JOINED.join(page, page.c.id == MEMBERS.c.trip_id))[0][0] == EVERYTHING
    first = select(TRIPS.c.id, TRIPS.c.id, literal_column("''")).order_by(TRIPS.c.id).limit(1)
    assert tied_to_trips(union_all(JOINED, first))[0][0] == EVERYTHING


def test_a_cast_that_loses_something_ties_nothing() -> None:
    """1.4 is not the text of any key."""
    prices = table("prices", column("trip_id", Numeric), column("code", Text))
    joined = JOINED.join(prices, cast(prices.c.trip_id, BigInteger) == MEMBERS.c.trip_id)
    reference = Reference("trip_id", "bigint", table="prices")
    effect = of(MEMBERSHIPS, "prices", query=joined, references=(reference,))
    assert named(effect) == (EVERYTHING, ())
    joined = JOINED.join(prices, cast(prices.c.code, BigInteger) == MEMBERS.c.trip_id)
    effect = of(MEMBERSHIPS, "prices", query=joined, references=(reference,))
    assert named(effect) == ("trip_id", ("code",))


def test_rows_that_are_counted_are_not_paired_by_their_key() -> None:
    """Two that are alike count as two, and one may go."""
    count = select(func.count()).where(
        BANS.c.trip_id == MEMBERS.c.trip_id, BANS.c.person_id == MEMBERS.c.person_id
    )
    query = JOINED.where(count.scalar_subquery() < 2)
    effect = of(MEMBERSHIPS, "bans", query=query)
    assert (*named(effect), effect.unique) == (None, ("trip_id", "person_id"), False)
    assert of(MEMBERSHIPS, "members", query=query).unique


@pytest.mark.parametrize(
    "query",
    [
        JOINED.ext(distinct_on(MEMBERS.c.trip_id, MEMBERS.c.person_id)).order_by(MEMBERS.c.note),
        except_(TRANSLATED.query, TRANSLATED.query),
    ],
    ids=["distinct on", "except"],
)
def test_what_chooses_or_compares_rows_decides(query: Any) -> None:
    """Even a descriptive column, and even a row that is new."""
    mapping = MEMBERSHIPS if isinstance(query, Select) else TRANSLATED
    effect = of(mapping, "members", query=query)
    assert effect.decides is not None
    assert "note" in effect.decides
    assert not effect.adds


def test_a_dot_in_a_name_is_refused() -> None:
    """The table could be taken for another schema's."""
    dotted = table("app.members", column("trip_id", BigInteger), column("person_id", BigInteger))
    query = select(dotted.c.trip_id, dotted.c.person_id, literal_column("''").label("role"))
    with pytest.raises(MappingError, match="a dot in the name"):
        effects(replace(MEMBERSHIPS, query=query))
