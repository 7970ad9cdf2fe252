"""The bound in printed policies: which mappings it names, and that nothing else changes."""

from dataclasses import replace
from datetime import timedelta
from math import inf, nan
from typing import Any

import pytest

from mappings import campaigns, consultations, grants, rbac, trips
from mirror.access import Folders, Guard, Own, Readers, Topic, Topics
from mirror.errors import MappingError
from mirror.model.mapping import Mapping, Readable
from mirror.model.registry import Registry
from mirror.schema import guards_sql, model_sql
from mirror.schema.freshness import mappings_read, readable_must_be_fresh
from tests.support.bounded_model import bounded
from tests.support.guarded_model import attachments, files, membership, messages, participants

MODELS = [one.registry for one in (trips, campaigns, consultations, grants, rbac)]


def with_bound(model: Registry) -> Registry:
    """Return the model with a bound of a minute."""
    mappings = [replace(mapping, children=()) for mapping in model]
    return Registry(
        model.name, mappings, access=model.access, guards=model.guards, max_staleness=60
    )


def mapping(model: Registry, **changes: Any) -> Mapping:
    """Return the first mapping of the model with another `readable`."""
    first = next(iter(model))
    assert first.readable is not None
    return replace(first, children=(), readable=replace(first.readable, **changes))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_bound_changes_no_digest(model: Registry) -> None:
    """Workers of the version before are not refused."""
    assert [one.digest for one in with_bound(model)] == [one.digest for one in model]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_bound_changes_policies_alone(model: Registry) -> None:
    """Helpers are called for each row where a policy of yours does so; they do not ask."""
    for printed in (model_sql, guards_sql):
        blocks = printed(with_bound(model)).split("\n\n\n")
        assert "is_fresh" not in printed(model)
        for block in blocks:
            if "is_fresh" in block:
                assert "create policy" in block
        functions = [block for block in blocks if "create or replace function" in block]
        assert functions == [
            block
            for block in printed(model).split("\n\n\n")
            if "create or replace function" in block
        ]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_every_policy_that_reads_mirrored_rows_has_the_bound_once_a_statement(
    model: Registry,
) -> None:
    """In each of its conditions."""
    for printed in (model_sql, guards_sql):
        for policy in printed(with_bound(model)).split("create policy ")[1:]:
            text = policy.split(";")[0]
            conditions = text.count("using (") + text.count("with check (")
            if "mirror.my_" in text or "mirror.has_" in text:
                assert text.count("(select mirror.is_fresh(array['") >= conditions, text
            assert text.count("is_fresh") == text.count("(select mirror.is_fresh("), text


def test_a_stale_mapping_closes_only_what_reads_it() -> None:
    """Of two topics, which share a policy, only that of its own membership."""
    topics = Topics(
        topics=(
            Topic(prefix="source", via="sources", receive="OWNER"),
            Topic(prefix="character", via="characters", receive="OWNER"),
        )
    )
    model = with_bound(replace_guards(campaigns.registry, campaigns.source_entries, topics))
    sql = " ".join(guards_sql(model).split())
    assert (
        "( extension = 'broadcast' and topic = any(array( select 'source:' || id from"
        " unnest(mirror.my_sources('OWNER')) as id )) and (select mirror.is_fresh(array['sources'],"
    ) in sql
    insert = sql.split("create policy mirror_campaigns_insert on public.source_entries")[1]
    assert (
        "(select mirror.is_fresh(array['sources'], interval '60 seconds'))"
        in (insert.split(";")[0])
    )


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("true", set()),
        ("created_by = (select auth.uid())", set()),
        ("id = any((select mirror.my_trips('MEMBER'))::uuid[])", {"trip_memberships"}),
        ("mirror.is_trip_member(id)", {"trip_memberships"}),
        ("exists (select from public.users as u where u.id = id)", {"users", "trip_memberships"}),
        ("exists (select 1 FROM users u join trips on true)", {*(m.name for m in trips.registry)}),
        ("mirror.my_trips_elsewhere('users') or users.id = 1", set()),
    ],
)
def test_a_condition_reads_the_mappings_of_its_helpers_and_tables(
    condition: str, expected: set[str]
) -> None:
    """Row-level security of a table that it reads itself counts, too."""
    assert mappings_read(trips.registry, condition) == expected


def test_a_mirrored_table_needs_its_own_mapping_and_the_ancestors() -> None:
    """A row goes with its parent, so it is as old as the parent."""
    own = replace(trips.trip_memberships, readable=Readable(("role",), "user_id = auth.uid()"))
    model = Registry("m", [trips.users, trips.trips, own], max_staleness=60)
    assert readable_must_be_fresh(model, model["trip_memberships"]) == (
        "users",
        "trips",
        "trip_memberships",
    )
    assert readable_must_be_fresh(trips.registry, trips.registry["users"]) == ()


