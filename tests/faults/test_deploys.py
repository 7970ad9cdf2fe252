"""During a deploy, workers of two versions run: none spoils or holds up what it does not know."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest
from sqlalchemy import BigInteger, column, select, table

from mirror.model.mapping import Column, Mapping
from mirror.model.registry import Registry
from mirror.schema.migrate import upgrade
from mirror.settings import Settings
from mirror.sync.drain import Drain
from tests.faults import teams
from tests.faults.test_floor import pages_read
from tests.faults.tools import record
from tests.support.databases import TestDatabase
from tests.support.drains import making_drains

_companies = table("companies", column("id", BigInteger))
companies = Mapping(
    name="companies",
    table="companies",
    key=("id",),
    columns=(Column("id", "bigint"),),
    query=select(_companies.c.id),
)
"""The new mapping."""

OLD = teams.registry
NEW = Registry("teams", [teams.seats, teams.folders, teams.documents, companies])
MANY = 3_000

Make = Callable[[Registry], Drain]


@pytest.fixture
def make(teams_settings: Settings) -> Iterator[Make]:
    """Return a function that makes workers of either version; the target is the new one's."""
    with ExitStack() as stack:

        def make(registry: Registry) -> Drain:
            return stack.enter_context(making_drains(teams_settings, registry))()

        yield make


@pytest.fixture
def deploying(teams_primary: TestDatabase, teams_target: TestDatabase) -> None:
    """The target is migrated to the new version; old workers still run."""
    with teams_target.migrating() as connection:
        upgrade(connection, "supabase", NEW)
    teams_primary.query("insert into companies values (1), (2)")
    teams_primary.query("insert into workspaces values (7, 1)")
    teams_primary.query("insert into seats values (1, 7, 'ada')")
    record(teams_primary, "companies", 1)
    record(teams_primary, "companies", 2)
    record(teams_primary, "seats", 1)


@contextmanager
def without_the_rule(drain: Drain) -> Iterator[None]:
    """Let a worker claim every event."""
    claim = drain.queue.claim
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drain.queue, "claim", lambda limit, *_: claim(limit))
        yield


def apart(primary: TestDatabase) -> list[tuple[object, ...]]:
    """Return what is set apart: mapping, attempts, deaths, and whether it waits for a worker."""
    rows: list[tuple[object, ...]] = primary.query(
        "select mapping, attempts, deaths, unclaimed from mirror.retries order by id"
    )
    return rows


@pytest.mark.usefixtures("deploying")
def test_events_of_a_new_mapping_wait_for_a_worker_that_knows_it(
    teams_primary: TestDatabase, teams_target: TestDatabase, make: Make
) -> None:
    """Old workers mirror the others and never attempt these; a new worker takes them at once."""
    for _ in range(3):
        make(OLD).run()
    assert teams_target.value("select count(*) from seats") == 1
    assert apart(teams_primary) == [("companies", 0, 0, True)] * 2
    make(NEW).run()
    assert teams_target.query("select * from companies order by id") == [(1,), (2,)]
    assert apart(teams_primary) == []


@pytest.mark.usefixtures("deploying")
def test_a_worker_that_takes_every_event_holds_a_new_mapping_up(
    teams_primary: TestDatabase, teams_target: TestDatabase, make: Make
) -> None:
    """The same steps without the rule: the new worker has to wait."""
    old = make(OLD)
    with without_the_rule(old):
        old.run()
    make(NEW).run()
    assert teams_target.query("select * from companies") == []
    assert [mapping for mapping, *_ in apart(teams_primary)] == ["companies"] * 2


@pytest.mark.usefixtures("deploying")
def test_what_an_old_worker_left_is_taken_in_batches(
    teams_primary: TestDatabase, teams_target: TestDatabase, make: Make
) -> None:
    """A backlog of a new mapping is mirrored as fast as any other."""
    teams_primary.query(f"insert into companies select generate_series(3, {MANY})")
    teams_primary.query(
        "insert into mirror.outbox (mapping, key)"
        f" select 'companies', array[n::text] from generate_series(3, {MANY}) as n"
    )
    make(OLD).run()
    assert len(apart(teams_primary)) == MANY
    new = make(NEW)
    batches = 0
    while new.once().events:
        batches += 1
    assert teams_target.value("select count(*) from companies") == MANY
    assert batches <= MANY / 250


