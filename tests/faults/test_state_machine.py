"""The target's functions against a model: any workers, any order, any of them hung for ever.

The primary is a list of versions; a read's fence is the version's number. Folders come and go,
one of them held back by somebody's foreign key; documents come, go, change and move between
folders. Workers read keys or whole folders at some version and write when they like, or never.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mirror.errors import MirrorError
from mirror.model.keys import Key
from mirror.sync.row_queries import Row
from mirror.sync.targets.writing import Answers, TooOld
from tests.faults import teams
from tests.faults.tools import Hand, rewrite, sections
from tests.support.databases import TestDatabase

FOLDERS, DOCUMENTS = (1, 2), tuple(range(1, 9))
PINNED = 1
"""The folder that a table of somebody else's holds back."""

folders = st.sampled_from(FOLDERS)
documents = st.sampled_from(DOCUMENTS)


@dataclass(frozen=True)
class Version:
    """One state of the primary."""

    folders: frozenset[int] = frozenset()
    documents: dict[int, tuple[int, str]] = field(default_factory=dict)
    """By id: the folder and the title. The folder need not be there."""

    def folder(self, number: int) -> tuple[str, str] | None:
        """Return the desired row of a folder."""
        return (str(number), f"folder {number}") if number in self.folders else None

    def document(self, number: int) -> tuple[str, str, str] | None:
        """Return the desired row of a document."""
        if number not in self.documents:
            return None
        folder, title = self.documents[number]
        return (str(number), str(folder), title)

    def under(self, folder: int) -> set[int]:
        """Return the documents of a folder."""
        return {number for number, (place, _) in self.documents.items() if place == folder}


Wanted = Mapping[int, Row | None]
"""By number: a row as it should be, or None for no row."""


@dataclass
class Worker:
    """What a worker has read and not written yet."""

    fence: int
    rows: dict[str, Wanted]
    scope: int | None = None
    """The folder it has opened, if it reads one as a whole."""


class Protocol(RuleBasedStateMachine):
    """One example: a primary's history, a target, and workers between them."""

    database: ClassVar[TestDatabase]
    connection: ClassVar[psycopg.Connection[tuple[object, ...]]]
    hand: ClassVar[Hand]

    workers = Bundle("workers")

    def __init__(self) -> None:
        super().__init__()
        self.connection.execute(
            "truncate folders, documents, pins,"
            " mirror.ledger_folders, mirror.ledger_documents, mirror.scopes;"
            " update mirror.state set epoch = 0, horizon = 0, identity = null where one"
        )
        self.history = [Version(frozenset(FOLDERS))]
        self.hand.apply(0, folders={folder: self.now.folder(folder) for folder in FOLDERS})
        self.connection.execute("insert into pins values (%s)", [PINNED])
        self.written: dict[int, int] = {}
        """By document: the newest fence at which it was written."""
        self.closed: dict[int, int] = {}
        """By folder: the newest fence at which it was read as a whole, or was gone."""

    @property
    def now(self) -> Version:
        """The primary as it is."""
        return self.history[-1]

    @property
    def fence(self) -> int:
        """A fresh read's fence."""
        return len(self.history) - 1

    # Few rules, each with many forms: an example that leaves some out still has them all.

    @rule(
        form=st.sampled_from(["put"] * 5 + ["remove", "empty", "flip", "cascade"]),
        folder=folders,
        document=documents,
    )
    def change(self, form: str, folder: int, document: int) -> None:
        """The primary changes: a document, a folder, or both."""
        there, rows = self.now.folders, dict(self.now.documents)
        if form == "put":
            # The title tells the version.
            rows[document] = (folder, f"title {len(self.history)}")
        elif form == "remove":
            rows.pop(document, None)
        elif form == "flip":
            there ^= {folder}
        else:
            rows = {number: row for number, row in rows.items() if row[0] != folder}
            there = there - {folder} if form == "cascade" else there
        self.history.append(Version(there, rows))

    @rule(
        target=workers,
        form=st.sampled_from(["key", "documents", "documents", "folder", "scope", "scope"]),
        folder=folders,
        document=documents,
        age=st.integers(min_value=0, max_value=3),
    )
    def read(self, form: str, folder: int, document: int, age: int) -> Worker:
        """A worker reads; its snapshot may be a while old before anything else happens."""
        fence = max(self.fence - age, 0)
        version = self.history[fence]
        below = {number: version.document(number) for number in version.under(folder)}
        if form == "key":
            return Worker(fence, {"documents": {document: version.document(document)}})
        if form == "documents":
            # Each by its key: the scope stays open.
            return Worker(fence, {"documents": below})
        if form == "folder":
            # If it is there, with everything in it.
            with_documents = {"documents": below} if folder in version.folders else {}
            return Worker(fence, {"folders": {folder: version.folder(folder)}, **with_documents})
        try:
            known = self.hand.open(fence, "documents", "folder_id", folder)
        except TooOld:
            return Worker(fence, {})
        left = {int(key[0]): version.document(int(key[0])) for key in known}
        return Worker(fence, {"documents": left | below}, scope=folder)

    # Workers write

    @rule(worker=consumes(workers))
    def write(self, worker: Worker) -> None:
        """One of them wakes up."""
        self.apply(worker)

    @rule(worker=workers)
    def write_again(self, worker: Worker) -> None:
        """An answer was lost: the same write will arrive again."""
        self.apply(worker)

    def apply(self, worker: Worker) -> None:
        """Write and note what the answer says of the target's knowledge."""
        try:
            answers = self.send(worker.fence, worker.rows)
        except TooOld:
            assert worker.fence < self.hand.target.describe().horizon
            return
        for number, row in worker.rows.get("folders", {}).items():
            if row is None and (str(number),) not in answers["folders"].stale:
                self.closed[number] = max(self.closed.get(number, 0), worker.fence)
        refused = answers["documents"].stale if "documents" in answers else []
        # What was refused is on somebody's way already, and until it arrives the old row stays.
        if worker.scope is not None and not refused:
            self.closed[worker.scope] = max(self.closed.get(worker.scope, 0), worker.fence)
        for number in worker.rows.get("documents", {}):
            answer = answers["documents"]
            key: Key = (str(number),)
            if key in answer.stale:
                known = max(self.written.get(number, -1), *self.closed.values(), self.opened(), -1)
                assert known > worker.fence, "refused though nothing fresher is known"
            elif key not in answer.orphans:
                assert worker.fence >= self.written.get(number, 0), "went back in time"
                self.written[number] = worker.fence

    def opened(self) -> int:
        """Return the newest fence at which any scope was opened."""
        query = "select coalesce(max(fence), -1) from mirror.scopes"
        return int(str(self.connection.execute(query).fetchall()[0][0]))

    def send(self, fence: int, rows: Mapping[str, Wanted]) -> Answers:
        """Write, and do with orphans what a round does: what has no parent has no place."""
        answers = self.hand.write(fence, sections(teams.registry, rows)) if rows else {}
        orphans = answers["documents"].orphans if "documents" in answers else []
        if orphans:
            left = self.hand.apply(fence, documents=dict.fromkeys(int(k[0]) for k in orphans))
            for key in orphans:
                if key not in left["documents"].stale:
                    self.written[int(key[0])] = fence
        return answers

    @precondition(lambda self: self.fence > 5)
    @rule()
    def purge(self) -> None:
        """Time passes, and what is old is forgotten; workers hung for as long wake up later."""
        self.hand.target.purge(0)

    # What must hold

    @invariant()
    def nothing_contradicts_the_newest_read(self) -> None:
        """Each row is as it was when it was read last, and in no scope that was closed since."""
        there = self.connection.execute(
            "select d.id, d.folder_id, d.title, l.present is true"
            " from documents as d left join mirror.ledger_folders as l on l.id = d.folder_id"
        )
        for number, folder, title, has_parent in there:
            assert isinstance(number, int)
            assert isinstance(folder, int)
            read = self.written[number]
            assert (folder, title) == self.history[read].documents.get(number)
            assert has_parent, "its folder is gone"
            assert read >= self.closed.get(folder, 0), "its folder was read without it since"

    def teardown(self) -> None:
        """Read everything once more: the target equals the primary, whoever was abandoned."""
        fence, now = self.fence, self.now
        for folder in FOLDERS:
            known = self.hand.open(fence, "documents", "folder_id", folder)
            self.hand.apply(
                fence,
                folders={folder: now.folder(folder)},
                documents={int(key[0]): now.document(int(key[0])) for key in known},
            )
        self.send(fence, {"documents": {number: now.document(number) for number in DOCUMENTS}})
        there = self.connection.execute("select id from folders where name is not null").fetchall()
        assert {row[0] for row in there} == now.folders
        rows = self.connection.execute("select id, folder_id, title from documents").fetchall()
        assert {row[0]: row[1:] for row in rows} == {
            number: row for number, row in now.documents.items() if row[0] in now.folders
        }


