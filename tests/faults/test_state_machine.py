"""The target's functions against a model: any workers in any order, and any of them may hang.

The primary is a list of versions, and the fence of a read is the version's number. Folders are
deleted and restored; a foreign key of another table holds one of them back. Documents are created,
changed, moved between folders and deleted. Workers read keys or whole folders at some version, and
write later or never.
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
from tests.faults.tools import DirectWriter, rewrite, sections
from tests.support.databases import TestDatabase

FOLDERS, DOCUMENTS = (1, 2), tuple(range(1, 9))
PINNED = 1
"""The folder that a foreign key of another table holds back."""

folders = st.sampled_from(FOLDERS)
documents = st.sampled_from(DOCUMENTS)


@dataclass(frozen=True)
class Version:
    """One state of the primary."""

    folders: frozenset[int] = frozenset()
    documents: dict[int, tuple[int, str]] = field(default_factory=dict)
    """By id: the folder and the title. The folder may be absent."""

    def folder(self, number: int) -> tuple[str, str] | None:
        """Return the desired row of a folder, or None."""
        return (str(number), f"folder {number}") if number in self.folders else None

    def document(self, number: int) -> tuple[str, str, str] | None:
        """Return the desired row of a document, or None."""
        if number not in self.documents:
            return None
        folder, title = self.documents[number]
        return (str(number), str(folder), title)

    def under(self, folder: int) -> set[int]:
        """Return the documents of a folder."""
        return {number for number, (place, _) in self.documents.items() if place == folder}


DesiredRows = Mapping[int, Row | None]
"""By number: the desired row, or None for no row."""


@dataclass
class Worker:
    """A read that is not written yet."""

    fence: int
    rows: dict[str, DesiredRows]
    scope: int | None = None
    """The folder whose scope it has opened, if it read a whole folder."""


class Protocol(RuleBasedStateMachine):
    """One example: the history of a primary, a target, and workers between them."""

    database: ClassVar[TestDatabase]
    connection: ClassVar[psycopg.Connection[tuple[object, ...]]]
    writer: ClassVar[DirectWriter]

    workers = Bundle("workers")

    def __init__(self) -> None:
        super().__init__()
        self.connection.execute(
            "truncate folders, documents, pins,"
            " mirror.ledger_folders, mirror.ledger_documents, mirror.scopes;"
            " update mirror.state set epoch = 0, horizon = 0, identity = null where one"
        )
        self.history = [Version(frozenset(FOLDERS))]
        self.writer.apply(0, folders={folder: self.now.folder(folder) for folder in FOLDERS})
        self.connection.execute("insert into pins values (%s)", [PINNED])
        self.written: dict[int, int] = {}
        """By document: the newest fence at which it was written."""
        self.closed: dict[int, int] = {}
        """By folder: the newest fence at which it was read as a whole, or was gone."""

    @property
    def now(self) -> Version:
        """The primary's present version."""
        return self.history[-1]

    @property
    def fence(self) -> int:
        """The fence of a fresh read."""
        return len(self.history) - 1

    # Few rules with many forms: Hypothesis leaves whole rules out of some examples.

    @rule(
        form=st.sampled_from(["put"] * 5 + ["remove", "empty", "flip", "cascade"]),
        folder=folders,
        document=documents,
    )
    def change(self, form: str, folder: int, document: int) -> None:
        """The primary changes: a document, a folder, or both."""
        present, rows = self.now.folders, dict(self.now.documents)
        if form == "put":
            # The title contains the version.
            rows[document] = (folder, f"title {len(self.history)}")
        elif form == "remove":
            rows.pop(document, None)
        elif form == "flip":
            present ^= {folder}
        else:
            rows = {number: row for number, row in rows.items() if row[0] != folder}
            present = present - {folder} if form == "cascade" else present
        self.history.append(Version(present, rows))

    @rule(
        target=workers,
        form=st.sampled_from(["key", "documents", "documents", "folder", "scope", "scope"]),
        folder=folders,
        document=documents,
        age=st.integers(min_value=0, max_value=3),
    )
    def read(self, form: str, folder: int, document: int, age: int) -> Worker:
        """A worker reads; its snapshot may be up to three versions old."""
        fence = max(self.fence - age, 0)
        version = self.history[fence]
        contents = {number: version.document(number) for number in version.under(folder)}
        if form == "key":
            return Worker(fence, {"documents": {document: version.document(document)}})
        if form == "documents":
            # The worker reads each document by its key, so the scope stays open.
            return Worker(fence, {"documents": contents})
        if form == "folder":
            # A present folder comes with all of its documents.
            with_documents = {"documents": contents} if folder in version.folders else {}
            return Worker(fence, {"folders": {folder: version.folder(folder)}, **with_documents})
        try:
            known = self.writer.open(fence, "documents", "folder_id", folder)
        except TooOld:
            return Worker(fence, {})
        left = {int(key[0]): version.document(int(key[0])) for key in known}
        return Worker(fence, {"documents": left | contents}, scope=folder)

    # Writes of workers

    @rule(worker=consumes(workers))
    def write(self, worker: Worker) -> None:
        """A hung worker wakes and writes."""
        self.apply(worker)

    @rule(worker=workers)
    def write_again(self, worker: Worker) -> None:
        """An answer was lost, so the same write arrives again."""
        self.apply(worker)

    def apply(self, worker: Worker) -> None:
        """Write, and compare the answer with the newest reads that the target has accepted."""
        try:
            answers = self.send(worker.fence, worker.rows)
        except TooOld:
            assert worker.fence < self.writer.target.describe().horizon
            return
        for number, row in worker.rows.get("folders", {}).items():
            if row is None and (str(number),) not in answers["folders"].stale:
                self.closed[number] = max(self.closed.get(number, 0), worker.fence)
        refused = answers["documents"].stale if "documents" in answers else []
        # A newer read of a refused row is on its way; the old row stays until it arrives.
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
        """Return the newest fence at which a scope was opened, or -1."""
        query = "select coalesce(max(fence), -1) from mirror.scopes"
        return int(str(self.connection.execute(query).fetchall()[0][0]))

    def send(self, fence: int, rows: Mapping[str, DesiredRows]) -> Answers:
        """Write; delete orphans, as a sync pass does, because their parent is absent."""
        answers = self.writer.write(fence, sections(teams.registry, rows)) if rows else {}
        orphans = answers["documents"].orphans if "documents" in answers else []
        if orphans:
            left = self.writer.apply(fence, documents=dict.fromkeys(int(k[0]) for k in orphans))
            for key in orphans:
                if key not in left["documents"].stale:
                    self.written[int(key[0])] = fence
        return answers

    @precondition(lambda self: self.fence > 5)
    @rule()
    def purge(self) -> None:
        """The target forgets old tombstones; workers that have hung for as long wake later."""
        self.writer.target.purge(0)

    # Invariants

    @invariant()
    def nothing_contradicts_the_newest_read(self) -> None:
        """Each row equals its newest read, and no scope that was closed later contains it."""
        present = self.connection.execute(
            "select d.id, d.folder_id, d.title, l.present is true"
            " from documents as d left join mirror.ledger_folders as l on l.id = d.folder_id"
        )
        for number, folder, title, has_parent in present:
            assert isinstance(number, int)
            assert isinstance(folder, int)
            read = self.written[number]
            assert (folder, title) == self.history[read].documents.get(number)
            assert has_parent, "its folder is gone"
            assert read >= self.closed.get(folder, 0), "its folder was read without it since"

    def teardown(self) -> None:
        """Read everything again: the target equals the primary, though some workers never wrote."""
        fence, now = self.fence, self.now
        for folder in FOLDERS:
            known = self.writer.open(fence, "documents", "folder_id", folder)
            self.writer.apply(
                fence,
                folders={folder: now.folder(folder)},
                documents={int(key[0]): now.document(int(key[0])) for key in known},
            )
        self.send(fence, {"documents": {number: now.document(number) for number in DOCUMENTS}})
        present = self.connection.execute(
            "select id from folders where name is not null"
        ).fetchall()
        assert {row[0] for row in present} == now.folders
        rows = self.connection.execute("select id, folder_id, title from documents").fetchall()
        assert {row[0]: row[1:] for row in rows} == {
            number: row for number, row in now.documents.items() if row[0] in now.folders
        }


