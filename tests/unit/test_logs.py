"""Logs contain ids and counts, and no secrets."""

import ast
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.errors.redaction import one_line, redact
from mirror.settings.logs import configure_logging

ROOT = Path(__file__).parent.parent.parent
LEVELS = ("debug", "info", "warning", "error", "exception")
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
    (
        "Bearer eyAiYWxnIjogIkhTMjU2In0K.eyJyb2xlIjoic2VydmljZV9yb2xlIn0.c2lnbmF0dXJl",
        "c2lnbmF0dXJl",
    ),
    ("host=db password='hun ter2' dbname=x", "ter2"),
    ("failed to resolve host 'ter2@db.example': unknown", "ter2"),
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


HOSTILE = (
    "users\x1b[2J\x1b]0;owned\x07\r\nall is well \u202egnp.exe\u2066\x9b31m\u2028\x00"
    " [bold]:smile:[/x]"
)
"""A name that clears a screen, sets a title, poses as another line, and turns others around."""


def assert_printable(text: str) -> None:
    """Fail if a line of a text has a character that a terminal would not print as it is."""
    for line in text.rstrip("\n").split("\n"):
        assert line.isprintable(), repr(line)


def test_no_text_in_a_log_line_can_act_on_a_terminal(logged: Callable[[], str]) -> None:
    """A mapping's name comes from whoever may write the outbox."""
    log().warning(HOSTILE, mapping=HOSTILE, nested={HOSTILE: [HOSTILE]}, error=ValueError(HOSTILE))
    logging.getLogger("library").warning("at %s", HOSTILE)
    log().error("failed", exc_info=failing(HOSTILE))
    written = logged()
    assert_printable(written)
    lines = [line for line in written.split("\n") if "Traceback" not in line]
    assert not [line for line in lines if line.startswith("all is well")]
    assert "\\u202egnp.exe" in written


def test_a_text_of_a_megabyte_is_shortened(logged: Callable[[], str]) -> None:
    """The beginning of a message is kept, and its end, which names the remedy."""
    texts = [
        f"mapping {filler * (1_000_000 // len(filler))} is unknown; migrate"
        for filler in ("x", "\x1b", "://", "eyJ-", "'a'@", "\n", "password=")
    ]
    for text in texts:
        log().warning("event set apart", mapping=text)
    log().warning("event set apart", nested=[texts[0]], error=ValueError(texts[0]))
    written = logged()
    assert len(written) < 60_000
    assert written.count("is unknown; migrate") == len(texts) + 2
    assert_printable(written)


@settings(max_examples=settings().max_examples // 4)
@given(st.text(), st.text(max_size=5))
def test_a_text_that_can_be_printed_is_not_changed(text: str, end: str) -> None:
    """Names in any script stay readable; only the characters without a picture are escaped."""
    printable = "".join(one for one in text if one.isprintable())
    assert one_line(printable) == redact(printable)
    assert one_line(text + end).isprintable()


@pytest.mark.parametrize(
    "text", ["eyes.on.you", "ewe.example.com", "every-part.of-it.here", "'a word' and 'another'"]
)
def test_what_only_resembles_a_secret_stays(text: str) -> None:
    """Hosts and sentences have dots and quotes, too."""
    assert redact(text) == text


def logged_records() -> dict[str, set[str]]:
    """Return the records that the library's processes write: by text, the names of the fields."""
    functions = {"write", *(f"log.{level}" for level in LEVELS)}
    found: dict[str, set[str]] = {}
    for room in ("capture", "cli", "reconcile", "serve", "sync", "worker"):
        for path in (ROOT / "mirror" / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in functions:
                    fields = {each.arg for each in node.keywords if each.arg is not None}
                    for part in ast.walk(node.args[0]):
                        if isinstance(part, ast.Constant):
                            found.setdefault(str(part.value), set()).update(fields)
    return found


def test_the_page_on_logs_lists_every_record_with_its_fields() -> None:
    """Programs that read the logs can rely on these names. A long text ends with "…" there."""
    page = (ROOT / "docs" / "logs.md").read_text()
    rows = re.findall(r"^\| `(.+?)` \| [\w, ]+ \|(.*)\|$", page, re.MULTILINE)
    listed = {
        text.replace("(…)", "(%s)").removesuffix("…").strip(): set(re.findall(r"`(\w+)`", fields))
        for text, fields in rows
    }
    listed["event buried"] = listed["event failed again"]
    records = logged_records()
    for text, fields in records.items():
        shown = [name for name in listed if text == name or (name[-1] in ":;" and name in text)]
        assert [listed[name] for name in shown] == [fields], text
    assert all(any(text.startswith(name) for text in records) for name in listed)
