"""The effects of a changed row on the mappings, derived from their queries."""

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

# The primary's id of a person differs from the id of Supabase Auth.
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


def effect_of(mapping: Mapping, source: str, **changes: Any) -> Effect:
    """Return the single effect that a table's rows have on a mapping."""
    (effect,) = effects(replace(mapping, **changes))[source]
    return effect


def reference_and_columns(effect: Effect) -> tuple[str | None, tuple[str, ...]]:
    """Return the reference of an effect (None for the key) and the columns with its value."""
    return effect.reference, effect.columns


def test_a_row_that_contains_the_key_names_it() -> None:
    """The effect also lists the columns that decide access."""
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
    """Unless the query filters by them."""
    (effect,) = trips.effects["users"]
    assert effect.reads == frozenset({"id", "email", "username", "deleted_at"})
    assert effect.decides == frozenset({"id", "deleted_at"})
    assert effect_of(TRANSLATED, "members").decides == frozenset({"trip_id", "person_id", "role"})
    filtered = effect_of(TRANSLATED, "members", query=TRANSLATED.query.where(MEMBERS.c.note != ""))  # type: ignore[union-attr]
    assert filtered.decides == frozenset({"trip_id", "person_id", "role", "note"})


def test_a_joined_row_names_a_scope_by_the_joined_column() -> None:
    """The join makes one of its columns equal to the reference."""
    (effect,) = teams.effects["workspaces"]
    assert reference_and_columns(effect) == ("workspace_id", ("id",))
    assert effect.reads == frozenset({"id", "company_id", "archived"})
    assert "companies" not in teams.effects


def test_both_sides_of_a_join_that_translates_an_id_name_its_scope() -> None:
    """Each side lacks one half of the key."""
    assert reference_and_columns(effect_of(TRANSLATED, "people")) == ("person_id", ("id",))
    assert reference_and_columns(effect_of(TRANSLATED, "members")) == ("person_id", ("person_id",))


def test_equal_columns_stand_for_each_other_in_the_key() -> None:
    """The query may select the key from the other side of a join."""
    query = select(TRIPS.c.id.label("trip_id"), MEMBERS.c.person_id, MEMBERS.c.role).join(
        MEMBERS, MEMBERS.c.trip_id == TRIPS.c.id
    )
    mapping = replace(MEMBERSHIPS, query=query, references=(Reference("trip_id", "bigint"),))
    assert reference_and_columns(effect_of(mapping, "members")) == (None, ("trip_id", "person_id"))
    assert reference_and_columns(effect_of(mapping, "trips")) == ("trip_id", ("id",))


def test_a_parents_column_is_a_reference_without_a_declaration() -> None:
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
    assert {(e.mapping, *reference_and_columns(e)) for e in registry.effects["trips"]} == {
        ("trips", None, ("id",)),
        ("memberships", "trip_id", ("id",)),
    }


def test_the_reference_declared_for_a_table_comes_before_others() -> None:
    """Both references fit; the author declared this one for the table."""
    query = select(MEMBERS.c.trip_id, MEMBERS.c.person_id, MEMBERS.c.role).where(
        ~exists().where(
            BANS.c.trip_id == MEMBERS.c.trip_id, BANS.c.person_id == MEMBERS.c.person_id
        )
    )
    two = (Reference("trip_id", "bigint"), Reference("person_id", "bigint", table="bans"))
    key = ("role",)
    columns = (Column("trip_id", "bigint"), Column("person_id", "bigint"), Column("role", "text"))
    effect = effect_of(MEMBERSHIPS, "bans", query=query, references=two, key=key, columns=columns)
    assert reference_and_columns(effect) == ("person_id", ("person_id",))
    # If both columns are the key, a ban contains the whole key.
    assert reference_and_columns(effect_of(MEMBERSHIPS, "bans", query=query)) == (
        None,
        ("trip_id", "person_id"),
    )


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
    """A ban may; a joined trip may not."""
    reference = Reference("trip_id", "bigint", table="trips", column="id")
    assert effect_of(MEMBERSHIPS, "trips", query=query, references=(reference,)).adds is adds


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
def test_a_row_without_a_common_value_means_the_whole_mapping(query: Any) -> None:
    """A too large scope is slow; a too small one would leave a user's access in place."""
    reference = Reference("trip_id", "bigint", table="trips")
    effect = effect_of(MEMBERSHIPS, "trips", query=query, references=(reference,))
    assert reference_and_columns(effect) == (EVERYTHING, ())


