"""Report: counts what a reconcile found and repaired, and returns it as JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from mirror.reconcile.drift import Cause, Drift, Kind

Outcome = Literal["in line", "repaired", "held back", "drift"]

EXIT_CODES: Final[dict[Outcome, int]] = {"in line": 0, "repaired": 0, "held back": 3, "drift": 1}


@dataclass
class MappingReport:
    """The numbers of one mapping in the report of a run."""

    mapping: str
    rows: int = 0
    """Rows of the primary that were compared."""
    target_rows: int = 0
    """Rows of the target that were compared."""
    missing: int = 0
    """Under-grants: rows that only the primary has."""
    extra: int = 0
    """Over-grants: rows that only the target has, without those that are past their expiry."""
    expired: int = 0
    """Rows that only the target has, and that are past their declared expiry."""
    changed_over: int = 0
    """Rows that both sides have, with values that allow more in the target; in the next two: that
    allow less there, that allow the same."""
    changed_under: int = 0
    changed_neither: int = 0
    ledger: int = 0
    """Rows whose visible values are right, but whose ledger row is wrong."""
    in_flight: int = 0
    """Rows that differed while a change was under way: no drift."""
    withheld: int = 0
    """Rows that grant nothing in the target, because their change can be neither read nor written;
    no drift, because their events are retried."""
    repaired: int = 0
    """Rows that drifted and were written or deleted in the target."""
    failed: int = 0
    """Rows that drifted and could not be repaired."""
    held: str | None = None
    """The reason why no row of this mapping was deleted, except expired ones; None: rows may be."""
    error: str | None = None
    """The reason why comparing or repairing this mapping stopped early; None: it did not."""
    causes: dict[str, int] = field(default_factory=dict)
    """The number of rows that drifted, by likely cause."""
    keys: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)
    """Kind, direction and key of the first rows that drifted; the counts include all rows."""

    @property
    def over_grants(self) -> int:
        """Rows that allow more in the target than in the primary."""
        return self.extra + self.expired + self.changed_over

    @property
    def under_grants(self) -> int:
        """Rows that allow less in the target than in the primary."""
        return self.missing + self.changed_under

    @property
    def in_line(self) -> bool:
        """Whether both sides have the same rows now."""
        return not (self.held or self.error) and self.drifted <= self.repaired

    @property
    def drifted(self) -> int:
        """All rows that drifted."""
        return self.over_grants + self.under_grants + self.changed_neither + self.ledger

    def add_drift(self, drift: Drift, *, keys: int) -> None:
        """Count a drift; also keep its key if fewer than `keys` are kept so far."""
        name = drift.kind.value
        if drift.kind is Kind.EXTRA and drift.expired:
            name = "expired"
        elif drift.kind is Kind.CHANGED:
            name = f"changed_{drift.direction.name.lower()}"
        setattr(self, name, getattr(self, name) + 1)
        self._count_cause(drift.cause, 1)
        if len(self.keys) < keys:
            self.keys.append((drift.kind.value, drift.direction.value, drift.key))

    def add_missing(self, rows: int) -> None:
        """Count `rows` missing rows, which are in ranges that the target lacks as a whole."""
        if rows:
            self.missing += rows
            self._count_cause(Cause.NEW, rows)

    def _count_cause(self, cause: Cause, rows: int) -> None:
        name = cause.name.lower()
        self.causes[name] = self.causes.get(name, 0) + rows


@dataclass
class Report:
    """A whole run."""

    dry_run: bool = False
    seconds: float = 0.0
    bytes_moved: int = 0
    """About how many bytes the databases and this process exchanged."""
    mappings: list[MappingReport] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        """The result of the run.

        `held back`: deletes in some mapping were refused. Otherwise `drift`: some drift was not
        repaired, or an error stopped some mapping. Otherwise `repaired`: all drift was repaired.
        `in line`: no row drifted.
        """
        if any(part.held for part in self.mappings):
            return "held back"
        if not all(part.in_line for part in self.mappings):
            return "drift"
        return "repaired" if any(part.drifted for part in self.mappings) else "in line"

    @property
    def exit_code(self) -> int:
        """The exit code of `mirror reconcile`: 3 if held back, 1 for drift, otherwise 0."""
        return EXIT_CODES[self.outcome]

    def as_json(self, *, keys: bool = True) -> dict[str, Any]:
        """Return the report as plain JSON values; without `keys`, no key of a row is in it."""
        parts = []
        for part in self.mappings:
            content = asdict(part) | {
                "over_grants": part.over_grants,
                "under_grants": part.under_grants,
                "drifted": part.drifted,
            }
            if keys:
                content["keys"] = [
                    {"kind": kind, "direction": direction, "key": key}
                    for kind, direction, key in part.keys
                ]
                content["keys_left_out"] = part.drifted - len(part.keys)
            else:
                del content["keys"]
            parts.append(content)
        return {
            "outcome": self.outcome,
            "dry_run": self.dry_run,
            "seconds": round(self.seconds, 3),
            "bytes_moved": self.bytes_moved,
            "mappings": parts,
        }
