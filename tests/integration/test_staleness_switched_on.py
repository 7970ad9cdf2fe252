"""A bound is switched on only once workers report; later migrations do not wait for them."""

from dataclasses import replace
from typing import Any

import psycopg
import pytest
from sqlalchemy import Text, Uuid, column, select, table

from mappings.trips import registry
from mirror.access import Membership, Seat
from mirror.errors import NotMigrated
from mirror.model.mapping import Column, Mapping
from mirror.model.registry import Registry
from mirror.schema.migrate import migrations, upgrade
from tests.support.bounded_model import BOUND, bounded, report
from tests.support.databases import TestDatabase

_GUESTS = table("guests", column("trip_id", Uuid), column("user_id", Uuid), column("role", Text))
GUESTS = Mapping(
    name="guests",
    table="guests",
    key=("trip_id", "user_id"),
    columns=(Column("trip_id", "uuid"), Column("user_id", "uuid"), Column("role", "text")),
    query=select(_GUESTS.c.trip_id, _GUESTS.c.user_id, _GUESTS.c.role),
)
(MEMBERSHIP,) = registry.access
assert isinstance(MEMBERSHIP, Membership)
WITH_GUESTS = replace(
    MEMBERSHIP,
    also=(Seat(mapping="guests", resource="trip_id", user="user_id", role="role"),),
)


@pytest.fixture
def written(target: TestDatabase) -> TestDatabase:
    """A target with the model without a bound, to which a worker has written."""
    target.query("update mirror.state set identity = 'primary'")
    return target


def migrate(target: TestDatabase, model: Registry) -> list[str]:
    """Migrate the target, its guards included."""
    with target.migrating() as connection:
        return upgrade(connection, "supabase", model, guards=True)


def policies(target: TestDatabase) -> list[Any]:
    """Return all policies."""
    return target.query("select * from pg_policies order by schemaname, tablename, policyname")


@pytest.mark.parametrize("age", [None, BOUND + 1])
def test_a_bound_that_would_lock_out_every_user_is_refused(
    written: TestDatabase, age: float | None
) -> None:
    """One mapping is enough. Nothing changes, and the message names the mapping and the remedy."""
    before = policies(written)
    report(written, trip_memberships=age)
    with pytest.raises(NotMigrated) as refused:
        migrate(written, bounded())
    assert "that trip_memberships is up to date" in str(refused.value)
    assert "Start workers with MIRROR_FRESH_SECONDS" in str(refused.value)
    assert policies(written) == before


@pytest.mark.parametrize("step", ["model_trips", "guards_trips"])
def test_the_printed_sql_of_each_step_refuses_it(written: TestDatabase, step: str) -> None:
    """It may reach the target in another way than `mirror migrate`."""
    report(written, users=None)
    (sql,) = (
        one.script for one in migrations("supabase", bounded(), guards=True) if one.name == step
    )
    with (
        written.connect(autocommit=False) as connection,
        pytest.raises(psycopg.Error, match="that users is up to date") as refused,
    ):
        connection.execute(sql.encode())
    assert refused.value.sqlstate == "MR010"


def test_a_bound_that_workers_keep_is_switched_on(written: TestDatabase) -> None:
    """They report each mapping."""
    report(written)
    assert migrate(written, bounded()) == ["model_trips", "guards_trips"]


def test_a_target_that_was_never_written_needs_no_report(target: TestDatabase) -> None:
    """No user has access there."""
    assert migrate(target, bounded()) == ["model_trips", "guards_trips"]


def test_with_the_bound_on_a_repair_does_not_wait_for_workers(written: TestDatabase) -> None:
    """The repair may be the reason why they can report again."""
    report(written)
    migrate(written, bounded())
    report(written, users=None, trips=None, trip_memberships=3600)
    repaired = bounded(guards=bounded().guards[:1], max_staleness=BOUND * 2)
    assert migrate(written, repaired) == ["model_trips", "guards_trips"]
    assert migrate(written, registry) == ["model_trips", "guards_trips"]


def test_a_new_mapping_is_added_before_rules_read_it(written: TestDatabase) -> None:
    """Workers report it only once it is there; until then, rules must not depend on it."""
    report(written)
    migrate(written, bounded())
    with pytest.raises(NotMigrated, match="that guests is up to date"):
        migrate(written, bounded(GUESTS, access=[WITH_GUESTS]))
    migrate(written, bounded(GUESTS))
    report(written, guests=0)
    migrate(written, bounded(GUESTS, access=[WITH_GUESTS]))


def test_a_dropped_mapping_leaves_no_report(written: TestDatabase) -> None:
    """If it comes back, the old report must not count."""
    report(written, guests=0)
    migrate(written, bounded(GUESTS))
    migrate(written, bounded())
    assert written.value("select count(*) from mirror.freshness where mapping = 'guests'") == 0