def test_distinct_on_the_key_chooses_among_rows_of_that_key() -> None:
    """No other key is affected."""
    query = JOINED.ext(distinct_on(MEMBERS.c.trip_id, MEMBERS.c.person_id))
    assert reference_and_columns(effect_of(MEMBERSHIPS, "members", query=query)) == (
        None,
        ("trip_id", "person_id"),
    )


def test_an_equality_under_or_gives_no_common_value() -> None:
    """Under OR, a row may matter although the equality is false."""
    query = JOINED.where(
        exists().where((TRIPS.c.id == MEMBERS.c.trip_id) | TRIPS.c.deleted),
    )
    reference = Reference("trip_id", "bigint", table="trips")
    effect = effect_of(MEMBERSHIPS, "trips", query=query, references=(reference,))
    assert effect.reference == EVERYTHING


def test_text_hides_the_columns_that_it_reads() -> None:
    """Any column of any of the tables may matter."""
    effect = effect_of(MEMBERSHIPS, "members", query=JOINED.where(text("members.note <> ''")))
    assert effect.reads is None
    assert effect.decides is None
    plain = effect_of(MEMBERSHIPS, "members", query=JOINED.where(literal_column("true")))
    assert plain.reads == frozenset({"trip_id", "person_id", "role"})


def test_each_branch_of_a_union_has_its_own_effects() -> None:
    """The order of the columns pairs those of the branches."""
    owners = select(TRIPS.c.id, literal_column("7").label("person"), literal_column("'OWNER'"))
    reference = Reference("trip_id", "bigint", table="trips")
    found = effects(replace(MEMBERSHIPS, query=union_all(JOINED, owners), references=(reference,)))
    assert [reference_and_columns(e) for e in found["members"]] == [
        (None, ("trip_id", "person_id"))
    ]
    assert [reference_and_columns(e) for e in found["trips"]] == [("trip_id", ("id",))]


def test_orm_models_and_aliases_stand_for_their_tables() -> None:
    """A backend need not declare its tables twice."""
    member, user = aliased(Membership), aliased(User)
    query = select(member.trip_id, user.id.label("person_id"), member.role).join(
        user, user.id == member.user_id
    )
    reference = Reference("person_id", "bigint", table="users")
    mapping = replace(MEMBERSHIPS, query=query, references=(reference,))
    assert reference_and_columns(effect_of(mapping, "trip_memberships")) == (
        None,
        ("trip_id", "user_id"),
    )
    assert reference_and_columns(effect_of(mapping, "users")) == ("person_id", ("id",))


def test_each_occurrence_of_a_table_has_its_own_reference() -> None:
    """A change of either row names its keys."""
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
    assert {(*reference_and_columns(e), e.reads) for e in found} == {
        ("person_id", ("id",), frozenset({"id"})),
        ("trip_id", ("id",), frozenset({"id", "name"})),
    }


def effects_of_trips(query: Any, **changes: Any) -> list[tuple[str | None, tuple[str, ...]]]:
    """Return the references and columns of the effects that rows of `trips` have in a query."""
    reference = Reference("trip_id", "bigint", table="trips")
    found = effects(replace(MEMBERSHIPS, query=query, references=(reference,), **changes))
    return [reference_and_columns(effect) for effect in found["trips"]]


