"""`hooks.check()` at the start of a backend: it names what would fail at the first hook."""

import asyncio
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mirror import hooks
from mirror.capture.variables import BACKEND, unknown
from mirror.errors import ConfigError, UsageError
from mirror.settings import Settings, unknown_variables, variable

CAPTURE = Path(__file__).parent.parent.parent / "docs" / "capture.md"
GOOD = {"MIRROR_MAPPINGS": "mappings.trips", "REDIS_URL": "redis://127.0.0.1:9/0"}


@pytest.fixture(autouse=True)
def backend(no_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Give the backend settings that are right, for a test to spoil."""
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    hooks.default.cache_clear()
    yield monkeypatch
    hooks.default.cache_clear()


@pytest.mark.parametrize(
    "changes",
    [{}, {"MIRROR_DOORBELL": "off", "REDIS_URL": ""}, {"MIRROR_DOORBELL_SECONDS": "2"}],
)
def test_settings_that_work_raise_nothing(
    backend: pytest.MonkeyPatch, changes: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """No server is asked: none listens at this address. Without a doorbell, Redis is not needed."""
    for name, value in changes.items():
        backend.setenv(name, value)
    hooks.check()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"REDIS_URL": ""}, "REDIS_URL is not set; set it to .* MIRROR_DOORBELL=off"),
        ({"REDIS_URL": "localhost:6379"}, "REDIS_URL: expected redis://"),
        ({"MIRROR_MAPPINGS": "no.such"}, "'no.such' does not import .* MIRROR_MAPPINGS must"),
        ({"MIRROR_MAPPINGS": "json"}, "'json' holds no Registry; MIRROR_MAPPINGS must"),
        ({"MIRROR_DOORBELL": "loud"}, "MIRROR_DOORBELL: expected thread, inline or off"),
        ({"MIRROR_DOORBELL_SECONDS": "x"}, "MIRROR_DOORBELL_SECONDS: expected seconds"),
    ],
)
def test_what_would_fail_at_the_first_hook_is_raised_at_the_start(
    backend: pytest.MonkeyPatch, changes: dict[str, str], message: str
) -> None:
    """The error names the variable and the remedy; it is in the tree of usage errors."""
    for name, value in changes.items():
        backend.setenv(name, value)
    with pytest.raises(UsageError, match=message):
        hooks.check()


def test_a_misspelt_variable_is_a_warning(
    backend: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of other variables, a backend cannot know whether a worker reads them."""
    backend.setenv("MIRROR_DOORBEL", "off")
    backend.setenv("MIRROR_OF_MINE", "secret")
    with caplog.at_level(logging.WARNING):
        hooks.check()
    (record,) = caplog.records
    assert record.getMessage() == "MIRROR_DOORBEL is no setting; is MIRROR_DOORBELL meant?"


def test_no_setting_of_a_worker_looks_like_a_misspelt_one_of_a_backend() -> None:
    """The two often share one environment."""
    settings = {variable(name): "x" for name in Settings.model_fields}
    assert list(unknown(settings, BACKEND, misspelt=True)) == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("MIRROR_BATCHSIZE", "MIRROR_BATCHSIZE is no setting; is MIRROR_BATCH_SIZE meant?"),
        ("mirror_redis_url", "mirror_redis_url is no setting; is REDIS_URL meant?"),
        ("MIRROR_X", "MIRROR_X is no setting; unset it, or correct its name."),
    ],
)
def test_a_variable_that_nothing_reads_is_named_with_the_one_that_may_be_meant(
    backend: pytest.MonkeyPatch, name: str, sentence: str
) -> None:
    """The value, which may be a secret, is not repeated."""
    backend.setenv("MIRROR_BATCH_SIZE", "7")
    backend.setenv(name, "secret")
    assert unknown_variables() == [sentence]


@pytest.mark.parametrize("start", ["lifespan", "create_app", "main"])
def test_the_ways_to_call_it_in_the_documentation_refuse_to_start(
    backend: pytest.MonkeyPatch, start: str
) -> None:
    """The framework gets the error before it serves a request."""
    section = CAPTURE.read_text(encoding="utf-8").split("### Check the settings")[1]
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", re.split("\n###? ", section)[0], re.DOTALL):
        exec(block, names)  # noqa: S102 - our own page

    async def run() -> None:
        async with names["lifespan"](None):
            pass

    def begin() -> None:
        if start == "lifespan":
            asyncio.run(run())
        else:
            names[start]()

    begin()
    backend.setenv("REDIS_URL", "nonsense")
    hooks.default.cache_clear()
    with pytest.raises(ConfigError, match="REDIS_URL"):
        begin()
