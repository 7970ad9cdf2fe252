"""Logs: sends all log records to one stream, as JSON or for a terminal, without secrets.

Records hold ids and counts, never values of rows and never a password.
"""

import logging
import sys
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

from mirror.errors.redaction import one_line, redact


class _Redacted:
    """A renderer that removes credentials from the whole line, exception and traceback included."""

    def __init__(self, renderer: Any) -> None:
        self._renderer = renderer

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        return redact(str(self._renderer(logger, method, event)))


def _prepare_texts(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put each text of a record on one line; a traceback keeps its lines."""
    for name, value in event.items():
        if name in {"exception", "stack"} and isinstance(value, str):
            event[name] = "\n".join(map(one_line, value.split("\n")))
        elif not name.startswith("_"):
            event[name] = _prepared(value)
    return event


def _prepared(value: Any) -> Any:
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, dict):
        return {_prepared(name): _prepared(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_prepared(inner) for inner in value]
    return one_line(repr(value)) if isinstance(value, BaseException) else value


def configure_logging(
    *,
    style: str = "auto",
    level: str = "info",
    stream: TextIO | None = None,
) -> None:
    """Send the records of structlog and of the standard library to `stream`.

    None means standard error. `style` is `json`, `console`, or `auto`: console on a terminal, JSON
    elsewhere. `level` is the lowest level to log. Replaces the handlers of the root logger.
    """
    stream = stream or sys.stderr
    as_json = style == "json" or (style == "auto" and not stream.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _prepare_texts,
    ]
    if as_json:
        renderer: Any = structlog.processors.JSONRenderer(ensure_ascii=False)
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(),
            # The default, if rich is installed, prints every local variable.
            exception_formatter=structlog.dev.plain_traceback,
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
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _Redacted(renderer),
            ],
        )
    )
    # These log each request; our own record `drained` says the same.
    for chatty in ("httpx", "httpcore", "hpack"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
