"""A row of a mapping that joins two tables changes when either table changes.

The writer records a scope. After commit, the drain finds the keys of the scope in the primary and
in the ledger.
"""

from collections.abc import Callable

import pytest

from mirror.sync.drain import Drain
from tests.faults import teams
from tests.faults.tools import DirectWriter, HungWorker, Running, record, rewrite, waiting
from tests.support.databases import TestDatabase
from tests.support.rest import both_transports
from tests.support.waiting import until

pytestmark = both_transports


@pytest.fixture(autouse=True)
def company(teams_primary: TestDatabase) -> None:
    """Company 1 has the workspaces 7 and 8."""
    teams_primary.query("insert into companies values (1)")
    teams_primary.query("insert into workspaces values (7, 1), (8, 1)")


def seats(target: TestDatabase) -> list[int]:
    """Return the ids of the seats in the target."""
    return [row[0] for row in target.query("select id from seats order by id")]


def archive_while_a_member_joins(
    primary: TestDatabase, drain: Drain, events_of_the_writer: str
) -> None:
    """Insert seat 1 without commit, archive workspace 7, then commit the seat first."""
    with (
        primary.connect(autocommit=False) as joining,
        primary.connect(autocommit=False) as archiving,
    ):
        joining.execute("insert into seats values (1, 7, 'ann')")
        joining.execute("insert into mirror.outbox (mapping, key) values ('seats', '{1}')")
        archiving.execute("update workspaces set archived = true where id = 7")
        archiving.execute(events_of_the_writer)
        joining.commit()
        drain.run()
        archiving.commit()
    drain.run()


def test_a_member_who_joins_while_the_workspace_is_archived_stays_out(
    teams_primary: TestDatabase, teams_target: TestDatabase, teams_drain: Drain
) -> None:
    """The archiving transaction cannot see the seat, but the scope that it records finds it."""
    archive_while_a_member_joins(
        teams_primary,
        teams_drain,
        "insert into mirror.outbox (mapping, reference, key)"
        " values ('seats', 'workspace_id', '{7}')",
    )
    assert seats(teams_target) == []


def test_a_writer_that_looks_up_the_keys_itself_misses_a_member_who_joins(
    teams_primary: TestDatabase, teams_target: TestDatabase, teams_drain: Drain
) -> None:
    """The same steps without the rule: a seat in an archived workspace is mirrored."""
    archive_while_a_member_joins(
        teams_primary,
        teams_drain,
        "insert into mirror.outbox (mapping, key)"
        " select 'seats', array[id::text] from seats where workspace_id = 7",
    )
    assert seats(teams_target) == [1]


def delete_the_company(primary: TestDatabase, drain: Drain) -> None:
    """Mirror seats, then delete the company, and by cascade all rows that lead to the seats."""
    primary.query("insert into seats values (1, 7, 'ann'), (2, 8, 'bob')")
    record(primary, "seats", reference="*")
    drain.run()
    primary.query("delete from companies where id = 1")
    record(primary, "seats", 1, reference="company_id")
    drain.run()


def test_rows_gone_by_cascade_are_found_in_the_ledger(
    teams_primary: TestDatabase, teams_target: TestDatabase, teams_drain: Drain
) -> None:
    """No query on the primary can tell any more to which company these seats belonged."""
    delete_the_company(teams_primary, teams_drain)
    assert seats(teams_target) == []


def test_without_the_ledger_rows_gone_by_cascade_stay(
    teams_primary: TestDatabase, teams_target: TestDatabase, teams_drain: Drain
) -> None:
    """The same steps without the rule."""
    rewrite(teams_target, "open_scopes", "where l.present", "where false and l.present")
    delete_the_company(teams_primary, teams_drain)
    assert seats(teams_target) == [1, 2]


def write_an_old_read_after_archiving(
    primary: TestDatabase, drain: Drain, scope: str = "7"
) -> list[object]:
    """Read seat 1, archive its workspace and mirror that; then write the old read."""
    primary.query("insert into seats values (1, 7, 'ann')")
    worker = HungWorker(drain.source, drain.target, teams.registry, "seats", [("1",)])
    primary.query("update workspaces set archived = true where id = 7")
    record(primary, "seats", scope, reference="workspace_id")
    drain.run()
    return list(worker.wake())


