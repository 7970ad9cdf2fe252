"""Run: one reconcile from its beginning to its report.

Everything is compared before anything is written: how many rows would be deleted decides whether
any is. Then over-grants are repaired, of all mappings, before under-grants.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from mirror.errors import UsageError, WrongSource
from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.reconcile.find import Finder, Phase
from mirror.reconcile.findings import MappingFindings
from mirror.reconcile.guard import refusal
from mirror.reconcile.lease import Lease
from mirror.reconcile.pieces import Spool
from mirror.reconcile.primary import PrimaryReader
from mirror.reconcile.repair import Item, Repair
from mirror.reconcile.report import MappingReport, Report
from mirror.reconcile.throttle import Throttle
from mirror.sync.drain import Drain

Progress = Callable[[Phase, str, int, int], object]
"""Called with what is done, for which mapping, how many rows more, and of about how many."""


@dataclass(frozen=True)
class Options:
    """What a run is to do."""

    mappings: tuple[str, ...] = ()
    """Names; none: all."""
    since_key: Key | None = None
    """Compare from this key of the one mapping on."""
    dry_run: bool = False
    max_deletes: int | None = None
    """Of one mapping; None: 100 rows or 1 % of it, whichever is more."""
    confirm: frozenset[str] = frozenset()
    """Mappings of which anything may be deleted."""
    grace_seconds: float = 5.0
    """Wait before suspects are read again."""
    keys: int = 20
    """How many keys of each mapping the report names."""


class Reconcile:
    """One run, over a drain's connections."""

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
        own = {} if lease is None else lease.intents
        self._finder = Finder(drain, self._primary, self._tick, keys=options.keys, own=own)
        self._repair = Repair(drain, self._primary)

    def run(self) -> Report:
        """Compare, judge, and unless it is a dry run, repair.

        Raises:
            UsageError: options that contradict each other, or name no mapping.
            Transient: a database does not answer.
            Halted: the target is not this primary's.
        """
        began = time.monotonic()
        cases = self._cases()
        try:
            self._check_source()
            self._find(cases)
            if not self.options.dry_run:
                self._repair_all(cases)
        finally:
            for case in cases:
                case.close()
            self.report.mappings = [case.part for case in cases if case.repaired]
            self.report.seconds = time.monotonic() - began
            self.report.bytes_moved = self._primary.moved + self._finder.moved + self._repair.moved
        return self.report

    def _cases(self) -> list[MappingFindings]:
        """Return the mappings to look at: those asked for, and those below them."""
        options = self.options
        for name in (*options.mappings, *options.confirm):
            _ = self.registry[name]
        wanted = set(options.mappings) or {mapping.name for mapping in self.registry}
        if options.since_key is not None and len(wanted) != 1:
            raise UsageError("a key to begin at belongs to one mapping; name it.")
        below = {deeper for name in wanted for deeper in self._below(self.registry[name])}
        return [
            MappingFindings(mapping, mapping.name in wanted, MappingReport(mapping.name))
            for mapping in self.registry
            if mapping.name in wanted | below
        ]

    def _check_source(self) -> None:
        described = self.drain.target.describe()
        with self.drain.source.snapshot() as snapshot:
            identity = snapshot.stamp.identity
        if described.identity not in {None, identity}:
            raise WrongSource(
                f"target: it mirrors another primary ({described.identity}) than this one "
                f"({identity}). If the primary really moved, run `mirror rebase`."
            )

    # Finding

    def _find(self, cases: list[MappingFindings]) -> None:
        mine = [case for case in cases if case.repaired]
        for case in mine:
            with case.contained():
                self._finder.compare(case, self.options.since_key)
        if any(case.suspects.count or case.loads for case in mine):
            self._sleep(self.options.grace_seconds)
        for case in mine:
            if case.part.error is None:
                with case.contained():
                    self._finder.judge_all(case)
        if any(case.part.extra for case in mine):
            # What lies below would go along with it, so its guard has a say.
            for case in cases:
                if not case.repaired:
                    with case.contained():
                        self._finder.compare(case, None)
                        self._finder.judge_all(case)
        self._guard(cases)

    def _guard(self, cases: list[MappingFindings]) -> None:
        reasons = {
            case.mapping.name: case.part.error
            or refusal(
                case.part,
                max_deletes=self.options.max_deletes,
                confirmed=case.mapping.name in self.options.confirm,
            )
            for case in cases
        }
        for case in cases:
            if case.part.held is None and case.extras.count + case.orphans.count:
                names = [case.mapping.name, *self._below(case.mapping)]
                case.part.held = next(filter(None, (reasons.get(name) for name in names)), None)

    def _below(self, mapping: Mapping) -> list[str]:
        names = [name for name, _ in mapping.children]
        return names + [deeper for name in names for deeper in self._below(self.registry[name])]

    def _above(self, mapping: Mapping) -> list[str]:
        names = [parent.mapping for parent in mapping.parents]
        return names + [higher for name in names for higher in self._above(self.registry[name])]

    # Repairing

    def _repair_all(self, cases: list[MappingFindings]) -> None:
        mine = [case for case in cases if case.repaired and case.part.error is None]
        held = {case.mapping.name for case in cases if case.part.held}
        for case in mine:
            spools = [case.over, case.expired]
            if not case.part.held:
                spools.append(case.extras)
                # To remove an orphan is to remove the parents that are gone.
                if held.isdisjoint(self._above(case.mapping)):
                    spools.append(case.orphans)
            self._repair_spools(case, spools)
        children = {name for case in mine if case.loads for name, _ in case.mapping.children}
        if children and self._lease is not None:
            self._lease.intend(children)
        for case in mine:
            self._repair_spools(case, [case.rest])
            with case.contained():
                self._load(case)
        if self._lease is not None and self.options.since_key is None:
            self._lease.done({case.mapping.name for case in mine if case.part.error is None})

    def _repair_spools(self, case: MappingFindings, spools: list[Spool[Item]]) -> None:
        with case.contained():
            for spool in spools:
                for items in spool.batches(self.drain.batch_size):
                    failed = self._repair.rows(items)
                    case.part.repaired += len(items) - failed
                    case.part.failed += failed
                    self._tick("repair", case.mapping.name, len(items), 0, 0.0)

    def _load(self, case: MappingFindings) -> None:
        total = sum(load.rows for load in case.loads)
        for load in case.loads:
            failed = self._repair.load(
                case.mapping,
                load.range,
                lambda rows: self._tick("load", case.mapping.name, rows, total, 0.0),
            )
            case.part.repaired += max(0, load.rows - failed)
            case.part.failed += failed

    def _tick(self, phase: Phase, mapping: str, rows: int, total: int, seconds: float) -> None:
        if rows:
            self._progress(phase, mapping, rows, total)
        if self._lease is not None:
            self._lease.renew()
        self._throttle.tick(seconds)
