"""Findings: the results of checks. A finding is one problem in one place, with its remedy."""

from dataclasses import asdict, dataclass
from typing import Any

from mirror.diagnostics.doctor.checks import CHECKS
from mirror.diagnostics.doctor.kinds import Severity
from mirror.errors.redaction import redact


@dataclass(frozen=True)
class Finding:
    """One problem. It names tables, functions and settings, and no value of a row."""

    code: str
    severity: Severity
    what: str
    """The place and the problem, as one sentence."""
    remedy: str

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def finding(code: str, message: str, **names: str) -> Finding:
    """Return a finding with a code of CHECKS, and that check's severity and remedy.

    `message` becomes `what`; `names` fill the remedy's placeholders.
    """
    check = CHECKS[code]
    return Finding(code, check.severity, redact(message), check.remedy.format(**names))
