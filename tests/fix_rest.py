"""The REST API in front of a test's target, and tests that run over both transports."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from mirror.config import Settings, load_settings
from mirror.devstack import PostgresCluster, SupabaseLite
from tests.fix_databases import TestDatabase

PACKAGE = Path(__file__).parent / "supabase"

both_transports = pytest.mark.both_transports
"""Marks what has to hold however the target is reached: its tests run twice."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run marked tests once for each transport, if they reach the target at all."""
    marked = metafunc.definition.get_closest_marker("both_transports")
    if marked and "transport" in metafunc.fixturenames:
        metafunc.parametrize("transport", ["postgres", "rest"], indirect=True)


@dataclass
class Person:
    """Somebody who signed up through the Auth API."""

    id: str
    email: str
    password: str
    token: str


SignUp = Callable[[str], Person]
StartLite = Callable[[TestDatabase], SupabaseLite]


@pytest.fixture
def transport(request: pytest.FixtureRequest) -> str:
    """How workers reach the target, `postgres` or `rest`."""
    return str(getattr(request, "param", "postgres"))


@pytest.fixture
def start_lite(target_cluster: PostgresCluster, tmp_path: Path) -> Iterator[StartLite]:
    """Return a function that serves the API of one database."""
    started: list[SupabaseLite] = []

    def start(database: TestDatabase) -> SupabaseLite:
        name = database.url.rpartition("/")[2]
        log = tmp_path / f"lite_{len(started)}.log"
        lite = SupabaseLite.start(target_cluster, name, package=PACKAGE, log=log)
        started.append(lite)
        return lite

    yield start
    for lite in started:
        lite.stop()


@pytest.fixture
def lite(start_lite: StartLite, target: TestDatabase) -> SupabaseLite:
    """The API of the test's target."""
    return start_lite(target)


@pytest.fixture
def rest_settings(primary: TestDatabase, lite: SupabaseLite) -> Settings:
    """Settings of a worker that knows no database URL of the target."""
    return load_settings(
        primary_database_url=primary.url,
        supabase_url=lite.url,
        supabase_secret_key=lite.secret_key,
    )


@pytest.fixture
def sign_up(lite: SupabaseLite) -> SignUp:
    """Return a function that signs somebody up, with a password, as an app would."""

    def sign(email: str) -> Person:
        body: dict[str, Any] = {"email": email, "password": "correct horse battery"}
        answer = httpx.post(
            f"{lite.url}/auth/v1/signup", json=body, headers={"apikey": lite.publishable_key}
        )
        answer.raise_for_status()
        session = answer.json()
        return Person(session["user"]["id"], email, str(body["password"]), session["access_token"])

    return sign
