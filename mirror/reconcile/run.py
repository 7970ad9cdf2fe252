"""Run: executes one reconcile, from the comparison to the report.

All mappings are compared before anything is written, because the number of deletes decides whether
any row may be deleted. Then over-grants of all mappings are repaired, before under-grants.
"""

import time
from collections.abc import Callable
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, field

from mirror.errors import NotPaired, UsageError
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.reconcile.delete_limit import refuse_deletes
from mirror.reconcile.find import Finder, Phase
from mirror.reconcile.lease import Lease
from mirror.reconcile.load import Loader
from mirror.reconcile.mapping_findings import MappingFindings
from mirror.reconcile.primary_reader import PrimaryReader
from mirror.reconcile.repair import Repairer, RepairItem
from mirror.reconcile.report import MappingReport, Report
from mirror.reconcile.spool import Spool
from mirror.reconcile.throttle import Throttle
from mirror.sync.drain import Drain
from mirror.sync.stepping import find_parting
from mirror.sync.structure import note_structures, read_structures

Progress = Callable[[Phase, str, int, int], object]
"""Called with the phase, the mapping's name, the number of rows since the last call, and the
estimated number of all rows (0: unknown)."""


@dataclass(frozen=True)
class Options:
    """The options of a run."""

    mappings: tuple[str, ...] = ()
    """Names of the mappings to compare; empty: all."""
    since_key: Key | None = None
    """Compare only from this key on; allowed with one mapping."""
    dry_run: bool = False
    """Compare only; change nothing."""
    max_deletes: int | None = None
    """The limit of deletes in each mapping; None: 100 rows or 1 %, whichever is more."""
    confirm: frozenset[str] = frozenset()
    """Names of mappings in which any number of rows may be deleted."""
    confirm_counts: MappingABC[str, int] = field(default_factory=dict)
    """By mapping: how many rows may be deleted there, whatever the limit."""
    grace_seconds: float = 5.0
    """Seconds to wait before suspects are read again."""
    keys: int = 20
    """How many keys that drifted the report names for each mapping, at most."""


