"""Logs contain ids and counts, and no secrets."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from mirror.errors.redaction import redact
from mirror.settings.logs import configure_logging

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoic2VydmljZV9yb2xlIn0.c2lnbmF0dXJl-_x"
SECRETS = [
    ("postgresql://user:hunter2@db.example:5432/app", "hunter2"),
    ("postgresql+psycopg://user:hun@ter2@db.example/app", "ter2"),
    ("redis://:hunter2@cache.example:6379/0", "hunter2"),
    ("rediss://default:hun/ter2@cache.example", "ter2"),
    ("host=db user=app password=hunter2 dbname=x", "hunter2"),
    ("postgresql://db.example/app?user=u&password=hunter2&sslmode=require", "hunter2"),
    ("sb_secret_N7UND0UgjKTV-UKU_x0-8YZ", "UKU_x0-8YZ"),
    (f"Bearer {JWT}", "c2lnbmF0dXJl"),
]


@pytest.fixture(params=["json", "console"])
def logged(request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """Log in both styles to a string; the fixture yields a function that returns it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging(style=request.param, level="info", stream=stream)
    yield stream.getvalue
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def log() -> Any:
    """Return a logger as the package's modules create it."""
    return structlog.stdlib.get_logger("mirror.some")


def failing(text: str) -> Exception:
    """Return an exception with a traceback and a cause."""
    with pytest.raises(RuntimeError) as info:  # noqa: PT012 - makes one, asserts nothing
        try:
            int(text)
        except ValueError as inner:
            raise RuntimeError("outer") from inner
    return info.value


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_redact_removes_secrets_and_leaves_the_rest(text: str, secret: str) -> None:
    """The address of a server stays readable."""
    cleaned = redact(f"cannot reach {text}, giving up")
    assert secret not in cleaned
    assert cleaned.startswith("cannot reach ")
    assert "giving up" in cleaned
    if "example" in text:
        assert "example" in cleaned


@pytest.mark.parametrize(
    "text",
    ["https://example.com/path?x=1", "trip 6f1b1f4e", "a@b.example wrote", "port 5432", ""],
)
def test_redact_leaves_other_text_alone(text: str) -> None:
    """It removes only secrets."""
    assert redact(text) == text


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_no_part_of_a_log_line_contains_a_secret(
    logged: Callable[[], str], text: str, secret: str
) -> None:
    """Message, value, nested value, exception, cause, traceback, arguments of standard logging."""
    log().info(f"at {text}")
    log().info("plain", url=text, nested={"urls": [text]}, error=ValueError(text))
    log().error("failed", exc_info=failing(text))
    logging.getLogger("library").warning("at %s", text)
    logging.getLogger("library").error("failed", exc_info=failing(text))
    written = logged()
    assert secret not in written
    assert written.count("RuntimeError: outer") == 2
    assert written.count("ValueError") >= 3


def test_json_is_one_object_a_line_with_the_usual_fields() -> None:
    """This holds for records of the standard library and for exceptions, too."""
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_logging(style="auto", level="warning", stream=stream)
        log().warning("late", events=3)
        log().info("not shown")
        logging.getLogger("library").error("failed", exc_info=failing("why"))
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["late", "failed"]
    assert lines[0]["events"] == 3
    assert [line["level"] for line in lines] == ["warning", "error"]
    assert [line["logger"] for line in lines] == ["mirror.some", "library"]
    assert all("timestamp" in line for line in lines)
    assert "ValueError: invalid literal" in lines[1]["exception"]


def test_configuring_twice_does_not_double_the_lines(logged: Callable[[], str]) -> None:
    """The second call replaces the handler."""
    configure_logging(style="json", stream=io.StringIO())
    assert len(logging.getLogger().handlers) == 1
