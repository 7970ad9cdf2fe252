"""Stepping: lets primary and target take their steps together, and reports the target's freshness.

A worker does so about once a second while it has work, in calls of their own, so that no write
waits for them. Without work it does so only every MIRROR_FRESH_SECONDS, if that is set.
"""

import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Final

import structlog

from mirror.errors import Halted, Permanent, Transient, WentBack
from mirror.sync.claims import Queue
from mirror.sync.freshness import Marks
from mirror.sync.pairing import REBASE, Parting, is_other_primary
from mirror.sync.snapshot import Source, Stamp
from mirror.sync.targets.base import Target
from mirror.sync.targets.catalog import Description

log = structlog.stdlib.get_logger(__name__)

_SECONDS: Final = 1.0
# A comparison reads both sides again so often, if steps are taken meanwhile.
_MAX_READS: Final = 5

# An older clock would report less freshness than there is.
_CLOCK_SECONDS: Final = 2.0


class Stepping:
    """The steps of one worker."""

    def __init__(
        self,
        source: Source,
        target: Target,
        queue: Queue,
        mappings: Sequence[str],
        *,
        idle_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._target = target
        self._queue = queue
        self._mappings = mappings
        # Beat wakes a worker once in that time, and the last look was a little after its ring.
        self._idle_seconds = inf if idle_seconds is None else idle_seconds / 2
        """After so long a worker without work looks again."""
        self._now = clock
        self._marks = Marks()
        self._epoch: int | None = None
        self._target_clock: str | None = None
        """From the last answer of the target."""
        self._stepped_at: float | None = None

    @property
    def due(self) -> bool:
        """Whether `step` would do something for a worker that has work."""
        return self._age >= _SECONDS

    @property
    def _age(self) -> float:
        """Seconds since the last step."""
        # The first time in any case: a worker, or `mirror drain`, then knows its other side.
        return inf if self._stepped_at is None else self._now() - self._stepped_at

    def step(self, *, working: bool) -> None:
        """Take a step and report freshness, if it is time for that.

        Raises:
            Halted: primary and target do not belong together.
            Transient: a side does not answer.
        """
        age = self._age
        if age < (_SECONDS if working else self._idle_seconds):
            return
        try:
            try:
                self._step(age)
            except WentBack:
                # Another worker was faster, with a step that was proposed later.
                self._step(age)
        except BaseException as error:
            # Primary or target may be another one from now on.
            self._forget()
            if not isinstance(error, Permanent) or isinstance(error, Halted):
                raise
            # Events need no step. Freshness stands still meanwhile, which the status shows.
            log.warning("no step taken", reason=str(error))
        self._stepped_at = self._now()

    def _step(self, age: float) -> None:
        stamp = self._source.propose_step()
        if stamp.epoch != self._epoch:
            self._forget()
            self._epoch = stamp.epoch
        if self._target_clock is None or age > _CLOCK_SECONDS:
            self._target_clock = self._target.step(stamp, {})
        look = self._source.look(self._queue.floor)
        fresh = self._marks.fresh(self._target_clock, look, self._mappings)
        self._target_clock = self._target.step(stamp, fresh)
        if not stamp.pair.acked:
            self._source.acknowledge_step(stamp)

    def _forget(self) -> None:
        self._marks.clear()
        self._target_clock = None
        self._epoch = None


def find_parting(source: Source, target: Target) -> Parting | None:
    """Return why primary and target do not belong together; None if they do. Writes nothing.

    The primary's connection has no open transaction.

    Raises:
        Transient: they take their steps faster than they can be read.
    """
    before = source.read_stamp()
    for _ in range(_MAX_READS):
        known = target.describe()
        after = source.read_stamp()
        # Workers may have taken steps meanwhile: then the target is as far as one of the two.
        parting = after.pair.parting(known.step, known.token)
        if parting is None or before.pair.parting(known.step, known.token) is None:
            return _other_primary(known, after)
        if after.pair == before.pair:
            return parting
        before = after
    raise Transient("primary and target take their steps faster than they can be compared")


def _other_primary(known: Description, read: Stamp) -> Parting | None:
    """Return why a target refuses a primary although their steps fit."""
    if is_other_primary(known.identity, read.identity, paired=known.token is not None):
        says = f"the target expects {known.identity}, and this primary is {read.identity}."
        return Parting(says, REBASE)
    if known.epoch == read.epoch and read.fence < known.step_fence:
        return Parting("the primary is older than it was at the last step.", REBASE)
    return None
