"""Leased run: runs a reconcile under the lease, so that only one runs, and records it.

The record is a row of `mirror.runs`.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from mirror.capture.statements import statement
from mirror.errors import MirrorError
from mirror.reconcile.lease import Lease
from mirror.reconcile.report import Report
from mirror.reconcile.run import Options, Progress, ReconcileRun
from mirror.reconcile.throttle import Throttle
from mirror.settings import Settings
from mirror.sync.connections import Database
from mirror.sync.drain import Drain

_KEEP_DAYS = 90


class AlreadyRunning(MirrorError):
    """Raised when another reconcile runs. This is no failure: the exit code is 0."""

    exit_code = 0


def reconcile(
    drain: Drain,
    options: Options,
    throttle: Throttle,
    *,
    started_by: str = "hand",
    wait: bool = False,
    progress: Progress = lambda *_: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Report:
    """Run one reconcile under the lease, and record it in `mirror.runs`; return its report.

    A dry run takes no lease and is not recorded. If another reconcile runs, `wait` says whether to
    wait for its end or to raise an error. An error that ends the run also closes the drain's
    connections; errors of single mappings are in the report instead.

    Raises:
        AlreadyRunning: another reconcile runs, and `wait` is false.
        MirrorError: the error that ended the run.
    """
    if options.dry_run:
        return ReconcileRun(drain, options, throttle, progress=progress, sleep=sleep).run()
    database = drain.queue.beside
    lease = Lease(database)
    while not lease.take():
        if not wait:
            raise AlreadyRunning(
                f"{lease.held_by() or 'another process'} reconciles now; nothing was done."
            )
        sleep(1.0)
    run = ReconcileRun(drain, options, throttle, lease=lease, progress=progress, sleep=sleep)
    run_id = _record_start(database, lease.holder, started_by)
    outcome = "failed"
    try:
        report = run.run()
        outcome = report.outcome
    except BaseException as error:
        if not isinstance(error, MirrorError):
            outcome = "stopped"
        # An interrupted connection may be in the middle of a transaction.
        drain.close()
        raise
    else:
        return report
    finally:
        # If the primary is unreachable, the lease expires by itself.
        with suppress(MirrorError):
            _record_end(database, run_id, outcome, run.report)
            lease.release()


def run_reconcile(
    drain: Drain,
    settings: Settings,
    options: Options,
    *,
    started_by: str,
    wait: bool = False,
    progress: Progress = lambda *_: None,
) -> Report:
    """Run `reconcile` over a drain's connections, with pauses and grace seconds from the settings.

    Raises:
        AlreadyRunning: another reconcile runs, and `wait` is false.
        MirrorError: the error that ended the run.
    """
    throttle = Throttle(
        drain.queue.beside,
        backlog=settings.reconcile_backlog,
        latency_seconds=settings.reconcile_latency_seconds,
    )
    options = replace(options, grace_seconds=settings.reconcile_grace_seconds)
    return reconcile(drain, options, throttle, started_by=started_by, wait=wait, progress=progress)


def _record_start(database: Database, holder: str, started_by: str) -> int:
    database.execute(statement("delete_old_runs"), [_KEEP_DAYS])
    found = database.execute(statement("begin_run"), [holder, started_by])
    return int(found[0][0])


def _record_end(database: Database, run_id: int, outcome: str, report: Report) -> None:
    content = report.as_json(keys=False) | {"outcome": outcome}
    database.execute(statement("end_run"), [outcome, json.dumps(content), run_id])
