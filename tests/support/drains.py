"""Fixtures between a test's two databases: a session, hooks, settings and drains."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from mappings.trips import registry
from mirror import hooks
from mirror.capture.doorbell import Doorbell, DoorbellSettings
from mirror.model.registry import Registry
from mirror.settings import Settings, load_settings
from mirror.sync.drain import Drain
from mirror.sync.wiring import build_drain
from tests.support import factories
from tests.support.databases import TestDatabase


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove a developer's own settings: each test gives its settings itself."""
    for name in (
        "PRIMARY_DATABASE_URL",
        "PRIMARY_LISTEN_URL",
        "SUPABASE_DB_URL",
        "SUPABASE_URL",
        "SUPABASE_SECRET_KEY",
        "SUPABASE_SERVICE_ROLE_KEY",
        "SUPABASE_PUBLISHABLE_KEY",
        "SUPABASE_ANON_KEY",
        "REDIS_URL",
        "MIRROR_MAPPINGS",
        "MIRROR_TARGET",
        "MIRROR_WRITER_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)
    hooks.default.cache_clear()


@pytest.fixture
def engine(primary: TestDatabase) -> Iterator[Engine]:
    """The backend's engine."""
    engine = primary.engine()
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    """A session on the primary. The factories use it; the test commits it."""
    with Session(engine, expire_on_commit=False) as session:
        for factory in (
            factories.UserFactory,
            factories.TripFactory,
            factories.MembershipFactory,
        ):
            factory._meta.sqlalchemy_session = session
        yield session


@pytest.fixture
def recorder() -> hooks.Hooks:
    """Hooks that wake no worker: the test drains by itself."""
    return hooks.Hooks(registry, Doorbell(DoorbellSettings(mode="off")))


@pytest.fixture
def settings(
    request: pytest.FixtureRequest, transport: str, primary: TestDatabase, target: TestDatabase
) -> Settings:
    """Settings of a worker between the test's two databases."""
    if transport == "rest":
        settings: Settings = request.getfixturevalue("rest_settings")
        return settings
    return load_settings(primary_database_url=primary.url, supabase_db_url=target.url)


@contextmanager
def making_drains(settings: Settings, model: Registry) -> Iterator[Callable[..., Drain]]:
    """Yield a function that makes drains of a model; keyword arguments change their settings."""
    made: list[Drain] = []

    def make(**changes: object) -> Drain:
        drain = build_drain(settings.model_copy(update=changes), model)
        made.append(drain)
        return drain

    try:
        yield make
    finally:
        for drain in made:
            drain.close()


@pytest.fixture
def make_drain(settings: Settings) -> Iterator[Callable[..., Drain]]:
    """Return a function that makes drains of the trips model, as `making_drains` does."""
    with making_drains(settings, registry) as make:
        yield make


@pytest.fixture
def drain(make_drain: Callable[..., Drain]) -> Drain:
    """The drain of one worker."""
    return make_drain()
