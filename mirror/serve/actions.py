"""Actions: the orders that an operator gives on the page. Each answers a POST.

The page has checked the level and the form's token. Each action checks the word or the count that
the operator typed, and leaves a record.
"""

from contextlib import closing
from typing import Final

from starlette.responses import RedirectResponse, Response

from mirror.diagnostics.figures import Unknown
from mirror.diagnostics.runs import RunFindings, last_finished
from mirror.diagnostics.unfinished import read_buried_ids
from mirror.errors import UsageError
from mirror.reconcile import Options
from mirror.serve.visit import Visit
from mirror.sync import orders
from mirror.sync.claims import Queue
from mirror.sync.wiring import build_queue

_NAMED: Final = 20
_DIGITS: Final = 19


def retry(visit: Visit) -> Response:
    """Retry the dead events of one cause, or one of them."""
    visit.check_word("retry")
    with closing(build_queue(visit.settings)) as queue:
        retried = orders.retry(queue, _chosen(visit, queue))
    visit.record("retry", events=len(retried), first=retried[:_NAMED])
    return _back(visit, f"/waiting?done=retry&events={len(retried)}")


def discard(visit: Visit) -> Response:
    """Delete the dead events of one cause, or one of them."""
    visit.check_word("discard")
    with closing(build_queue(visit.settings)) as queue:
        ids = _chosen(visit, queue)
        # Without their keys, which may be of a person.
        visit.record("discard", events=len(ids), first=ids[:_NAMED])
        orders.discard(queue, ids)
    return _back(visit, f"/waiting?done=discard&events={len(ids)}")


def reconcile(visit: Visit) -> Response:
    """Start a reconcile."""
    visit.check_word("reconcile")
    return _start(visit, Options())


def compare(visit: Visit) -> Response:
    """Start a comparison, which changes nothing."""
    visit.check_word("compare")
    return _start(visit, Options(dry_run=True))


def confirm(visit: Visit) -> Response:
    """Start a reconcile that may delete as many rows as the operator has typed.

    Raises:
        UsageError: no count was typed, or another one than that of the last reconcile.
    """
    reading = visit.watch.read()
    last = None if isinstance(reading.runs, Unknown) else last_finished(reading.runs)
    held = [] if last is None else last.held
    typed = {part.mapping: visit.form.get(f"count {part.mapping}", "").strip() for part in held}
    counts = {part.mapping: _confirmed(part, typed[part.mapping]) for part in held}
    chosen = {name: number for name, number in counts.items() if number is not None}
    if not chosen:
        raise UsageError("nothing was done: type the number of rows that may be deleted.")
    return _start(visit, Options(confirm_counts=chosen), confirmed=chosen)


def _confirmed(part: RunFindings, typed: str) -> int | None:
    """Return the confirmed number of rows; None if the field was left empty.

    Raises:
        UsageError: another number was typed.
    """
    if not typed:
        return None
    if typed.replace(",", "") != str(part.extra):
        raise UsageError(
            f"nothing was done: the last reconcile held back {part.extra} rows of {part.mapping}, "
            f"and another number was typed."
        )
    return part.extra


def _start(visit: Visit, options: Options, **facts: object) -> Response:
    if not visit.background.start(options):
        raise UsageError("nothing was done: a reconcile that the page started still runs.")
    visit.record("compare" if options.dry_run else "reconcile", **facts)
    return _back(visit, "/drift")


def _chosen(visit: Visit, queue: Queue) -> list[int]:
    """Return the numbers of the dead events that a form names: one event, or all of one cause.

    Raises:
        UsageError: there is none, because it was retried or discarded meanwhile.
    """
    form = visit.form
    number = form.get("event", "")
    event = int(number) if number.isdecimal() and len(number) < _DIGITS else None
    found = read_buried_ids(
        queue.beside, event=event, mapping=form.get("mapping", ""), digest=form.get("cause", "")
    )
    if not found:
        raise UsageError("nothing was done: no such event is dead any more.")
    return found


def _back(visit: Visit, path: str) -> Response:
    """Return a redirect to a page, which then shows a new reading."""
    visit.watch.forget()
    return RedirectResponse(f"{visit.base}{path}", status_code=303)
