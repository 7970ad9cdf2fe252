"""Doctor: is everything around the mirror as it has to be?

Facts are gathered first, a few round trips to each side (`examine`); checks are functions of facts
and declarations that yield findings, and ask nobody. What could not be asked is a finding itself,
and the other checks go on.
"""

from mirror.diagnostics.doctor.checks import CHECKS, Check, Severity
from mirror.diagnostics.doctor.diagnosis import Diagnosis, diagnose
from mirror.diagnostics.doctor.findings import Finding
from mirror.diagnostics.doctor.processing import Limits

__all__ = ["CHECKS", "Check", "Diagnosis", "Finding", "Limits", "Severity", "diagnose"]
