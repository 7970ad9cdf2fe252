"""`mirror health`: tells a platform by its exit code whether to restart a part of the mirror."""

import sys
from contextlib import closing
from enum import StrEnum
from typing import Annotated

import typer

from mirror.cli.serve import HOST, PORT
from mirror.diagnostics.health import idle_seconds
from mirror.errors import TooSlow, Transient
from mirror.errors.redaction import redact
from mirror.settings import load_settings
from mirror.sync.wiring import primary_database


class Parts(StrEnum):
    """The parts that can be asked for."""

    WORKER = "worker"
    BEAT = "beat"
    RELAY = "relay"
    RUN = "run"
    PAGE = "page"


# In seconds.
_OLDEST = 90.0
_ANSWER = 5.0


def health(
    part: Annotated[Parts, typer.Option(help="The part of the mirror.")],
    max_age: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="How old its heartbeat may be, in seconds; 90 by default, or three times the "
            "part's own interval, if that is longer.",
        ),
    ] = None,
    url: Annotated[
        str, typer.Option(help="Of the part `page`: where its /healthz is.")
    ] = f"http://{HOST}:{PORT}/healthz",
) -> None:
    """Exit with 1 if a part of the mirror should be restarted; an outage restarts nothing."""
    if part is Parts.PAGE:
        raise typer.Exit(0 if _answers(url) else 1)
    settings = load_settings()
    interval = settings.relay_seconds if part is Parts.RELAY else settings.sweep_seconds
    oldest = max_age or max(_OLDEST, 3 * interval)
    with closing(primary_database(settings)) as database:
        try:
            seconds = idle_seconds(database, part.value)
        except (Transient, TooSlow) as error:
            # To restart a part would not bring the primary back.
            print(redact(f"{part.value}: unknown: {error}"), file=sys.stderr)
            raise typer.Exit(0) from None
    if seconds is None:
        print(f"{part.value}: never at work")
        raise typer.Exit(1)
    print(f"{part.value}: at work {seconds:.0f} s ago; at most {oldest:.0f} s are healthy")
    raise typer.Exit(0 if seconds <= oldest else 1)


def _answers(url: str) -> bool:
    """Return whether the page answers, and print it. A proxy of the environment is not asked."""
    # Imported late: the other parts are asked every few seconds, and need no HTTP.
    import httpx  # noqa: PLC0415

    try:
        status = httpx.get(url, timeout=_ANSWER, trust_env=False).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        print(redact(f"page: {url} does not answer: {error or type(error).__name__}"))
        return False
    print(redact(f"page: {url} answers with {status}"))
    return status == httpx.codes.OK
