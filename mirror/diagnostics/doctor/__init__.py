"""Doctor: checks everything that the mirror depends on, and names a remedy for each problem.

`diagnose` first reads the state of both sides in a few round trips. The checks are functions of
that state and of the declarations: they yield findings and send no query. A side that cannot be
read is itself a finding, and the remaining checks still run.
"""

from mirror.diagnostics.doctor.checks import CHECKS
from mirror.diagnostics.doctor.diagnosis import Diagnosis, diagnose
from mirror.diagnostics.doctor.findings import Finding
from mirror.diagnostics.doctor.kinds import Check, Severity
from mirror.diagnostics.doctor.processing import Limits

__all__ = ["CHECKS", "Check", "Diagnosis", "Finding", "Limits", "Severity", "diagnose"]
