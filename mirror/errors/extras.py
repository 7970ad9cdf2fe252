"""Extras: names the extra of this distribution that a missing package belongs to."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mirror.errors import MissingExtra

_WORKER: Final = frozenset(
    {
        "celery",
        "httpx",
        "kombu",
        "psycopg",
        "pydantic",
        "pydantic_settings",
        "rich",
        "supabase",
        "typer",
    }
)


@contextmanager
def needing_extra(what: str) -> Iterator[None]:
    """Import inside what only the extra `worker` installs; `what` needs it.

    Raises:
        MissingExtra: one of its packages is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _WORKER:
            raise
        raise MissingExtra(
            f"{what} needs the package {package}, which is not installed: pip install "
            "'permission-mirror[worker]'."
        ) from None
