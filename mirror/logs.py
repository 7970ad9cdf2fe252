"""Logging: ids and counts, never values of rows and never a password."""

import logging
import re
import sys
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

# user:password@ in a URL, and Supabase's two kinds of keys.
_SECRET = re.compile(
    r"(?<=://)[^/\s@]+@|\bsb_(?:secret|publishable)_\w+|\beyJ[\w-]+\.[\w-]+\.[\w-]*"
)


def redact(text: str) -> str:
    """Return `text` without URL credentials and API keys."""
    return _SECRET.sub("…", text)


def _redact_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Strip secrets that a library put into a message; ours never carry any."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = redact(value)
    return event


def configure_logging(
    *,
    style: str = "auto",
    level: str = "info",
    stream: TextIO | None = None,
) -> None:
    """Send structlog's and the standard library's records to `stream` (standard error).

    `style` is `json`, `console`, or `auto`: console on a terminal, JSON elsewhere.
    """
    stream = stream or sys.stderr
    as_json = style == "json" or (style == "auto" and not stream.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact_event,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=stream.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
