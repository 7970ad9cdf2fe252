"""Application: the routes of the app, and what every request and every answer goes through."""

from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from typing import Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from mirror.errors import MirrorError
from mirror.errors.unforeseen import explained
from mirror.model.registry import load_registry
from mirror.serve import actions, views
from mirror.serve.admission import (
    Authorize,
    Level,
    OneTimeLink,
    level_of,
    names_loopback,
    session_cookie,
)
from mirror.serve.background import BackgroundReconcile
from mirror.serve.headers import Headers
from mirror.serve.metrics import scrape
from mirror.serve.readiness import not_ready
from mirror.serve.rendering import HERE, render
from mirror.serve.visit import (
    CSRF_COOKIE,
    Visit,
    comes_from_here,
    csrf_token,
    read_form,
)
from mirror.serve.watch import Watch
from mirror.settings import Settings, load_settings

Handler = Callable[[Visit], Response]
Endpoint = Callable[[Request], Awaitable[Response]]

VIEWS: Final[dict[str, Handler]] = {
    "/": views.now,
    "/why": views.why,
    "/waiting": views.waiting,
    "/event/{number:int}": views.event,
    "/drift": views.drift,
    "/person": views.person,
    "/resource": views.resource,
}
ACTIONS: Final[dict[str, Handler]] = {
    "/waiting/retry": actions.retry,
    "/waiting/discard": actions.discard,
    "/drift/reconcile": actions.reconcile,
    "/drift/compare": actions.compare,
    "/drift/confirm": actions.confirm,
}

_REFUSED: Final = "You may not see this page."
_READ_ONLY: Final = "You may look, but not act: this needs the level `operate`."
_FOREIGN: Final = (
    "Nothing was done: the form was not sent by this page, or is too old. Go back, reload it, and "
    "try again."
)
_LOCKED: Final = "Open the page with the link that `mirror serve` has printed last."


def app(authorize: Authorize, *, settings: Settings | None = None) -> Starlette:
    """Return the app, to be mounted behind your own sign-in.

    `authorize` is called for each request to the page and to `/metrics`; it returns `view`,
    `operate`, or None for a request that is refused, and may be a coroutine function. `settings`
    None: those of the environment.

    Raises:
        ConfigError: a required setting is missing or malformed.
        MirrorError: the mappings cannot be loaded.
    """
    return Application(_watch(settings), authorize).build()


def loopback_app(link: OneTimeLink, *, settings: Settings | None = None) -> Starlette:
    """Return the app for the loopback address: it opens with a link.

    Its metrics are open to this machine.

    Raises:
        ConfigError: a required setting is missing or malformed.
        MirrorError: the mappings cannot be loaded.
    """
    return Application(_watch(settings), link.authorize, link).build()


def _watch(settings: Settings | None) -> Watch:
    settings = settings or load_settings()
    return Watch(settings, load_registry(settings.mappings))


class Application:
    """Builds the routes; `link` None: another app has mounted this one."""

    def __init__(self, watch: Watch, authorize: Authorize, link: OneTimeLink | None = None) -> None:
        self._watch = watch
        self._authorize = authorize
        self._link = link
        self._background = BackgroundReconcile(watch.settings, watch.registry)

    def build(self) -> Starlette:
        """Return the app."""
        here = None if self._link is None else names_loopback
        return Starlette(routes=list(self._routes()), middleware=[Middleware(Headers, admits=here)])

    def _routes(self) -> Iterator[BaseRoute]:
        for path, view in VIEWS.items():
            yield Route(path, self._endpoint(view, "view"), methods=["GET"])
        for path, action in ACTIONS.items():
            yield Route(path, self._endpoint(action, "operate"), methods=["POST"])
        if self._link is not None:
            yield Route("/open", self._offer, methods=["GET"])
            yield Route("/open", self._open, methods=["POST"])
        yield Route("/metrics", self._metrics, methods=["GET"])
        yield Route("/healthz", _healthz, methods=["GET"])
        yield Route("/readyz", self._readyz, methods=["GET"])
        yield Mount("/static", StaticFiles(directory=HERE / "static"))

    def _endpoint(self, handler: Handler, needed: Level) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            level = await level_of(self._authorize, request)
            if level is None:
                return self._refused(request)
            csrf = csrf_token(request)
            form = await read_form(request) if request.method == "POST" else {}
            visit = Visit(request, self._watch, self._background, level, csrf, form or {})
            if form is None:
                answer = views.refusal(visit, "The form is too long.", status=413)
            elif needed == "operate" and level != "operate":
                answer = views.refusal(visit, _READ_ONLY, status=403)
            elif needed == "operate" and not comes_from_here(request, form):
                answer = views.refusal(visit, _FOREIGN, status=403)
            else:
                answer = await run_in_threadpool(_handle, handler, visit)
            if CSRF_COOKIE not in request.cookies:
                _set_cookie(request, answer, CSRF_COOKIE, csrf)
            return answer

        return endpoint

    def _refused(self, request: Request) -> Response:
        says = _REFUSED if self._link is None else _LOCKED
        base = request.scope.get("root_path", "").rstrip("/")
        return HTMLResponse(render("locked.html", base=base, says=says, token=None), 403)

    async def _offer(self, request: Request) -> Response:
        """Show a button that opens the page: a preview of the link does not use it up."""
        token = request.query_params.get("token", "")
        return HTMLResponse(render("locked.html", base="", says="", token=token))

    async def _open(self, request: Request) -> Response:
        assert self._link is not None  # noqa: S101 - the route exists only then
        form = await read_form(request) or {}
        session = self._link.open(form.get("token", ""))
        if session is None:
            return self._refused(request)
        answer = RedirectResponse("/", status_code=303)
        _set_cookie(request, answer, session_cookie(request), session)
        return answer

    async def _metrics(self, request: Request) -> Response:
        if self._link is None and await level_of(self._authorize, request) is None:
            return PlainTextResponse(_REFUSED, status_code=403)
        accepts = request.headers.get("accept", "")
        content, kind = await run_in_threadpool(scrape, self._watch, accepts)
        return Response(content, headers={"content-type": kind})

    async def _readyz(self, _request: Request) -> Response:
        reasons = await run_in_threadpool(not_ready, self._watch)
        if reasons:
            return PlainTextResponse("\n".join(reasons), HTTPStatus.SERVICE_UNAVAILABLE)
        return PlainTextResponse("ready")


async def _healthz(_request: Request) -> Response:
    """Answer that the process lives. It reads nothing: an outage elsewhere restarts no process."""
    return PlainTextResponse("alive")


def _handle(handler: Handler, visit: Visit) -> Response:
    try:
        # The message of an unforeseen error may have values of rows.
        with explained():
            return handler(visit)
    except MirrorError as error:
        return views.failure(visit, error)


def _set_cookie(request: Request, answer: Response, name: str, value: str) -> None:
    answer.set_cookie(
        name,
        value,
        path=request.scope.get("root_path", "").rstrip("/") or "/",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
