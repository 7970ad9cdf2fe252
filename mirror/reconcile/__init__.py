"""Reconcile: finds rows in which the target differs from the primary, repairs and reports them.

Runs in the worker and in the `mirror` command; `worker`, `diagnostics` and `cli` import it. Its
steps are compare, judge, limit deletes, repair. Comparing only finds suspects. Judging reads each
suspect again and excludes rows with a change under way. Repairs are fenced, like a drain's.
"""

from mirror.reconcile.before_resync import refuse_resync
from mirror.reconcile.drift import Cause
from mirror.reconcile.leased_run import AlreadyRunning, reconcile, run_reconcile
from mirror.reconcile.report import MappingReport, Report
from mirror.reconcile.run import Options, Progress
from mirror.reconcile.sample import draw_keys, sample, sync
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
    "draw_keys",
    "reconcile",
    "refuse_resync",
    "run_reconcile",
    "sample",
    "sweep",
    "sync",
]
