"""Rendering: turns templates and values into HTML.

Texts come from databases and from errors, so each is put on one line, without secrets, and escaped.
"""

import re
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from mirror import __version__
from mirror.diagnostics.durations import duration
from mirror.diagnostics.figures import Unknown
from mirror.errors.redaction import one_line

HERE: Final = Path(__file__).parent
_QUOTED: Final = re.compile(r"`([^`]+)`")
_PROGRAMS: Final = ("mirror ", "celery ")
_CODE: Final = Markup("<code>{0}</code>")
_COPY: Final = Markup(
    '<code>{0}</code> <button type="button" class="copy" data-copy="{0}">Copy'
    '<span class="quiet"> {0}</span></button>'
)


def render(template: str, **values: Any) -> str:
    """Return the HTML of a template."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.globals["version"] = __version__
    environment.filters |= {
        "duration": duration,
        "moment": moment,
        "count": count,
        "prose": prose,
        "remedy": remedy,
        "time": lambda text: moment(datetime.fromisoformat(text)),
    }
    environment.tests["unread"] = lambda part: isinstance(part, Unknown)
    return environment


def _finalize(value: Any) -> Any:
    """Prepare a text for the page; markup is ours, and stays as it is."""
    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def moment(time: datetime) -> str:
    """Return a time to the second, in UTC."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def count(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 row` or `1,200 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def prose(text: str) -> Markup:
    """Return a text as HTML in which each part between backticks is code."""
    return _with_code(text, _CODE)


def remedy(text: str) -> Markup:
    """Return instructions as HTML, with a button behind each command that copies it."""
    return _with_code(text, _COPY)


def _with_code(text: str, command: Markup) -> Markup:
    """Return a text as HTML; `command` is the form of a command, and other code is only code."""
    return Markup().join(
        (command if part.startswith(_PROGRAMS) else _CODE).format(part)
        if number % 2
        else escape(part)
        for number, part in enumerate(_QUOTED.split(one_line(text)))
    )
