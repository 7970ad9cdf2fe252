"""Findings: what a check says is wrong, and what to do."""

from dataclasses import asdict, dataclass
from typing import Any

from mirror.diagnostics.doctor.checks import CHECKS, Severity


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. It names tables, functions and settings; no value of a row."""

    code: str
    severity: Severity
    what: str
    """What is wrong with which thing."""
    remedy: str

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def finding(code: str, what: str, **names: str) -> Finding:
    """Return a finding of a check; `names` fill in its remedy."""
    check = CHECKS[code]
    return Finding(code, check.severity, what, check.remedy.format(**names))
