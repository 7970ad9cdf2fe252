"""The app of `mirror.serve`, served over HTTP by a thread, and a visitor that has no browser."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from html import unescape
from typing import Any, cast

import httpx
import pytest
import uvicorn
from starlette.requests import Request
from starlette.types import ASGIApp

from mappings.trips import registry
from mirror.serve import Level
from mirror.serve.application import Application
from mirror.serve.watch import Watch
from mirror.settings import Settings, load_settings
from tests.support.databases import TestDatabase
from tests.support.waiting import until


@contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """Serve an app on a free port of the loopback address; yield its URL."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            until(lambda: server.started)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def by_header(request: Request) -> Level | None:
    """Admit each request to the level that its header names; without a header, to `operate`."""
    level = request.headers.get("x-level", "operate")
    request.state.operator = "op-1"
    # A test may send another word.
    return cast("Level | None", level or None)


class Visitor:
    """A client that keeps cookies and fills in forms, as a browser does."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=60, trust_env=False)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Return the answer to a GET."""
        return self.http.get(path, **options)

    def text(self, path: str) -> str:
        """Return the words of a page, which must be there."""
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        return words(answer.text)

    def send(self, path: str, page: str = "/drift", **fields: str) -> httpx.Response:
        """Send a form to `path`, with the token of a `page` that was loaded before."""
        found = re.search(r'name="csrf" value="([^"]+)"', self.get(page).text)
        token = found[1] if found else ""
        return self.http.post(path, data={"csrf": token, **fields})


def words(html: str) -> str:
    """Return the text of a page, with single spaces."""
    without = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", without)).split())


Visit = Callable[..., Visitor]


@pytest.fixture
def visit(primary: TestDatabase, target: TestDatabase) -> Iterator[Visit]:
    """Return a function that serves the page of the test's databases, and returns a visitor.

    Keyword arguments change the settings. Nothing is cached, and every request is admitted.
    """
    with ExitStack() as opened:

        def visit(**changes: Any) -> Visitor:
            settings = page_settings(primary, target, **changes)
            watch = Watch(settings, registry, seconds=-1)
            visitor = Visitor(opened.enter_context(serving(Application(watch, by_header).build())))
            opened.callback(visitor.http.close)
            return visitor

        yield visit


def page_settings(primary: TestDatabase, target: TestDatabase, **changes: Any) -> Settings:
    """Return settings between two databases."""
    values = {
        "primary_database_url": primary.url,
        "supabase_db_url": target.url,
        "mappings": "mappings.trips",
        "reconcile_grace_seconds": 0,
    }
    return load_settings(**(values | changes))