@pytest.fixture
def protocol(teams_target: TestDatabase) -> Iterator[type[Protocol]]:
    """The machine, on a database that its examples share."""
    teams_target.query("create table pins (folder_id bigint references folders)")
    with teams_target.connect() as connection:
        Protocol.database = teams_target
        Protocol.connection = connection
        Protocol.hand = Hand.at(teams_target.url, teams.registry)
        yield Protocol
        Protocol.hand.target.close()


def run(machine: type[Protocol], *, examples: int, phases: Sequence[Phase]) -> None:
    """Run a number of examples, the same each time."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            phases=phases,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_no_order_of_reads_and_writes_leaves_the_target_wrong(protocol: type[Protocol]) -> None:
    """Neither on the way nor in the end."""
    run(protocol, examples=120, phases=(Phase.generate, Phase.shrink))


RULES = {
    "fences": [
        ("apply_documents", "coalesce(k.newest > p_fence, false) as stale", "false as stale"),
        ("apply_documents", "where (l.epoch, l.fence) <= (excluded.epoch, excluded.fence)", ""),
    ],
    "scope fences": [("apply_documents", "s.epoch = p_epoch", "false")],
    "horizon": [("apply", "if fence < horizon then", "if false then")],
    "held back parents": [
        ("apply_documents", "p.id = k.folder_id and p.present", "p.id = k.folder_id")
    ],
}


# With which the search is short; with others it is longer, or finds nothing in time.
SEEDS = {"fences": 0, "scope fences": 4, "horizon": 1, "held back parents": 0}


# Searching takes a busy machine long.
@pytest.mark.timeout(400)
@pytest.mark.parametrize("missing", RULES)
def test_the_machine_finds_out_when_a_rule_is_missing(
    protocol: type[Protocol], missing: str
) -> None:
    """Else its silence would mean nothing."""
    for function, guard, instead in RULES[missing]:
        rewrite(protocol.database, function, guard, instead)
    with pytest.raises((AssertionError, KeyError, MirrorError)):
        run(seed(SEEDS[missing])(protocol), examples=1500, phases=(Phase.generate,))
