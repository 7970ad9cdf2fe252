"""The report of a run: what was done, and which invariants were violated."""

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Invariant = Literal["equality", "access", "writers"]


@dataclass
class Report:
    """The counts and violations of a run; several threads write it."""

    commits: Counter[str] = field(default_factory=Counter)
    """By way of capture."""
    acknowledged: int = 0
    """Revocations that a receipt has acknowledged."""
    checks: int = 0
    """How often a user without access was asked for."""
    faults: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    """The longest transaction of a writer, in seconds."""
    violations: dict[Invariant, list[str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def violated(self, invariant: Invariant, how: str) -> None:
        """Note a violation."""
        with self._lock:
            found = self.violations.setdefault(invariant, [])
            if how not in found:
                found.append(how)

    def __str__(self) -> str:
        """Return the report as lines of text."""
        lines = [
            f"commits: {_counts(self.commits)}; the slowest took {self.slowest:.1f} s",
            f"faults: {_counts(self.faults)}",
            f"acknowledged revocations: {self.acknowledged}; accesses tried since: {self.checks}",
        ]
        for invariant, found in self.violations.items():
            lines += [f"VIOLATED {invariant}: {how}" for how in found[:10]]
            lines += [f"  and {len(found) - 10} more"] if len(found) > 10 else []
        return "\n".join(lines)


def _counts(counter: Counter[str]) -> str:
    # Without those that are zero.
    return ", ".join(f"{count} {name}" for name, count in sorted((+counter).items())) or "none"