def test_a_table_in_two_subqueries_has_two_effects() -> None:
    """Each occurrence has the condition of its own subquery."""
    query = JOINED.where(
        exists().where(PEOPLE.c.id == MEMBERS.c.person_id),
        exists().where(PEOPLE.c.auth_id == MEMBERS.c.role),
    )
    references = (Reference("person_id", "bigint"), Reference("role", "text"))
    found = effects(replace(MEMBERSHIPS, query=query, references=references))["people"]
    assert {reference_and_columns(e) for e in found} == {
        ("person_id", ("id",)),
        ("role", ("auth_id",)),
    }


def test_a_table_inside_a_subquery_is_not_the_one_outside() -> None:
    """A row of the subquery shows another row's key."""
    inner = select(MEMBERS.c.person_id, MEMBERS.c.note).where(MEMBERS.c.role == "HOST").subquery()
    query = JOINED.join(inner, inner.c.note == MEMBERS.c.note)
    reference = Reference("trip_id", "bigint", table="members")
    effect = effect_of(MEMBERSHIPS, "members", query=query, references=(reference,))
    assert reference_and_columns(effect) == (EVERYTHING, ())


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
def test_a_condition_of_a_subquery_holds_only_inside_it(query: Any) -> None:
    """It is no equality of the rows outside."""
    references = (
        Reference("trip_id", "bigint", table="trips"),
        Reference("role", "text", table="bans"),
    )
    found = effects(replace(MEMBERSHIPS, query=query, references=references))
    assert [reference_and_columns(effect) for effect in found["trips"]] == [(EVERYTHING, ())]


def test_a_condition_of_an_outer_join_does_not_bind_the_preserved_side() -> None:
    """If the other side is missing, its value is NULL and equal to nothing."""
    query = select(MEMBERS.c.trip_id, MEMBERS.c.person_id, MEMBERS.c.role)
    left = query.outerjoin(TRIPS, TRIPS.c.id == MEMBERS.c.trip_id)
    changes: dict[str, Any] = {
        "key": ("person_id", "role"),
        "references": (Reference("trip_id", "bigint", table="trips"),),
    }
    assert reference_and_columns(effect_of(MEMBERSHIPS, "trips", query=left, **changes)) == (
        "trip_id",
        ("id",),
    )
    demanded = left.where(~TRIPS.c.deleted)
    assert reference_and_columns(effect_of(MEMBERSHIPS, "trips", query=demanded, **changes)) == (
        "trip_id",
        ("id",),
    )
    assert reference_and_columns(effect_of(MEMBERSHIPS, "members", query=left, **changes)) == (
        None,
        ("person_id", "role"),
    )
    shown = left.with_only_columns(
        TRIPS.c.id.label("trip_id"), MEMBERS.c.person_id, MEMBERS.c.role
    ).select_from(MEMBERS.outerjoin(TRIPS, TRIPS.c.id == MEMBERS.c.trip_id))
    missing = shown.where(TRIPS.c.id.is_(None))
    assert reference_and_columns(effect_of(MEMBERSHIPS, "trips", query=missing, **changes)) == (
        EVERYTHING,
        (),
    )


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
def test_a_query_of_a_rare_shape_is_not_analysed(query: Any) -> None:
    """A change of any column that it reads means the whole mapping."""
    references = tuple(Reference(name, "bigint", table=f"{name}s") for name in ("trip", "ban"))
    found = effects(replace(MEMBERSHIPS, query=query, references=references))
    assert {
        (*reference_and_columns(e), e.reads) for of_table in found.values() for e in of_table
    } == {(EVERYTHING, (), None)}
    assert "trips" in found


def test_an_in_with_several_columns_gives_no_common_value() -> None:
    """An IN with one column gives a common value."""
    two = tuple_(MEMBERS.c.trip_id, MEMBERS.c.role).in_(select(TRIPS.c.id, TRIPS.c.deleted))
    assert effects_of_trips(JOINED.where(two)) == [(EVERYTHING, ())]
    one = MEMBERS.c.trip_id.in_(select(TRIPS.c.id))
    assert effects_of_trips(JOINED.where(one)) == [("trip_id", ("id",))]


