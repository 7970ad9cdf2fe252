"""Runs: the last reconciles and the findings of each, read from the primary."""

from dataclasses import dataclass
from typing import Any, Self

from mirror.capture.statements import statement
from mirror.sync.connections import Database

DIED = "died"
"""The outcome of a run whose process ended without a record."""


@dataclass(frozen=True)
class RunFindings:
    """The findings of one reconcile about one mapping: counts of rows."""

    mapping: str
    rows: int
    """Rows of the primary that were compared."""
    extra: int
    """Rows that only the target had, and that had not expired; a confirmation is about these."""
    over_grants: int
    under_grants: int
    drifted: int
    """All rows that differed: over-grants, under-grants and others."""
    repaired: int
    held: str | None
    """Why no row was deleted; None: rows were allowed to be."""
    error: str | None
    """Why this mapping was not finished; None: it was."""
    causes: dict[str, int]
    """By the name of a `Cause`, in lower case: the number of rows."""

    @property
    def remaining_over_grants(self) -> int:
        """How many over-grants the run did not repair, at most."""
        return min(self.over_grants, max(0, self.drifted - self.repaired))


@dataclass(frozen=True)
class Run:
    """One reconcile."""

    id: int
    age_seconds: float
    """Seconds since it started."""
    seconds: float | None
    """How long it took; None: it has not ended."""
    started_by: str
    """`hand`, `page`, `beat` or `schedule`."""
    outcome: str
    """As in `LastRun`; `running` while it runs, `died` if its process ended without a record."""
    mappings: tuple[RunFindings, ...]
    """Empty while it runs."""

    @classmethod
    def from_row(cls, row: tuple[Any, ...]) -> Self:
        """Return a run from a row of the statement `read_runs`."""
        number, age, seconds, started_by, outcome, report, died = row
        names = RunFindings.__dataclass_fields__
        return cls(
            id=number,
            age_seconds=age,
            seconds=seconds,
            started_by=started_by,
            outcome=DIED if died else outcome,
            mappings=tuple(
                RunFindings(**{name: part.get(name, 0) for name in names})
                for part in report.get("mappings", ())
            ),
        )

    @property
    def finished(self) -> bool:
        """Whether it has ended and recorded its report."""
        return self.seconds is not None

    @property
    def over_grants(self) -> int:
        """Rows of all mappings that allowed more in the target."""
        return sum(part.over_grants for part in self.mappings)

    @property
    def under_grants(self) -> int:
        """Rows of all mappings that allowed less."""
        return sum(part.under_grants for part in self.mappings)

    @property
    def remaining_over_grants(self) -> int:
        """How many over-grants the run did not repair, at most."""
        return sum(part.remaining_over_grants for part in self.mappings)

    @property
    def held(self) -> tuple[RunFindings, ...]:
        """The mappings whose rows were not deleted, and that have rows to delete."""
        return tuple(part for part in self.mappings if part.held and part.extra)


def read_runs(database: Database, *, limit: int) -> tuple[Run, ...]:
    """Return the last reconciles, the newest first.

    Raises:
        MirrorError: the primary does not answer, or is not migrated.
    """
    return tuple(map(Run.from_row, database.execute(statement("read_runs"), [limit])))


def last_finished(runs: tuple[Run, ...]) -> Run | None:
    """Return the newest run that has ended; None if there is none."""
    return next((run for run in runs if run.finished), None)
