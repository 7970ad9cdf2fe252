"""Settings: checks that they are set and valid, and that the listen URL delivers."""

import time
from collections.abc import Iterator
from uuid import uuid4

from psycopg import Error, sql

from mirror.capture.doorbell import DoorbellSettings
from mirror.diagnostics.doctor.findings import Finding, finding
from mirror.errors import ConfigError, MirrorError
from mirror.model.registry import Registry
from mirror.settings import Settings, unknown_variables, variable
from mirror.sync.connections import Database
from mirror.sync.targets.api_keys import check_publishable_key, expires_at
from mirror.sync.wiring import check_fresh_seconds, listening_database

_EXPIRES_SOON = 14 * 86_400  # seconds


def missing_settings(settings: Settings, side: str) -> list[str]:
    """Return the variables needed to connect to a side (`primary`, `target`) that are not set."""
    if side == "primary":
        names = ["primary_database_url"]
    elif settings.transport == "postgres":
        names = ["supabase_db_url"]
    elif settings.writer_token is not None:
        names = ["supabase_url", "supabase_publishable_key"]
    else:
        names = ["supabase_url", "supabase_secret_key"]
    return [variable(name) for name in names if getattr(settings, name) is None]


def check_settings(settings: Settings, registry: Registry) -> Iterator[Finding]:
    """Yield a finding for each setting that is missing, invalid or of the wrong kind.

    Also one for an API key that expires soon, and for each MIRROR_* variable that nothing reads.
    """
    for side in ("primary", "target"):
        for name in missing_settings(settings, side):
            message = f"{name} is not set, so the {side} was not checked"
            yield finding("setting-missing", message, variable=name)
    for sentence in unknown_variables():
        yield finding("setting-unknown", sentence)
    # Imported here because it loads Celery, which is slow and which other commands do not need.
    from mirror.sync.schedule import beat_schedule  # noqa: PLC0415

    for read in (
        DoorbellSettings.from_environment,
        lambda: beat_schedule(settings),
        lambda: check_fresh_seconds(settings, registry),
    ):
        try:
            read()
        except ConfigError as error:
            yield finding("setting-malformed", str(error))
    yield from _check_keys(settings)


def _check_keys(settings: Settings) -> Iterator[Finding]:
    if settings.transport != "rest":
        return
    if settings.supabase_publishable_key is not None:
        try:
            check_publishable_key(settings.need("supabase_publishable_key"))
        except ConfigError as error:
            yield finding("key-kind", str(error))
    name = "supabase_secret_key" if settings.writer_token is None else "writer_token"
    if getattr(settings, name) is not None:
        expires = expires_at(settings.need(name))
        left = None if expires is None else expires - time.time()
        if left is not None and 0 < left < _EXPIRES_SOON:
            yield finding("key-expiring", f"{variable(name)} expires in {left / 86_400:.0f} day(s)")


def check_listen_url(settings: Settings, primary: Database, *, seconds: float) -> Iterator[Finding]:
    """Yield a finding if a test notification of the primary does not reach PRIMARY_LISTEN_URL.

    It has `seconds` to arrive. None is sent, and nothing found, if the setting is not set.
    """
    listener = listening_database(settings)
    if listener is None:
        return
    channel = f"mirror_doctor_{uuid4().hex}"
    try:
        listener.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
        primary.execute("select pg_notify(%s, '')", [channel])
        received = list(listener.connection.notifies(timeout=seconds, stop_after=1))
    except (MirrorError, Error) as error:
        reason = str(error) if isinstance(error, MirrorError) else type(error).__name__
        yield finding("listen-deaf", f"PRIMARY_LISTEN_URL: {reason}")
    else:
        if not received:
            message = f"PRIMARY_LISTEN_URL: a test notification did not arrive within {seconds:g} s"
            yield finding("listen-deaf", message)
    finally:
        listener.close()