def test_rules_without_mirrored_rows_have_no_bound() -> None:
    """A user's own rows do not depend on the mirror."""
    own = Guard(table="notes", owner="user_id", read=Own(), insert=Own())
    assert "is_fresh" not in guards_sql(bounded(guards=[own]))


@pytest.mark.parametrize(
    ("bound", "seconds"), [(timedelta(minutes=1), "60"), (7.25, "7.25"), (86400 * 31, "2678400")]
)
def test_the_bound_is_printed_in_seconds(bound: timedelta | float, seconds: str) -> None:
    """Of any type."""
    model = bounded(max_staleness=bound)
    assert f"interval '{seconds} seconds'" in model_sql(model)
    assert model.max_staleness == float(seconds)


@pytest.mark.parametrize("bound", [0, -1, 4.9, nan, inf, True, "60", timedelta(seconds=4)])
def test_a_bound_that_could_not_work_is_refused(bound: Any) -> None:
    """With the remedy."""
    with pytest.raises(MappingError, match=r"registry 'trips': max_staleness is .* at least 5"):
        bounded(max_staleness=bound)


NEVER: Any = "never"
GUARDS = {
    "guard": replace(messages, stale=NEVER),
    "topic": Topics(topics=(replace(trips.channels.topics[0], stale=NEVER, via="participants"),)),
    "folder": Folders(folders=(replace(files.folders[0], stale=NEVER),)),
}


@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
def test_an_unknown_word_for_stale_is_refused(guard: Any) -> None:
    """Of every declaration that has one."""
    model = Registry("m", [participants], access=[membership], guards=[guard], max_staleness=60)
    with pytest.raises(MappingError, match="stale is 'never'; it is 'deny' or 'ignore'"):
        guards_sql(model)
    with pytest.raises(MappingError, match="readable: stale is 'never'"):
        Registry("m", [mapping(trips.registry, stale=NEVER)], max_staleness=60)


@pytest.mark.parametrize("stale", ["deny", "ignore"])
def test_stale_without_a_bound_is_refused(stale: Any) -> None:
    """`deny` would promise something that does not happen."""
    expected = f"stale='{stale}' needs a bound"
    with pytest.raises(MappingError, match=expected):
        Registry("m", [mapping(trips.registry, stale=stale)])
    model = Registry(
        "m", [participants], access=[membership], guards=[replace(messages, stale=stale)]
    )
    with pytest.raises(MappingError, match=expected):
        guards_sql(model)


def test_a_guard_cannot_ignore_what_its_parent_denies() -> None:
    """Its users must be able to read the parent's row."""
    guards = [messages, replace(attachments, stale="ignore")]
    model = Registry("m", [participants], access=[membership], guards=guards, max_staleness=60)
    with pytest.raises(MappingError, match="the guard of 'Messages' denies"):
        guards_sql(model)
    readers = Guard(table="t", via="trip_memberships", on="trip_id", read=Readers(), stale="ignore")
    with pytest.raises(MappingError, match="`readable` of mapping 'trip_memberships' denies"):
        guards_sql(with_bound(replace_guards(trips.registry, readers)))


def test_a_guard_reads_what_its_parents_policy_reads() -> None:
    """Also if the parent itself ignores how old that is."""
    guards = [replace(messages, stale="ignore"), attachments]
    model = Registry("m", [participants], access=[membership], guards=guards, max_staleness=60)
    assert messages.must_be_fresh(model, "read") == ("participants",)
    assert guards[0].must_be_fresh(model, "read") == ()
    assert attachments.must_be_fresh(model, "insert") == ("participants",)
    assert attachments.must_be_fresh(model, "delete") == ()


def test_quoted_names_are_looked_up_as_the_catalog_has_them() -> None:
    """Before the policies of such tables are replaced."""
    seats = replace(participants, readable=Readable(("Role",), '"userId" = auth.uid()'))
    model = Registry("m", [seats], access=[membership], guards=[messages], max_staleness=60)
    assert (
        "select mirror.check_fresh('public.\"Participants\"', array['Participants_read']"
    ) in model_sql(model)
    assert "select mirror.check_fresh('public.\"Messages\"', array['mirror_m_read', " in (
        guards_sql(model)
    )


def replace_guards(model: Registry, *guards: Any) -> Registry:
    """Return the model with other guards."""
    mappings = [replace(one, children=()) for one in model]
    return Registry(model.name, mappings, access=model.access, guards=guards)
