"""Find: compares and judges the rows of a mapping, and adds rows that drifted to its findings.

Nothing is written to either database.
"""

import secrets
from collections.abc import Callable, Collection
from typing import Final, Literal

from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.reconcile.compare import Comparison, MissingRange
from mirror.reconcile.judge import Judge
from mirror.reconcile.mapping_findings import MappingFindings
from mirror.reconcile.pending_events import read_pending
from mirror.reconcile.primary_reader import PrimaryReader
from mirror.sync.drain import Drain
from mirror.sync.targets.reading import Hashing

_BATCH: Final = 1000

Phase = Literal["compare", "judge", "repair", "load", "count"]
Tick = Callable[[Phase, str, int, int, float], object]
"""Called often, with the phase, the mapping's name, the number of rows since the last call, the
estimated number of all rows (0: unknown), and the seconds that the target took for its last answer
(0: it was not asked)."""


class Finder:
    """Finds the rows that drifted.

    Args:
        drain: its connections are used.
        primary: reads the desired rows.
        tick: called often; see `Tick`.
        keys: how many keys of each mapping the report names at most.
        ignored: ids of retries that do not count as changes under way.
    """

    def __init__(
        self,
        drain: Drain,
        primary: PrimaryReader,
        tick: Tick,
        *,
        keys: int,
        ignored: Collection[int] = (),
    ) -> None:
        self.registry = drain.registry
        self.source = drain.source
        self.target = drain.target
        self.primary = primary
        self.judge = Judge(self.registry, drain.source, drain.target, ignored=ignored)
        self._tick = tick
        self._keys = keys
        self._transferred = 0

    @property
    def transferred(self) -> int:
        """Characters that were sent to the target, and received from both sides."""
        return self._transferred + self.judge.transferred

    def compare(self, findings: MappingFindings, start: Key | None) -> None:
        """Compare the mapping's rows, from key `start` on (None: all), and add the results.

        These are the suspects, the ranges that the target lacks, and the numbers of rows.

        Raises:
            Unreadable, TooSlow: as `Comparison.suspects`.
        """
        name = findings.mapping.name
        comparison = Comparison(
            self.primary,
            self.target,
            findings.mapping,
            self._choose_hashing(findings.mapping),
            tick=lambda seconds: self._tick("compare", name, 0, 0, seconds),
        )
        total = self.primary.estimate(findings.mapping)
        reported = 0
        # A comparison of rows does not notice a mark.
        withheld = set() if start else set(self.target.rows(findings.mapping, None))
        findings.suspects.add(withheld)
        for found in comparison.suspects(start):
            if isinstance(found, MissingRange):
                findings.loads.append(found)
            elif found - withheld:
                findings.suspects.add(found - withheld)
            self._tick("compare", name, comparison.rows - reported, total, 0.0)
            reported = comparison.rows
        self._tick("compare", name, comparison.rows - reported, comparison.rows, 0.0)
        findings.report.rows = comparison.rows
        findings.report.target_rows = comparison.target_rows
        self._transferred += comparison.transferred

    def _choose_hashing(self, mapping: Mapping) -> Hashing:
        """Return the faster hash function if both servers agree on its hashes, otherwise md5."""
        hashing = Hashing(secrets.randbits(62))
        if self.primary.probe(hashing) == self.target.probe(mapping, hashing):
            return hashing
        return Hashing(hashing.seed, md5=True)

    def judge_all(self, findings: MappingFindings) -> None:
        """Judge each suspect and add the drifts; count the rows of ranges that the target lacks.

        If an event about the whole mapping is not applied yet, the rows of these ranges count as
        rows with a change under way, and the ranges are dropped from the findings.
        """
        mapping, report = findings.mapping, findings.report
        for keys in findings.suspects.batches(_BATCH):
            verdict = self.judge.judge(mapping, keys)
            report.in_flight += len(verdict.in_flight)
            report.withheld += len(verdict.withheld)
            for drift in verdict.drifts:
                report.add_drift(drift, keys=self._keys)
                findings.add_drift(drift)
            self._tick("judge", mapping.name, len(keys), findings.suspects.count, 0.0)
        if not findings.loads:
            return
        rows = sum(load.rows for load in findings.loads)
        pending = read_pending(
            self.source.database, self.registry, {mapping.name: ()}, ignored=self.judge.ignored
        )
        if pending.find(mapping.name, (), ()).under_way:
            report.in_flight += rows
            findings.loads = []
        else:
            report.add_missing(rows)
