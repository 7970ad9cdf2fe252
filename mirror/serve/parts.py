"""Parts: a lamp for each part of the mirror, with the remedy if it is out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from mirror.diagnostics.durations import duration
from mirror.diagnostics.figures import Unknown
from mirror.diagnostics.primary_figures import PrimaryFigures
from mirror.diagnostics.runs import DIED, last_finished
from mirror.serve.verdict import State
from mirror.serve.watch import Reading

PARTS: Final = {"drain": "worker", "sweep": "beat", "relay": "relay", "run": "run"}
"""By the name of a heartbeat: the part that writes it."""

_MISSING: Final = {"drain": "consumer-missing", "sweep": "beat-missing", "relay": "relay-missing"}


@dataclass(frozen=True)
class Lamp:
    """The state of one part."""

    name: str
    state: State
    says: str
    remedy: str | None = None
    """Instructions; None: there is nothing to do."""


def lamps(reading: Reading) -> Iterator[Lamp]:
    """Yield the lamps: both sides and the broker, the processes, and the last reconcile."""
    for side in ("primary", "target", "broker"):
        yield _side(reading, side)
    primary = reading.figures.primary
    for heartbeat in PARTS:
        # `mirror run` does the work of the others.
        if heartbeat != "run" or "run" in getattr(primary, "heartbeats", ()):
            yield _process(reading, primary, heartbeat)
    yield _reconcile(reading)


def _side(reading: Reading, name: str) -> Lamp:
    part = getattr(reading.figures, name)
    if part is None:
        return Lamp(name, State.UNUSED, "REDIS_URL is not set here")
    problem = next((one for one in reading.problems if one.code.startswith(f"{name}-")), None)
    remedy = None if problem is None else problem.remedy
    if isinstance(part, Unknown):
        return Lamp(name, State.UNKNOWN, str(part.error), remedy)
    if problem is not None:
        return Lamp(name, State.WRONG, problem.what, remedy)
    return Lamp(name, State.WELL, "answers")


def _process(reading: Reading, primary: PrimaryFigures | Unknown, heartbeat: str) -> Lamp:
    name = PARTS[heartbeat]
    if isinstance(primary, Unknown):
        return Lamp(name, State.UNKNOWN, "the primary has its heartbeat, and does not answer")
    age = primary.heartbeats.get(heartbeat)
    seen = "has never run" if age is None else f"was at work {duration(age)} ago"
    code = _MISSING.get(heartbeat)
    missing = next((found for found in reading.problems if found.code == code), None)
    if missing is not None:
        return Lamp(name, State.WRONG, seen, missing.remedy)
    return Lamp(name, State.UNUSED if age is None else State.WELL, seen)


def _reconcile(reading: Reading) -> Lamp:
    if isinstance(reading.runs, Unknown):
        return Lamp("reconcile", State.UNKNOWN, "the primary has its record, and does not answer")
    if reading.runs and reading.runs[0].outcome == "running":
        return Lamp("reconcile", State.BUSY, "runs now")
    run = last_finished(reading.runs)
    if reading.runs and reading.runs[0].outcome == DIED:
        says = f"the last one ended without a record, {duration(reading.runs[0].age_seconds)} ago"
        return Lamp("reconcile", State.WARNING, says, "Run `mirror reconcile`.")
    if run is None:
        says = "none has finished yet"
        return Lamp("reconcile", State.WARNING, says, "Run `mirror reconcile`.")
    says = f"{run.outcome}, {duration(run.age_seconds)} ago"
    wrong = next((found for found in reading.problems if found.code == "last-reconcile"), None)
    if wrong is not None:
        return Lamp("reconcile", State.WRONG, says, wrong.remedy)
    return Lamp("reconcile", State.WELL, says)
