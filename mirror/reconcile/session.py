"""Session: a run as it is started for real, one at a time and on record."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from mirror.capture.statements import statement
from mirror.errors import MirrorError
from mirror.reconcile.lease import Lease
from mirror.reconcile.report import Report
from mirror.reconcile.run import Options, Progress, Reconcile
from mirror.reconcile.throttle import Throttle
from mirror.settings import Settings
from mirror.sync.connections import Database
from mirror.sync.drain import Drain

_KEEP_DAYS = 90


class AlreadyRunning(MirrorError):
    """Raised when somebody else reconciles; nothing is wrong with that."""

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
    """Run one reconcile and record it in mirror.runs. A dry run leaves no trace.

    Raises:
        Busy: another one runs; not with `wait`.
        MirrorError: what ended the run.
    """
    if options.dry_run:
        return Reconcile(drain, options, throttle, progress=progress, sleep=sleep).run()
    notes = drain.queue.notes
    lease = Lease(notes)
    while not lease.take():
        if not wait:
            raise AlreadyRunning(
                f"{lease.held_by() or 'somebody'} reconciles now; nothing was done."
            )
        sleep(1.0)
    run = Reconcile(drain, options, throttle, lease=lease, progress=progress, sleep=sleep)
    number = _begin(notes, lease.holder, started_by)
    outcome = "failed"
    try:
        report = run.run()
        outcome = report.outcome
    except BaseException as error:
        if not isinstance(error, MirrorError):
            outcome = "stopped"
        # Interrupted connections are in the middle of something.
        drain.close()
        raise
    else:
        return report
    finally:
        # Where the primary is away, the lease expires by itself.
        with suppress(MirrorError):
            _end(notes, number, outcome, run.report)
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
    """Run one reconcile over a drain's connections, with the bounds that are configured.

    Raises:
        Busy: another one runs.
        MirrorError: what ended it.
    """
    throttle = Throttle(
        drain.queue.notes,
        backlog=settings.reconcile_backlog,
        latency_seconds=settings.reconcile_latency_seconds,
    )
    options = replace(options, grace_seconds=settings.reconcile_grace_seconds)
    return reconcile(drain, options, throttle, started_by=started_by, wait=wait, progress=progress)


def _begin(database: Database, holder: str, started_by: str) -> int:
    database.execute(statement("delete_old_runs"), [_KEEP_DAYS])
    found = database.execute(statement("begin_run"), [holder, started_by])
    return int(found[0][0])


def _end(database: Database, number: int, outcome: str, report: Report) -> None:
    told = report.as_json(keys=False) | {"outcome": outcome}
    database.execute(statement("end_run"), [outcome, json.dumps(told), number])
