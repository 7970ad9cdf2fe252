"""Extras: names the extra of this distribution that has to be installed."""

import sys
from importlib.util import find_spec
from typing import Final

from mirror.errors import MissingExtra

_WORKER: Final = ("celery", "psycopg", "pydantic_settings", "rich", "supabase", "typer")


def require_worker_extra(what: str) -> None:
    """Check that the packages of the extra `worker` are installed; `what` needs them.

    Raises:
        MissingExtra: one of them is not.
        SystemExit: the same, while the command `celery` imports its app: it would print any other
            exception as a traceback.
    """
    missing = [package for package in _WORKER if find_spec(package) is None]
    if not missing:
        return
    error = MissingExtra(
        f"{what} needs packages that are not installed ({', '.join(missing)}): "
        "pip install 'permission-mirror[worker]'."
    )
    if "celery.bin.celery" in sys.modules:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code)
    raise error