def test_a_hung_read_of_a_key_without_a_ledger_row_is_refused(
    teams_primary: TestDatabase, teams_target: TestDatabase, teams_drain: Drain
) -> None:
    """The key has no ledger row; its closed scope refuses it."""
    assert write_an_old_read_after_archiving(teams_primary, teams_drain) == [("1",)]
    assert seats(teams_target) == []


def test_without_scope_fences_a_hung_read_grants_for_ever(
    teams_primary: TestDatabase, teams_target: TestDatabase, teams_drain: Drain
) -> None:
    """The same steps without the rule."""
    rewrite(teams_target, "apply_seats", "s.epoch = p_epoch", "false")
    write_an_old_read_after_archiving(teams_primary, teams_drain)
    assert seats(teams_target) == [1]


@pytest.mark.parametrize("spelling", ["007", "+7"])
def test_a_scope_is_closed_however_its_value_is_spelled(
    teams_primary: TestDatabase, teams_target: TestDatabase, teams_drain: Drain, spelling: str
) -> None:
    """A trigger outside the mirror may write the value in another form."""
    assert write_an_old_read_after_archiving(teams_primary, teams_drain, spelling) == [("1",)]
    assert seats(teams_target) == []


def test_the_whole_mapping_is_a_scope_too(
    teams_primary: TestDatabase, teams_target: TestDatabase, teams_drain: Drain
) -> None:
    """A read of the whole mapping closes every key."""
    teams_primary.query("insert into seats values (1, 7, 'ann')")
    worker = HungWorker(teams_drain.source, teams_drain.target, teams.registry, "seats", [("1",)])
    teams_primary.query("delete from seats")
    record(teams_primary, "seats", reference="*")
    teams_drain.run()
    assert worker.wake() == [("1",)]


def test_a_row_that_moved_is_found_under_the_scope_it_left(
    teams_primary: TestDatabase, teams_target: TestDatabase, teams_drain: Drain
) -> None:
    """It is written with its new reference, not deleted."""
    teams_primary.query("insert into seats values (1, 7, 'ann')")
    record(teams_primary, "seats", 1)
    teams_drain.run()
    teams_primary.query("update seats set workspace_id = 8")
    record(teams_primary, "seats", 7, reference="workspace_id")
    teams_drain.run()
    assert seats(teams_target) == [1]
    assert teams_target.value("select ref_workspace_id from mirror.ledger_seats") == 8


def open_during_a_write(
    writer: DirectWriter, target: TestDatabase, *, waits: bool
) -> list[tuple[str, ...]]:
    """Open a scope while a write of an older read under it is not committed."""
    request = """{"identity": "a primary", "epoch": 0, "fence": 10, "sections": [
      {"mapping": "seats", "digest": "%s", "rows": [["1", "ann", "7", "1"]], "gone": []}]}"""
    # The first write to a target locks the row that keeps the primary's identity.
    writer.apply(1, seats={99: None})
    other = DirectWriter.at(target.url, writer.registry)
    with target.connect(autocommit=False) as writing:
        digest = writer.registry["seats"].digest
        writing.execute("select public.mirror_apply(%s)", [request.replace("%s", digest)])
        opening = Running(lambda: other.open(20, "seats", "workspace_id", 7))
        if waits:
            until(lambda: waiting(target))
        else:
            opening.wait()
        writing.commit()
    try:
        known: list[tuple[str, ...]] = opening.wait()
    finally:
        other.target.close()
    return known


def test_opening_a_scope_waits_for_writes_under_it(
    teams_writer: DirectWriter, teams_target: TestDatabase
) -> None:
    """Otherwise it would not refuse that write, and would not know its key."""
    assert open_during_a_write(teams_writer, teams_target, waits=True) == [("1",)]


def test_without_that_lock_a_write_slips_past_the_scope(
    teams_writer: DirectWriter, teams_target: TestDatabase
) -> None:
    """The same steps without the rule: the row is mirrored, but the scope's reader misses it."""
    rewrite(
        teams_target,
        "lock",
        "perform pg_catalog.pg_advisory_xact_lock(lock_class",
        "perform pg_catalog.pg_advisory_xact_lock_shared(lock_class",
    )
    assert open_during_a_write(teams_writer, teams_target, waits=False) == []
    assert seats(teams_target) == [1]


def test_ordinary_writes_do_not_wait_for_each_other(
    teams_writer: DirectWriter, teams_target: TestDatabase
) -> None:
    """They share the lock, except the first one, which sets the primary's identity."""
    teams_writer.apply(5, seats={2: None})
    with teams_target.connect(autocommit=False) as writing:
        writing.execute("select pg_advisory_xact_lock_shared(1835627122, 1)")
        teams_writer.apply(10, seats={1: ("1", "ann", "7", "1")})
    assert seats(teams_target) == [1]


