"""Views: what the page shows. Each answers a GET, reads, and changes nothing."""

from contextlib import closing
from typing import Any, Final

from starlette.responses import HTMLResponse, Response

from mirror.access.questions import Given, access_questions
from mirror.diagnostics.access_review import MOST, review
from mirror.diagnostics.event import read_event
from mirror.diagnostics.explain import explain_resource, question_about
from mirror.diagnostics.figures import Unknown
from mirror.diagnostics.runs import last_finished
from mirror.errors import MirrorError, UsageError
from mirror.reconcile import Cause
from mirror.serve.parts import lamps
from mirror.serve.rendering import count, render
from mirror.serve.sparkline import sparkline
from mirror.serve.verdict import judge
from mirror.serve.visit import Visit
from mirror.sync.wiring import build_drain, build_source, build_target

_DONE: Final = {
    "retry": ("will be retried", "event"),
    "discard": ("deleted", "event"),
}
"""By action: what happened to the things, and their noun; shown after the action."""
_VIEWS: Final = dict.fromkeys(("buried", "stuck", "parked", "unclaimed"), "/waiting") | {
    "last-reconcile": "/drift"
}
"""By code of a problem: the view that shows more."""
_HIGHEST: Final = 2**63 - 1
"""The highest number of an event."""


def page(visit: Visit, template: str, *, status: int = 200, **values: Any) -> Response:
    """Return a page; its templates know the visit."""
    return HTMLResponse(render(template, visit=visit, **values), status_code=status)


def now(visit: Visit) -> Response:
    """Show whether all is well, what to do, and who has access that they should not have."""
    reading = visit.watch.read()
    runs = () if isinstance(reading.runs, Unknown) else reading.runs
    return page(
        visit,
        "now.html",
        reading=reading,
        verdict=judge(reading),
        lamps=list(lamps(reading)),
        last_run=last_finished(runs),
        sparkline=sparkline(reading.figures),
        views=_VIEWS,
    )


def why(visit: Visit) -> Response:
    """Explain why a user has access to a resource, or why not; the URL can be sent."""
    user, noun, resource = visit.query("user"), visit.query("kind"), visit.query("resource")
    questions = sorted(access_questions(visit.registry))
    values: dict[str, Any] = {"nouns": questions, "user": user, "noun": noun, "resource": resource}
    if not (user and resource):
        return page(visit, "why.html", explanation=None, **values)
    question = question_about(visit.registry, noun)
    with closing(build_drain(visit.settings, visit.registry)) as drain:
        explanation = explain_resource(drain, question, user, resource)
    return page(visit, "why.html", explanation=explanation, **values)


def waiting(visit: Visit) -> Response:
    """Show which events wait, which were set apart, and the causes of dead ones."""
    return page(visit, "waiting.html", reading=visit.watch.read(), done=_done(visit))


def event(visit: Visit) -> Response:
    """Show all about one event, and the access that is wrong because of it."""
    number = int(visit.request.path_params["number"])
    if number > _HIGHEST:
        raise UsageError("no event has so high a number.")
    with (
        closing(build_source(visit.settings)) as source,
        closing(build_target(visit.settings)) as target,
    ):
        report = read_event(visit.registry, source, target, number)
    return page(visit, "event.html", report=report)


def drift(visit: Visit) -> Response:
    """Show the last reconciles, what each found, and the deletes that wait for a person."""
    reading = visit.watch.read()
    runs = () if isinstance(reading.runs, Unknown) else reading.runs
    last = last_finished(runs)
    return page(
        visit,
        "drift.html",
        reading=reading,
        runs=runs,
        held=() if last is None else last.held,
        background=visit.background,
        causes={cause.name.lower(): cause.value for cause in Cause},
    )


def person(visit: Visit) -> Response:
    """List the resources to which a user has access, and by which rows."""
    user = visit.query("user")
    if not user:
        return page(visit, "person.html", found=None, user="", most=MOST)
    questions = list(access_questions(visit.registry).values())
    with closing(build_drain(visit.settings, visit.registry)) as drain:
        found = review(drain.registry, drain.target, questions, {Given.USER: user})
    return page(visit, "person.html", found=found, user=user, most=MOST)


def resource(visit: Visit) -> Response:
    """List the users who have access to a resource, and by which rows."""
    noun, value = visit.query("kind"), visit.query("resource")
    nouns = sorted(access_questions(visit.registry))
    values: dict[str, Any] = {"nouns": nouns, "noun": noun, "most": MOST}
    if not value:
        return page(visit, "resource.html", found=None, resource="", **values)
    question = question_about(visit.registry, noun)
    with closing(build_drain(visit.settings, visit.registry)) as drain:
        found = review(drain.registry, drain.target, [question], {Given.RESOURCE: value})
    return page(visit, "resource.html", found=found, resource=value, **values)


def failure(visit: Visit, error: MirrorError) -> Response:
    """Show an error of the library instead of a page."""
    mine = isinstance(error, UsageError)
    notes = getattr(error, "__notes__", [])
    return page(visit, "failure.html", status=400 if mine else 503, error=str(error), notes=notes)


def refusal(visit: Visit, says: str, *, status: int) -> Response:
    """Show why a request was refused."""
    return page(visit, "failure.html", status=status, error=says, notes=[])


def _done(visit: Visit) -> str | None:
    """Return the sentence about the action that led here; None: none did."""
    verb, number = visit.query("done"), visit.query("events")
    if verb not in _DONE or not number.isdecimal():
        return None
    says, noun = _DONE[verb]
    return f"{count(int(number), noun)} {says}."
