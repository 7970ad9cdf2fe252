"""Fixtures: what pytest offers to tests by the plugin `mirror.testing`."""

from collections.abc import Iterator

import pytest

from mirror import hooks
from mirror.devstack import DevStack, PostgresCluster
from mirror.testing.model import Model
from mirror.testing.sandbox import Sandbox
from mirror.testing.sandboxes import Sandboxes


@pytest.fixture(scope="session")
def mirror_model() -> Model:
    """The model that is tested; your `conftest.py` overrides this fixture."""
    pytest.fail(
        "define a fixture `mirror_model` with scope='session' that returns a mirror.testing.Model"
    )


@pytest.fixture(scope="session")
def mirror_servers() -> Iterator[tuple[PostgresCluster, PostgresCluster]]:
    """A server for primaries, and one for targets, of one run of the tests."""
    with DevStack.start(durable=False) as stack:
        yield stack.primary, stack.target


@pytest.fixture(scope="session")
def sandboxes(mirror_servers: tuple[PostgresCluster, PostgresCluster]) -> Sandboxes:
    """Makes sandboxes, for fixtures of your own: of a module, or of another model."""
    return Sandboxes(*mirror_servers)


@pytest.fixture
def sandbox(
    sandboxes: Sandboxes, mirror_model: Model, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sandbox]:
    """A primary and a target of one test, empty and migrated, and a drain between them.

    Hooks ring no worker meanwhile: the test mirrors by `sandbox.mirror()`.
    """
    monkeypatch.setenv("MIRROR_DOORBELL", "off")
    hooks.default.cache_clear()
    with sandboxes.open(mirror_model) as opened:
        yield opened
    hooks.default.cache_clear()