def test_a_scope_larger_than_a_batch_goes_on_in_pieces(
    teams_primary: TestDatabase,
    teams_target: TestDatabase,
    make_teams_drain: Callable[..., Drain],
) -> None:
    """New rows, changed rows and deleted rows: both sides are equal at the end."""
    drain = make_teams_drain(batch_size=10)
    teams_primary.query("insert into seats select n, 7, 'old' from generate_series(1, 100) as n")
    record(teams_primary, "seats", 7, reference="workspace_id")
    drain.run()
    assert len(seats(teams_target)) == 100
    teams_primary.query("delete from seats where id between 30 and 69")
    teams_primary.query("update seats set person = 'new' where id > 90")
    teams_primary.query("insert into seats select n, 7, 'new' from generate_series(101, 130) as n")
    record(teams_primary, "seats", 7, reference="workspace_id")
    drain.run()
    expected = teams_primary.query("select id, person from seats order by id")
    assert teams_target.query("select id, person from seats order by id") == expected
    assert teams_primary.value("select count(*) from mirror.outbox") == 0


def test_the_same_large_scope_named_often_is_read_once(
    teams_primary: TestDatabase,
    teams_target: TestDatabase,
    make_teams_drain: Callable[..., Drain],
) -> None:
    """Two hundred changes of one workspace in one batch leave one event for the rest."""
    drain = make_teams_drain(batch_size=200)
    teams_primary.query("insert into seats select n, 7, 'ann' from generate_series(1, 250) as n")
    for _ in range(200):
        record(teams_primary, "seats", 7, reference="workspace_id")
    drain.once()
    assert teams_primary.value("select count(*) from mirror.outbox") == 1
    drain.run()
    assert len(seats(teams_target)) == 250


def test_many_scopes_at_once_are_read_together(
    teams_primary: TestDatabase, teams_target: TestDatabase, teams_drain: Drain
) -> None:
    """One batch has three hundred workspaces with two seats each."""
    teams_primary.query("insert into workspaces select n, 1 from generate_series(100, 399) as n")
    teams_primary.query(
        "insert into seats select 2 * n + i, n, 'ann'"
        " from generate_series(100, 399) as n, generate_series(0, 1) as i"
    )
    teams_primary.query(
        "insert into mirror.outbox (mapping, reference, key)"
        " select 'seats', 'workspace_id', array[id::text] from workspaces"
    )
    teams_drain.run()
    assert len(seats(teams_target)) == 600
    teams_primary.query("update workspaces set archived = true where id < 200")
    teams_primary.query(
        "insert into mirror.outbox (mapping, reference, key)"
        " select 'seats', 'workspace_id', array[id::text] from workspaces where archived"
    )
    teams_drain.run()
    assert len(seats(teams_target)) == 400


def test_writes_between_the_pieces_of_a_scope_are_not_lost(
    teams_primary: TestDatabase,
    teams_target: TestDatabase,
    make_teams_drain: Callable[..., Drain],
) -> None:
    """One seat is inserted and one deleted on the page that is already read."""
    drain = make_teams_drain(batch_size=10)
    teams_primary.query("insert into seats select 2 * n, 7, 'ann' from generate_series(1, 60) as n")
    record(teams_primary, "seats", 7, reference="workspace_id")
    drain.once()
    teams_primary.query("delete from seats where id = 4")
    record(teams_primary, "seats", 4)
    teams_primary.query("insert into seats values (5, 7, 'bob')")
    record(teams_primary, "seats", 5, lane=1)
    drain.run()
    expected = [row[0] for row in teams_primary.query("select id from seats order by id")]
    assert seats(teams_target) == expected


def test_only_the_first_page_of_a_scope_closes_it(
    teams_writer: DirectWriter, teams_target: TestDatabase
) -> None:
    """If each of a thousand pages closed it, other workers would read again a thousand times."""
    teams_writer.open(10, "seats", "*", "")
    teams_writer.open(20, "seats", "*", "", after=("1",))
    assert teams_writer.apply(15, seats={"2": ("2", "bob", "7", "1")})["seats"].stale == []
    teams_writer.open(30, "seats", "*", "")
    assert teams_writer.apply(25, seats={"3": ("3", "cid", "7", "1")})["seats"].stale == [("3",)]
