"""The REST API in front of a test's target, its client, and tests that run over both transports."""

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from mirror.devstack import PostgresCluster, SupabaseLite
from mirror.devstack.node import find_program
from mirror.settings import Settings, load_settings
from tests.support.blocks import blocks
from tests.support.databases import TestDatabase

PACKAGE = Path(__file__).parents[1] / "supabase"

both_transports = pytest.mark.both_transports
"""Marks tests whose result must not depend on the transport: each of them runs twice.

`rest="long"` makes those over REST long.
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a marked test once for each transport, if it uses the fixture `transport`."""
    marked = metafunc.definition.get_closest_marker("both_transports")
    if marked and "transport" in metafunc.fixturenames:
        marks = [pytest.mark.long] if marked.kwargs.get("rest") == "long" else []
        rest = pytest.param("rest", marks=marks)
        metafunc.parametrize("transport", ["postgres", rest], indirect=True)


@dataclass
class Person:
    """A user of the Auth API."""

    id: str
    email: str
    password: str
    token: str


SignUp = Callable[[str], Person]
ServeApi = Callable[[TestDatabase], SupabaseLite]


@pytest.fixture
def transport(request: pytest.FixtureRequest) -> str:
    """The workers' transport to the target, `postgres` or `rest`."""
    return str(getattr(request, "param", "postgres"))


@pytest.fixture(scope="session")
def api_server(
    target_cluster: PostgresCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SupabaseLite]:
    """The stand-in for Supabase's API, not connected to a database yet."""
    log = tmp_path_factory.mktemp("lite") / "lite.log"
    with SupabaseLite.start(target_cluster, package=PACKAGE, log=log) as server:
        yield server


@pytest.fixture
def serve_api(api_server: SupabaseLite) -> Iterator[ServeApi]:
    """Return a function that serves the API of one database, until its next call."""

    def serve(database: TestDatabase) -> SupabaseLite:
        api_server.serve(database.url.rpartition("/")[2])
        return api_server

    yield serve
    api_server.serve(None)


@pytest.fixture
def api(serve_api: ServeApi, target: TestDatabase) -> SupabaseLite:
    """The API of the test's target."""
    return serve_api(target)


@pytest.fixture
def rest_settings(primary: TestDatabase, api: SupabaseLite) -> Settings:
    """Settings of a worker without a database URL of the target."""
    return _over_rest(primary, api)


def settings_between(
    primary: TestDatabase, target: TestDatabase, transport: str, serve_api: ServeApi
) -> Settings:
    """Return settings of a worker between two databases, over a transport."""
    if transport == "rest":
        return _over_rest(primary, serve_api(target))
    return load_settings(primary_database_url=primary.url, supabase_db_url=target.url)


def _over_rest(primary: TestDatabase, api: SupabaseLite) -> Settings:
    return load_settings(
        primary_database_url=primary.url,
        supabase_url=api.url,
        supabase_secret_key=api.secret_key,
    )


@pytest.fixture
def sign_up(api: SupabaseLite) -> SignUp:
    """Return a function that signs a user up with a password, as an app does."""

    def sign(email: str) -> Person:
        body: dict[str, Any] = {"email": email, "password": "correct horse battery"}
        answer = httpx.post(
            f"{api.url}/auth/v1/signup", json=body, headers={"apikey": api.publishable_key}
        )
        answer.raise_for_status()
        session = answer.json()
        return Person(session["user"]["id"], email, str(body["password"]), session["access_token"])

    return sign


def run_snippet(
    page: str, url: str, key: str, message: dict[str, Any] | None = None, **names: str
) -> Any:
    """Run the JavaScript of a page of docs/ with the real client of an API.

    Returns what it sent to Storage, which channels it joined, and what it left. `message` is a
    broadcast that each channel gets; `names` are the variables that the page takes as given.
    """
    text = (PACKAGE.parents[1] / "docs" / page).read_text(encoding="utf-8")
    (block,) = (each for each in blocks(text) if each.language == "js")
    given = {"code": block.text, "url": url, "key": key, "names": names, "message": message}
    done = subprocess.run(
        [find_program("node"), str(PACKAGE / "snippet.mjs")],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
