"""Report: what a reconcile found and did, for people and for machines."""

from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from mirror.reconcile.drift import Cause, Direction, Drift, Kind

Outcome = Literal["in line", "repaired", "held back", "drift"]

EXIT_CODES: Final[dict[Outcome, int]] = {"in line": 0, "repaired": 0, "held back": 3, "drift": 1}


@dataclass
class MappingReport:
    """One mapping's part."""

    mapping: str
    rows: int = 0
    """Of the primary, compared."""
    target_rows: int = 0
    missing: int = 0
    """Under-grants: not in the target."""
    extra: int = 0
    """Over-grants: only in the target. Those past their declared expiry are in `expired`."""
    expired: int = 0
    changed_over: int = 0
    changed_under: int = 0
    changed_neither: int = 0
    ledger: int = 0
    """Visibly right, but remembered wrongly in the target."""
    in_flight: int = 0
    """Differed, and a change was under way: no drift."""
    repaired: int = 0
    failed: int = 0
    held: str | None = None
    """Why no row of this mapping was deleted."""
    error: str | None = None
    """Why this mapping was not compared or not repaired to its end."""
    causes: dict[str, int] = field(default_factory=dict)
    """How many drifted for what looks like which cause."""
    keys: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)
    """Kind, direction and key of some that drifted; the counts tell of all."""

    @property
    def over_grants(self) -> int:
        """Rows that allow more in the target than in the primary."""
        return self.extra + self.expired + self.changed_over

    @property
    def under_grants(self) -> int:
        """Rows that allow less."""
        return self.missing + self.changed_under

    @property
    def drifted(self) -> int:
        """All rows that drifted."""
        return self.over_grants + self.under_grants + self.changed_neither + self.ledger

    def count(self, drift: Drift, *, keys: int) -> None:
        """Add one drift; remember its key while there are fewer than `keys`."""
        if drift.kind is Kind.EXTRA and drift.expired:
            self.expired += 1
        elif drift.kind is Kind.CHANGED:
            name = {
                Direction.OVER: "changed_over",
                Direction.UNDER: "changed_under",
                Direction.NEITHER: "changed_neither",
            }[drift.direction]
            setattr(self, name, getattr(self, name) + 1)
        else:
            name = drift.kind.value
            setattr(self, name, getattr(self, name) + 1)
        self._blame(drift.cause, 1)
        if len(self.keys) < keys:
            self.keys.append((drift.kind.value, drift.direction.value, drift.key))

    def count_missing(self, rows: int) -> None:
        """Add rows that the target lacks in bulk."""
        if rows:
            self.missing += rows
            self._blame(Cause.NEW, rows)

    def _blame(self, cause: Cause, rows: int) -> None:
        name = cause.name.lower()
        self.causes[name] = self.causes.get(name, 0) + rows


@dataclass
class Report:
    """A whole run."""

    dry_run: bool = False
    seconds: float = 0.0
    bytes_moved: int = 0
    """About how much went between the databases and this process."""
    mappings: list[MappingReport] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        """What it comes to: `drift` is some that was not repaired."""
        if any(part.held for part in self.mappings):
            return "held back"
        if any(part.error or part.drifted > part.repaired for part in self.mappings):
            return "drift"
        return "repaired" if any(part.drifted for part in self.mappings) else "in line"

    @property
    def exit_code(self) -> int:
        """What the command returns."""
        return EXIT_CODES[self.outcome]

    def as_json(self, *, keys: bool = True) -> dict[str, Any]:
        """Return plain JSON values; without `keys`, counts only."""
        parts = []
        for part in self.mappings:
            told = asdict(part) | {
                "over_grants": part.over_grants,
                "under_grants": part.under_grants,
                "drifted": part.drifted,
            }
            if keys:
                told["keys"] = [
                    {"kind": kind, "direction": direction, "key": key}
                    for kind, direction, key in part.keys
                ]
                told["keys_left_out"] = part.drifted - len(part.keys)
            else:
                del told["keys"]
            parts.append(told)
        return {
            "outcome": self.outcome,
            "dry_run": self.dry_run,
            "seconds": round(self.seconds, 3),
            "bytes_moved": self.bytes_moved,
            "mappings": parts,
        }
