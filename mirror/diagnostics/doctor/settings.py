"""Settings: what can be said of them before anybody is asked, and whether they lead anywhere."""

import time
from collections.abc import Iterator
from uuid import uuid4

import redis
from psycopg import Error, sql
from redis.backoff import NoBackoff
from redis.retry import Retry

from mirror.capture.doorbell import DoorbellSettings
from mirror.diagnostics.doctor.findings import Finding, finding
from mirror.errors import ConfigError, MirrorError
from mirror.errors.redaction import redact
from mirror.settings import Settings, variable
from mirror.sync.connections import Database
from mirror.sync.targets.api_keys import check_publishable_key, expires_at
from mirror.sync.wiring import listening_database

_SOON = 14 * 86_400


def missing_settings(settings: Settings, side: str) -> list[str]:
    """Return the settings that reaching a side takes and that are not set."""
    if side == "primary":
        names = ["primary_database_url"]
    elif settings.transport == "postgres":
        names = ["supabase_db_url"]
    elif settings.writer_token is not None:
        names = ["supabase_url", "supabase_publishable_key"]
    else:
        names = ["supabase_url", "supabase_secret_key"]
    return [variable(name) for name in names if getattr(settings, name) is None]


def check_settings(settings: Settings) -> Iterator[Finding]:
    """Say which settings are missing, malformed or of the wrong kind."""
    for side in ("primary", "target"):
        for name in missing_settings(settings, side):
            what = f"{name} is not set; nothing was asked of the {side}"
            yield finding("setting-missing", what, variable=name)
    if settings.redis_url is None:
        yield finding("redis-not-set", "REDIS_URL is not set")
    # Loads Celery, for which the other commands need not wait.
    from mirror.sync.schedule import beat_schedule  # noqa: PLC0415

    for read in (DoorbellSettings.from_environment, lambda: beat_schedule(settings)):
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
        if left is not None and 0 < left < _SOON:
            what = f"{variable(name)} expires in {left / 86_400:.0f} day(s)"
            yield finding("key-expiring", what)


def check_broker(settings: Settings) -> Iterator[Finding]:
    """Say whether Redis answers."""
    if settings.redis_url is None:
        return
    seconds = settings.connect_seconds
    client = redis.Redis.from_url(
        settings.need("redis_url"),
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        # Its default tries for seconds on end.
        retry=Retry(NoBackoff(), 0),
    )
    try:
        client.ping()
    except redis.RedisError as error:
        reason = redact(f"{type(error).__name__}: {error}")
        yield finding("broker-unreachable", f"Redis does not answer ({reason})")
    finally:
        client.close()


def check_listen_url(settings: Settings, primary: Database, *, seconds: float) -> Iterator[Finding]:
    """Say whether what the primary notifies of arrives by PRIMARY_LISTEN_URL."""
    ear = listening_database(settings)
    if ear is None:
        return
    channel = f"mirror_doctor_{uuid4().hex}"
    try:
        ear.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
        primary.execute("select pg_notify(%s, '')", [channel])
        heard = bool(list(ear.connection.notifies(timeout=seconds, stop_after=1)))
    except (MirrorError, Error) as error:
        reason = str(error) if isinstance(error, MirrorError) else type(error).__name__
        yield finding("listen-deaf", f"PRIMARY_LISTEN_URL: {reason}")
    else:
        if not heard:
            yield finding("listen-deaf", "PRIMARY_LISTEN_URL: no notification came through")
    finally:
        ear.close()