@pytest.mark.usefixtures("deploying")
def test_a_backlog_that_no_worker_knows_costs_other_claims_nothing(
    teams_primary: TestDatabase, make: Make
) -> None:
    """After the first look at it, no claim and no lease passes it again."""
    teams_primary.query(
        "insert into mirror.outbox (mapping, key)"
        f" select 'companies', array[n::text] from generate_series(3, {MANY}) as n"
    )
    old = make(OLD)
    old.run()
    assert len(apart(teams_primary)) == MANY
    teams_primary.query("vacuum analyze mirror.outbox, mirror.retries")
    known = [mapping.name for mapping in OLD]
    # The first run reads the catalog, too.
    pages_read(old.queue, 0, known)
    assert pages_read(old.queue, 0, known) < MANY / 50


@pytest.mark.usefixtures("deploying")
def test_an_event_behind_those_of_another_worker_is_not_lost(
    teams_primary: TestDatabase, make: Make
) -> None:
    """A claim looks at no more events than it may take, and then passes those that are locked."""
    known = [mapping.name for mapping in OLD]
    teams_primary.query("delete from mirror.outbox where mapping = 'companies'")
    record(teams_primary, "companies", 1)
    other = make(OLD).queue.claim(1, known)
    assert other is not None
    assert make(OLD).queue.claim(1, known) is None
    other.release()
    assert teams_primary.value("select count(*) from mirror.outbox") == 2
    make(OLD).run()
    assert apart(teams_primary) == [("companies", 0, 0, True)]


@pytest.mark.usefixtures("deploying")
def test_a_claim_that_is_given_back_leaves_the_event_where_it_was(
    teams_primary: TestDatabase, teams_target: TestDatabase, make: Make
) -> None:
    """The target is down while an old worker leaves it, and while a new one takes it."""
    claim = make(OLD).queue.claim(10, [mapping.name for mapping in OLD])
    assert claim is not None
    assert (len(claim), claim.left_out) == (1, 2)
    claim.release()
    assert teams_primary.value("select count(*) from mirror.outbox") == 3
    make(OLD).run()
    claim = make(NEW).queue.claim(10, ["companies"])
    assert claim is not None
    assert [event.key for event in claim.events] == [("1",), ("2",)]
    claim.release()
    assert apart(teams_primary) == [("companies", 0, 0, True)] * 2
    make(NEW).run()
    assert teams_target.value("select count(*) from companies") == 2


@pytest.mark.usefixtures("deploying")
def test_an_event_that_no_worker_knows_holds_back_the_freshness_of_its_mapping_alone(
    teams_primary: TestDatabase, make: Make
) -> None:
    """The change that it reports is not in force; those of other mappings are."""
    before = teams_primary.value("select min(transaction_id) from mirror.outbox")
    make(OLD).run()
    ((outbox, retries),) = teams_primary.query("select outbox, retries from mirror.look(0)")
    assert (outbox, retries) == (None, {"companies": before})


@pytest.mark.usefixtures("deploying")
def test_a_failed_event_is_left_to_a_worker_that_knows_its_mapping(
    teams_primary: TestDatabase, teams_target: TestDatabase, make: Make
) -> None:
    """An old worker that leases it for a retry counts no failure, and frees what it stood for."""
    new = make(NEW)
    teams_primary.query("alter table companies rename id to number")
    new.run()
    teams_primary.query("alter table companies rename number to id")
    teams_primary.query("update mirror.retries set due_at = now() where due_at < now() + '1 day'")
    attempts = teams_primary.value("select max(attempts) from mirror.retries")
    make(OLD).run()
    assert {(deaths, left) for _, _, deaths, left in apart(teams_primary)} == {(0, True)}
    assert teams_primary.value("select max(attempts) from mirror.retries") == attempts
    make(NEW).run()
    assert teams_target.value("select count(*) from companies") == 2


def test_a_mapping_of_another_version_stops_no_other_mapping(
    teams_primary: TestDatabase, teams_target: TestDatabase, make: Make
) -> None:
    """The target has new seats; an old worker leaves those and goes on with the documents."""
    new = Registry(
        "teams",
        [
            replace(teams.seats, active={"person": frozenset({"ada"})}),
            teams.folders,
            teams.documents,
        ],
    )
    with teams_target.migrating() as connection:
        upgrade(connection, "supabase", new)
    teams_primary.query("insert into companies values (1)")
    teams_primary.query("insert into workspaces values (7, 1)")
    teams_primary.query("insert into seats values (1, 7, 'ada')")
    teams_primary.query("insert into folders values (1, 'plans')")
    record(teams_primary, "seats", 1)
    record(teams_primary, "folders", 1)
    make(OLD).run()
    assert teams_target.query("select * from folders") == [(1, "plans")]
    assert apart(teams_primary) == [("seats", 0, 0, True)]
    make(new).run()
    assert teams_target.query("select * from seats") == [(1, "ada")]
    assert apart(teams_primary) == []