class ReconcileRun:
    """One reconcile; it uses the connections of a drain."""

    def __init__(
        self,
        drain: Drain,
        options: Options,
        throttle: Throttle,
        *,
        lease: Lease | None = None,
        progress: Progress = lambda *_: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.drain = drain
        self.registry = drain.registry
        self.options = options
        self.report = Report(dry_run=options.dry_run)
        self._throttle = throttle
        self._lease = lease
        self._progress = progress
        self._sleep = sleep
        self._primary = PrimaryReader(self.registry, drain.source)
        own = {} if lease is None else lease.recovery_retries
        self._finder = Finder(drain, self._primary, self._tick, keys=options.keys, ignored=own)
        self._repairer = Repairer(drain, self._primary)
        self._loader = Loader(self._repairer)

    def run(self) -> Report:
        """Compare and judge; repair, unless it is a dry run; return the report.

        Errors that concern one mapping are in the report. If an error is raised, `self.report` has
        the results up to then.

        Raises:
            UsageError: the options contradict each other, or name an unknown mapping.
            Transient: a database does not answer, or another process has taken the lease.
            NotMigrated: a database is not migrated.
            Halted: the target mirrors another primary, the primary went back in time, or the target
                refuses the key.
        """
        began = time.monotonic()
        options, findings = self.options, self._new_findings()
        try:
            self._check_pair()
            began_at = self.drain.target.describe().clock
            structures = read_structures(
                self.drain.source.database, self.registry, options.mappings
            )
            self._find(findings)
            if not options.dry_run:
                self._repair(findings)
        finally:
            for each in findings:
                each.close()
            self.report.mappings = [each.report for each in findings if each.requested]
            self.report.seconds = time.monotonic() - began
            self.report.bytes_moved = sum(
                each.transferred for each in (self._primary, self._finder, self._loader)
            )
        if not options.dry_run and options.since_key is None:
            whole = {part.mapping for part in self.report.mappings if part.in_line}
            compared = {name: each for name, each in structures.items() if name in whole}
            note_structures(self.drain.queue.beside, compared)
        if self._verifies_everything:
            stamp = self.drain.source.propose_step()
            self.drain.target.step(stamp, {}, verified=began_at)
        return self.report

    @property
    def _verifies_everything(self) -> bool:
        """Whether all rows of both sides were equal at some moment since the run began."""
        options = self.options
        return (
            self.report.exit_code == 0
            and not any(part.withheld for part in self.report.mappings)
            and not options.dry_run
            and not options.mappings
            and options.since_key is None
        )

    def _new_findings(self) -> list[MappingFindings]:
        """Return empty findings for the requested mappings and for all of their descendants."""
        options = self.options
        for name in (*options.mappings, *options.confirm, *options.confirm_counts):
            _ = self.registry[name]
        requested = set(options.mappings) or {mapping.name for mapping in self.registry}
        if options.since_key is not None and len(requested) != 1:
            raise UsageError("a key to start from needs exactly one mapping; name it.")
        below = {lower for name in requested for lower in self._below(self.registry[name])}
        return [
            MappingFindings(mapping, mapping.name in requested, MappingReport(mapping.name))
            for mapping in self.registry
            if mapping.name in requested | below
        ]

    def _check_pair(self) -> None:
        parting = find_parting(self.drain.source, self.drain.target)
        if parting is not None:
            raise NotPaired(f"target: {parting}")

    # Finding

    def _find(self, findings: list[MappingFindings]) -> None:
        requested = [each for each in findings if each.requested]
        for each in requested:
            with each.errors_reported():
                self._finder.compare(each, self.options.since_key)
        if any(each.suspects.count or each.loads for each in requested):
            self._sleep(self.options.grace_seconds)
        for each in requested:
            if each.report.error is None:
                with each.errors_reported():
                    self._finder.judge_all(each)
        if any(each.report.extra for each in requested):
            # Deleting a parent's row also deletes rows below it, so their limits count, too.
            for each in findings:
                if not each.requested:
                    with each.errors_reported():
                        self._finder.compare(each, None)
                        self._finder.judge_all(each)
        self._limit_deletes(findings)

    def _limit_deletes(self, findings: list[MappingFindings]) -> None:
        reasons = {
            each.mapping.name: each.report.error
            or refuse_deletes(
                each.report,
                max_deletes=self.options.max_deletes,
                confirmed=self._is_confirmed(each),
            )
            for each in findings
        }
        for each in findings:
            if each.report.held is None and each.extras.count + each.orphans.count:
                names = [each.mapping.name, *self._below(each.mapping)]
                each.report.held = next(filter(None, (reasons.get(name) for name in names)), None)

    def _is_confirmed(self, findings: MappingFindings) -> bool:
        name = findings.mapping.name
        counted = findings.report.extra <= self.options.confirm_counts.get(name, -1)
        return counted or name in self.options.confirm

    def _below(self, mapping: Mapping) -> list[str]:
        """Return the names of the mapping's children, of their children, and so on."""
        names = [name for name, _ in mapping.children]
        return names + [lower for name in names for lower in self._below(self.registry[name])]

    def _above(self, mapping: Mapping) -> list[str]:
        """Return the names of the mapping's parents, of their parents, and so on."""
        names = [parent.mapping for parent in mapping.parents]
        return names + [higher for name in names for higher in self._above(self.registry[name])]

    # Repairing

    def _repair(self, findings: list[MappingFindings]) -> None:
        repaired = [each for each in findings if each.requested and each.report.error is None]
        held = {each.mapping.name for each in findings if each.report.held}
        for each in repaired:
            spools = [each.over_grants, each.expired]
            if not each.report.held:
                spools.append(each.extras)
                # The repair of an orphan also deletes its missing parents from the target.
                if held.isdisjoint(self._above(each.mapping)):
                    spools.append(each.orphans)
            self._repair_spools(each, spools)
        children = {name for each in repaired if each.loads for name, _ in each.mapping.children}
        if children and self._lease is not None:
            self._lease.add_recovery(children)
        for each in repaired:
            self._repair_spools(each, [each.others])
            with each.errors_reported():
                self._load(each)
        if self._lease is not None and self.options.since_key is None:
            complete = {each.mapping.name for each in repaired if each.report.error is None}
            self._lease.remove_recovery(complete)

    def _repair_spools(self, findings: MappingFindings, spools: list[Spool[RepairItem]]) -> None:
        report = findings.report
        with findings.errors_reported():
            for spool in spools:
                for items in spool.batches(self.drain.batch_size):
                    failed = self._repairer.repair(items)
                    report.repaired += len(items) - failed
                    report.failed += failed
                    self._tick("repair", findings.mapping.name, len(items), 0, 0.0)

    def _load(self, findings: MappingFindings) -> None:
        name, report = findings.mapping.name, findings.report
        total = sum(load.rows for load in findings.loads)
        for load in findings.loads:
            failed = self._loader.load(
                findings.mapping,
                load.range,
                lambda rows: self._tick("load", name, rows, total, 0.0),
            )
            report.repaired += max(0, load.rows - failed)
            report.failed += failed

    def _tick(self, phase: Phase, mapping: str, rows: int, total: int, seconds: float) -> None:
        if rows:
            self._progress(phase, mapping, rows, total)
        if self._lease is not None:
            self._lease.renew()
        self._throttle.tick(seconds)
