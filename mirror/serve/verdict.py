"""Verdict: one sentence about the mirror, and how bad it is.

The order of its cases is that of their danger: access that may be too wide comes before access that
is too narrow, and before what is late.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from mirror.diagnostics.doctor import Severity
from mirror.diagnostics.durations import duration
from mirror.diagnostics.figures import Unknown, known
from mirror.diagnostics.runs import last_finished
from mirror.diagnostics.status import Stage, progress
from mirror.serve.rendering import count
from mirror.serve.watch import MOST_REVOCATIONS, Reading

LATE_SECONDS: Final = 15.0
"""A revocation that has waited longer is late; `deploy/alerts.yml` warns at the same age."""


class State(StrEnum):
    """How bad a verdict or a lamp is; the value is the word on the page."""

    WELL = "well"
    BUSY = "busy"
    """Work is under way, and in time."""
    UNUSED = "not used"
    WARNING = "warning"
    WRONG = "wrong"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class PageVerdict:
    """The sentence at the top of the page."""

    state: State
    says: str


_STATES: Final = {
    Stage.WELL: State.WELL,
    Stage.BUSY: State.BUSY,
    Stage.INCOMPLETE: State.WARNING,
}


def judge(reading: Reading) -> PageVerdict:
    """Return the verdict on a reading."""
    if reading.unread:
        parts = " and ".join(name.replace("_", " ") for name in reading.unread)
        return PageVerdict(
            State.UNKNOWN, f"The page cannot tell whether access is right: it cannot read {parts}."
        )
    too_wide = _too_wide(reading)
    if too_wide:
        return PageVerdict(State.WRONG, f"Access may be too wide: {' '.join(too_wide)}")
    errors = [found for found in reading.problems if found.severity is Severity.ERROR]
    first = next(iter(errors or reading.problems), None)
    if first is not None:
        more = len(reading.problems) - 1
        rest = f" There is {count(more, 'more problem')}." if more else ""
        state = State.WRONG if errors else State.WARNING
        return PageVerdict(state, f"{_sentence(first.what)}{rest}")
    target, primary = known(reading.figures.target), known(reading.figures.primary)
    if primary is None or target is None or target.identity is None:
        return PageVerdict(State.WARNING, "Nothing has been mirrored yet: run `mirror reconcile`.")
    stage, says = progress(primary)
    return PageVerdict(_STATES[stage], says)


def _too_wide(reading: Reading) -> list[str]:
    """Return the sentences about access that the primary has ended, or never granted."""
    found = []
    if not isinstance(reading.revocations, Unknown):
        late = [each for each in reading.revocations if each.age_seconds > LATE_SECONDS]
        if late:
            oldest = duration(late[0].age_seconds)
            more = "" if len(late) < MOST_REVOCATIONS else "at least "
            verb = "is" if len(late) == 1 else "are"
            revocations = count(len(late), "revocation")
            found.append(f"{more}{revocations} {verb} not in force, the oldest for {oldest}.")
    run = None if isinstance(reading.runs, Unknown) else last_finished(reading.runs)
    if run is not None and run.remaining_over_grants:
        rows = count(run.remaining_over_grants, "row")
        ago = duration(run.age_seconds)
        found.append(f"The last reconcile, {ago} ago, left {rows} that should be gone.")
    return found


def _sentence(text: str) -> str:
    text = text if text.endswith(".") else f"{text}."
    return text[:1].upper() + text[1:]
