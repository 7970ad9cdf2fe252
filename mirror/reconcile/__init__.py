"""Reconcile: find where the target differs from the primary, repair it, say what it was.

compare → judge → guard → repair. Comparing only suspects; judging reads a suspect again and knows
what is under way; repairs go the drain's own fenced way.
"""

from mirror.reconcile.drift import Cause
from mirror.reconcile.report import MappingReport, Report
from mirror.reconcile.run import Options, Progress
from mirror.reconcile.sample import draw, sample, sync
from mirror.reconcile.session import AlreadyRunning, reconcile, run_reconcile
from mirror.reconcile.sweep import sweep
from mirror.reconcile.throttle import Throttle

__all__ = [
    "AlreadyRunning",
    "Cause",
    "MappingReport",
    "Options",
    "Progress",
    "Report",
    "Throttle",
    "draw",
    "reconcile",
    "run_reconcile",
    "sample",
    "sweep",
    "sync",
]
