"""Find: fill a case with what drifted. Nothing is written."""

import secrets
from collections.abc import Callable, Collection
from typing import Final, Literal

from mirror.model.keys import Key
from mirror.model.mapping import Mapping
from mirror.reconcile.compare import Comparison, Missing
from mirror.reconcile.findings import MappingFindings
from mirror.reconcile.judge import Judge
from mirror.reconcile.pending_events import read_pending
from mirror.reconcile.primary import PrimaryReader
from mirror.sync.drain import Drain
from mirror.sync.targets.reading import Hashing

_BATCH: Final = 500

Phase = Literal["compare", "judge", "repair", "load"]
Tick = Callable[[Phase, str, int, int, float], object]
"""Called often: what is done, for which mapping, how many rows more, of how many, and how many
seconds the target took."""


class Finder:
    """Compares, then judges."""

    def __init__(
        self,
        drain: Drain,
        primary: PrimaryReader,
        tick: Tick,
        *,
        keys: int,
        own: Collection[int] = (),
    ) -> None:
        self.registry = drain.registry
        self.source = drain.source
        self.target = drain.target
        self.primary = primary
        self.judge = Judge(self.registry, drain.source, drain.target, own=own)
        self._tick = tick
        self._keys = keys
        self._moved = 0

    @property
    def moved(self) -> int:
        """Characters that came from and went to the target, and rows read from either side."""
        return self._moved + self.judge.moved

    def compare(self, case: MappingFindings, start: Key | None) -> None:
        """Note every suspect, from key `start` on."""
        name = case.mapping.name
        comparison = Comparison(
            self.primary,
            self.target,
            case.mapping,
            self._hashing(case.mapping),
            tick=lambda seconds: self._tick("compare", name, 0, 0, seconds),
        )
        total = self.primary.estimate(case.mapping)
        told = 0
        for found in comparison.suspects(start):
            if isinstance(found, Missing):
                case.loads.append(found)
            elif found:
                case.suspects.add(found)
            self._tick("compare", name, comparison.rows - told, total, 0.0)
            told = comparison.rows
        self._tick("compare", name, comparison.rows - told, comparison.rows, 0.0)
        case.part.rows, case.part.target_rows = comparison.rows, comparison.theirs
        self._moved += comparison.moved

    def _hashing(self, mapping: Mapping) -> Hashing:
        """Return the faster hash if both sides have the same, else md5."""
        hashing = Hashing(secrets.randbits(62))
        if self.primary.probe(hashing) == self.target.probe(mapping, hashing):
            return hashing
        return Hashing(hashing.seed, md5=True)

    def judge_all(self, case: MappingFindings) -> None:
        """Say of each suspect whether it drifted."""
        mapping, part = case.mapping, case.part
        for keys in case.suspects.batches(_BATCH):
            verdict = self.judge.judge(mapping, keys)
            part.in_flight += len(verdict.in_flight)
            for drift in verdict.drifts:
                part.count(drift, keys=self._keys)
                case.sort(drift)
            self._tick("judge", mapping.name, len(keys), case.suspects.count, 0.0)
        if not case.loads:
            return
        rows = sum(load.rows for load in case.loads)
        pending = read_pending(
            self.source.database, self.registry, {mapping.name: ()}, own=self.judge.own
        )
        if pending.find(mapping.name, (), ()).under_way:
            part.in_flight += rows
            case.loads = []
        else:
            part.count_missing(rows)