@pytest.fixture
def protocol(teams_target: TestDatabase) -> Iterator[type[Protocol]]:
    """The state machine, on a database that its examples share."""
    teams_target.query("create table pins (folder_id bigint references folders)")
    with teams_target.connect() as connection:
        Protocol.database = teams_target
        Protocol.connection = connection
        Protocol.writer = DirectWriter.at(teams_target.url, teams.registry)
        yield Protocol
        Protocol.writer.target.close()


def run(machine: type[Protocol], *, examples: int, phases: Sequence[Phase]) -> None:
    """Run a number of examples; they are the same each time."""
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


@pytest.mark.timeout(400)
@pytest.mark.parametrize("examples", [40, pytest.param(400, marks=pytest.mark.long)])
def test_no_order_of_reads_and_writes_leaves_the_target_wrong(
    protocol: type[Protocol], examples: int
) -> None:
    """Neither between the writes nor at the end."""
    run(protocol, examples=examples, phases=(Phase.generate, Phase.shrink))


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


# With these seeds the search is short; with others it takes longer, or finds nothing in time.
SEEDS = {"fences": 0, "scope fences": 4, "horizon": 1, "held back parents": 0}


# On a busy machine the search takes long.
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "missing",
    [
        "fences",
        "horizon",
        "held back parents",
        pytest.param("scope fences", marks=pytest.mark.long),
    ],
)
def test_the_state_machine_notices_each_missing_rule(
    protocol: type[Protocol], missing: str
) -> None:
    """Otherwise a search that finds no error would prove nothing."""
    for function, guard, instead in RULES[missing]:
        rewrite(protocol.database, function, guard, instead)
    with pytest.raises((AssertionError, KeyError, MirrorError)):
        run(seed(SEEDS[missing])(protocol), examples=1500, phases=(Phase.generate,))