def test_a_common_value_may_be_null() -> None:
    """A row with a NULL means the whole mapping."""
    query = (
        select(MEMBERS.c.trip_id, PEOPLE.c.id.label("person_id"), MEMBERS.c.note.label("role"))
        .join(PEOPLE, PEOPLE.c.auth_id == MEMBERS.c.role)
        .where(MEMBERS.c.trip_id.is_not(None))
    )
    by_note = (Reference("role", "text", table="members"), Reference("person_id", "bigint"))
    effect = effect_of(MEMBERSHIPS, "members", query=query, references=by_note)
    assert (*reference_and_columns(effect), effect.nulls) == ("role", ("note",), True)
    demanded = query.where(MEMBERS.c.note != "")
    assert not effect_of(MEMBERSHIPS, "members", query=demanded, references=by_note).nulls
    assert not effect_of(MEMBERSHIPS, "people", query=query, references=by_note).nulls


def test_a_limit_within_a_union_picks_rows() -> None:
    """Which rows it picks depends on the other rows."""
    page = union(select(TRIPS.c.id), select(BANS.c.trip_id)).order_by("id").limit(3).subquery()
    assert effects_of_trips(JOINED.join(page, page.c.id == MEMBERS.c.trip_id))[0][0] == EVERYTHING
    first = select(TRIPS.c.id, TRIPS.c.id, literal_column("''")).order_by(TRIPS.c.id).limit(1)
    assert effects_of_trips(union_all(JOINED, first))[0][0] == EVERYTHING


def test_a_cast_that_loses_precision_gives_no_common_value() -> None:
    """1.4 is not the text of any key."""
    prices = table("prices", column("trip_id", Numeric), column("code", Text))
    joined = JOINED.join(prices, cast(prices.c.trip_id, BigInteger) == MEMBERS.c.trip_id)
    reference = Reference("trip_id", "bigint", table="prices")
    effect = effect_of(MEMBERSHIPS, "prices", query=joined, references=(reference,))
    assert reference_and_columns(effect) == (EVERYTHING, ())
    joined = JOINED.join(prices, cast(prices.c.code, BigInteger) == MEMBERS.c.trip_id)
    effect = effect_of(MEMBERSHIPS, "prices", query=joined, references=(reference,))
    assert reference_and_columns(effect) == ("trip_id", ("code",))


def test_rows_that_are_counted_are_not_paired_by_their_key() -> None:
    """Two equal rows count as two, and one of them may be deleted."""
    count = select(func.count()).where(
        BANS.c.trip_id == MEMBERS.c.trip_id, BANS.c.person_id == MEMBERS.c.person_id
    )
    query = JOINED.where(count.scalar_subquery() < 2)
    effect = effect_of(MEMBERSHIPS, "bans", query=query)
    assert (*reference_and_columns(effect), effect.unique) == (
        None,
        ("trip_id", "person_id"),
        False,
    )
    assert effect_of(MEMBERSHIPS, "members", query=query).unique


@pytest.mark.parametrize(
    "query",
    [
        JOINED.ext(distinct_on(MEMBERS.c.trip_id, MEMBERS.c.person_id)).order_by(MEMBERS.c.note),
        except_(TRANSLATED.query, TRANSLATED.query),
    ],
    ids=["distinct on", "except"],
)
def test_a_column_that_chooses_or_compares_rows_decides(query: Any) -> None:
    """A descriptive column decides, too, and a new row may take access away."""
    mapping = MEMBERSHIPS if isinstance(query, Select) else TRANSLATED
    effect = effect_of(mapping, "members", query=query)
    assert effect.decides is not None
    assert "note" in effect.decides
    assert not effect.adds


def test_a_dot_in_a_name_is_refused() -> None:
    """The name could mean a table of another schema."""
    dotted = table("app.members", column("trip_id", BigInteger), column("person_id", BigInteger))
    query = select(dotted.c.trip_id, dotted.c.person_id, literal_column("''").label("role"))
    with pytest.raises(MappingError, match="a dot in the name"):
        effects(replace(MEMBERSHIPS, query=query))
