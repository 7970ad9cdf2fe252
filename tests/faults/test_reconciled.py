"""A reconcile of the model `teams`: references without a column, rows without their parent."""

from mirror.reconcile import Options, Throttle
from mirror.reconcile import reconcile as run
from mirror.reconcile.compare import Comparison
from mirror.reconcile.primary_reader import PrimaryReader
from mirror.sync.drain import Drain
from mirror.sync.targets.reading import Hashing
from tests.faults.tools import record
from tests.support.databases import TestDatabase


def test_references_that_only_the_ledger_keeps_are_compared(
    teams_primary: TestDatabase, teams_target: TestDatabase, teams_drain: Drain
) -> None:
    """A seat moves to another workspace without an event; its visible row stays the same.

    When that workspace is archived, only the ledger knows its seats.
    """
    for statement in (
        "insert into companies values (1)",
        "insert into workspaces (id, company_id) values (1, 1), (2, 1)",
        "insert into seats values (10, 1, 'ann'), (11, 1, 'bob')",
        "insert into folders values (1, 'one')",
        "insert into documents values (1, 1, 'a'), (2, 7, 'its folder is nowhere')",
    ):
        teams_primary.query(statement)
    options = Options(grace_seconds=0)
    throttle = Throttle(teams_drain.queue.beside, backlog=10**9, latency_seconds=60)
    assert run(teams_drain, options, throttle).outcome == "repaired"
    assert teams_target.query("select id from documents") == [(1,)]
    assert run(teams_drain, options, throttle).outcome == "in line"

    # A row without its parent is not suspected, however many there are.
    primary = PrimaryReader(teams_drain.registry, teams_drain.source)
    documents = teams_drain.registry["documents"]
    assert not list(Comparison(primary, teams_drain.target, documents, Hashing(7)).suspects())

    teams_primary.query("update seats set workspace_id = 2 where id = 10")
    report = run(teams_drain, options, throttle)
    seats = next(part for part in report.mappings if part.mapping == "seats")
    assert (seats.ledger, seats.repaired) == (1, 1)
    teams_primary.query("update workspaces set archived = true where id = 2")
    record(teams_primary, "seats", 2, reference="workspace_id")
    teams_drain.run()
    assert teams_target.query("select id from seats") == [(11,)]
