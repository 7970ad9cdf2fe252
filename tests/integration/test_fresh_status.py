"""Commands and workers know the bound of a registry, and how fresh the target is."""

from collections.abc import Callable

import pytest

from mappings.trips import registry
from mirror.diagnostics.doctor.processing import check_faults
from mirror.diagnostics.figures import Figures, read_figures
from mirror.diagnostics.status import find_faults
from mirror.errors import ConfigError
from mirror.model.registry import Registry
from mirror.settings import Settings
from mirror.sync.drain import Drain
from mirror.sync.wiring import check_fresh_seconds
from tests.faults.tools import record
from tests.support.databases import TestDatabase

BOUNDED = Registry(
    "trips", list(registry), access=registry.access, guards=registry.guards, max_staleness=60
)


@pytest.fixture
def figures(settings: Settings, drain: Drain) -> Callable[[], Figures]:
    """Return a function that reads the figures of a registry with a bound of 60 seconds."""
    return lambda: read_figures(settings, BOUNDED, drain.source, drain.target)


def test_a_target_that_nobody_called_fresh_is_a_fault(figures: Callable[[], Figures]) -> None:
    """Its policies refuse every user."""
    assert find_faults(figures())["stale"] == (
        "target: older than 60 s: trip_memberships, trips, users"
    )


def test_a_worker_makes_it_fresh(
    figures: Callable[[], Figures], drain: Drain, target: TestDatabase
) -> None:
    """Until it is older than the bound, or its clock is set back."""
    drain.run()
    assert find_faults(figures()) == {}
    for age in ("61 seconds", "-1 hour"):
        target.query(
            "update mirror.freshness set as_of = now() - %s::interval where mapping = 'trips'", age
        )
        assert find_faults(figures()) == {"stale": "target: older than 60 s: trips"}
        assert [found.code for found in check_faults(figures(), model_late=False)] == ["stale"]


def test_an_event_that_can_never_succeed_is_named_as_the_cause(
    figures: Callable[[], Figures],
    make_drain: Callable[..., Drain],
    primary: TestDatabase,
    target: TestDatabase,
) -> None:
    """Its key has too many parts. Its mapping is not fresh again before somebody discards it."""
    record(primary, "trips", 1, 2)
    make_drain(max_attempts=1).run()
    target.query("update mirror.freshness set as_of = now() - interval '61 seconds'")
    make_drain().run()
    found = find_faults(figures())
    assert found["stale"] == (
        "target: older than 60 s: trips; held back by events that failed: 1 of trips"
    )
    assert "buried" in found
    primary.query("delete from mirror.retries")
    make_drain().run()
    assert find_faults(figures()) == {}


@pytest.mark.parametrize("seconds", [None, 21.0])
def test_a_worker_that_would_report_too_seldom_does_not_start(
    settings: Settings, seconds: float | None
) -> None:
    """While nothing happens, its target would be older than the bound."""
    with pytest.raises(ConfigError, match=r"MIRROR_FRESH_SECONDS.*set it to 20 or less"):
        check_fresh_seconds(settings.model_copy(update={"fresh_seconds": seconds}), BOUNDED)
    check_fresh_seconds(settings.model_copy(update={"fresh_seconds": 20.0}), BOUNDED)
    check_fresh_seconds(settings.model_copy(update={"fresh_seconds": seconds}), registry)
