"""Stepping: lets primary and target take their steps together, and reports the target's freshness.

A worker does so about once a second while it has work, in calls of their own, so that no write
waits for them; an event that comes meanwhile waits for one of these calls, not for all. Without
work it does so only every MIRROR_FRESH_SECONDS, if that is set.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
# So late a step is taken as a whole: with few events, its calls would come too far apart.
_LATE_SECONDS: Final = 2.0
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
        self._clock_at = -inf
        """When that answer came."""
        self._stepped_at: float | None = None
        self._calls: Iterator[None] | None = None
        """The calls that are left of the step in progress; None: none is in progress."""

    @property
    def due(self) -> bool:
        """Whether `step` would do something for a worker that has work."""
        return self._calls is not None or self._age >= _SECONDS

    @property
    def _age(self) -> float:
        """Seconds since the last step."""
        # The first time in any case: a worker, or `mirror drain`, then knows its other side.
        return inf if self._stepped_at is None else self._now() - self._stepped_at

    def step(self, *, working: bool, whole: bool = True) -> None:
        """Take a step and report freshness, if it is time for that.

        `whole` False: make only the next of its calls, unless the last step was long ago. `step`
        makes the others the next times, or `finish`.

        Raises:
            Halted: primary and target do not belong together.
            Transient: a side does not answer.
        """
        if self._calls is None:
            seconds = self._idle_seconds
            if self._age < (min(seconds, _SECONDS) if working else seconds):
                return
            self._calls = self._step()
        try:
            try:
                self._call(whole=whole or self._age >= _LATE_SECONDS)
            except WentBack:
                # Another worker was faster, with a step that was proposed later.
                self._calls = self._step()
                self._call(whole=True)
        except BaseException as error:
            # Primary or target may be another one from now on.
            self.abandon()
            self._forget()
            if not isinstance(error, Permanent) or isinstance(error, Halted):
                raise
            # Events need no step. Freshness stands still meanwhile, which the status shows.
            log.warning("no step taken", reason=str(error))
            self._stepped_at = self._now()

    def finish(self) -> None:
        """Make the calls that are left of the step in progress; raises as `step` does."""
        if self._calls is not None:
            self.step(working=True)

    def abandon(self) -> None:
        """Leave the step in progress as it is; a later one is begun anew."""
        self._calls = None

    def _call(self, *, whole: bool) -> None:
        """Make the next call of the step in progress, or all that are left."""
        for _ in self._calls or ():
            if not whole:
                return
        self._calls = None
        self._stepped_at = self._now()

    def _step(self) -> Iterator[None]:
        """Take a step; pauses between its calls to the servers.

        In a pause the worker may apply events, as others do all the time.
        """
        stamp = self._source.propose_step()
        if stamp.epoch != self._epoch:
            self._forget()
            self._epoch = stamp.epoch
        yield
        clock = self._target_clock
        if clock is None or self._now() > self._clock_at + _CLOCK_SECONDS:
            clock = self._report(stamp, {})
            yield
        look = self._source.look(self._queue.floor)
        yield
        self._report(stamp, self._marks.fresh(clock, look, self._mappings))
        if not stamp.pair.acked:
            yield
            self._source.acknowledge_step(stamp)

    def _report(self, stamp: Stamp, fresh: Mapping[str, str]) -> str:
        clock = self._target_clock = self._target.step(stamp, fresh)
        self._clock_at = self._now()
        return clock

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
