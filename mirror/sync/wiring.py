"""Wiring: builds from settings what workers, commands and the relay use.

That is connections, the target, the queue, the drain and the relay. Nothing is connected before its
first use.
"""

from dataclasses import replace

from mirror.capture.doorbell import Doorbell, DoorbellSettings
from mirror.errors import ConfigError
from mirror.model.registry import Registry, load_registry
from mirror.settings import Settings
from mirror.sync.claims import Queue
from mirror.sync.connections import Database
from mirror.sync.drain import Drain
from mirror.sync.relay import Listener, Relay, Rings
from mirror.sync.snapshot import Source
from mirror.sync.targets.base import Target
from mirror.sync.targets.postgres import PostgresTarget


def primary_database(settings: Settings) -> Database:
    """Return a connection to the primary."""
    return _database(settings, "primary_database_url", "primary")


def listening_database(settings: Settings) -> Database | None:
    """Return the connection for LISTEN; None if PRIMARY_LISTEN_URL is not set."""
    if settings.primary_listen_url is None:
        return None
    return _database(settings, "primary_listen_url", "primary, to listen")


def build_source(settings: Settings) -> Source:
    """Return the primary as the drain reads it."""
    return Source(primary_database(settings), idle_seconds=settings.idle_seconds)


def build_target(settings: Settings) -> Target:
    """Return the target over the configured transport.

    Raises:
        ConfigError: a required setting is missing, or the key is of the wrong kind.
    """
    if settings.transport == "postgres":
        return PostgresTarget(_database(settings, "supabase_db_url", "target"))
    # Imported late: the other transport does not need the HTTP libraries.
    from mirror.sync.targets.http import HttpClient  # noqa: PLC0415
    from mirror.sync.targets.rest import RestTarget  # noqa: PLC0415

    as_writer = settings.writer_token is not None
    return RestTarget(
        settings.need("supabase_url"),
        settings.need("supabase_publishable_key" if as_writer else "supabase_secret_key"),
        token=settings.need("writer_token") if as_writer else None,
        http=HttpClient(
            connect_seconds=settings.connect_seconds,
            statement_seconds=settings.statement_seconds,
            max_bytes=settings.rest_bytes,
        ),
    )


def build_queue(settings: Settings) -> Queue:
    """Return the outbox as a worker uses it, with two connections of its own."""
    return Queue(
        primary_database(settings),
        primary_database(settings),
        max_attempts=settings.max_attempts,
        retry_seconds=settings.retry_seconds,
        lease_seconds=4 * settings.idle_seconds,
        idle_seconds=settings.idle_seconds,
        revocations=settings.history,
    )


def build_drain(settings: Settings, registry: Registry | None = None) -> Drain:
    """Return a drain; `registry` None means that of the configured mappings.

    Raises:
        ConfigError: a required setting is missing, or contradicts the registry.
    """
    registry = registry or load_registry(settings.mappings)
    return Drain(
        registry,
        build_source(settings),
        build_target(settings),
        build_queue(settings),
        batch_size=settings.batch_size,
        fresh_seconds=settings.fresh_seconds,
    )


def check_fresh_seconds(settings: Settings, registry: Registry) -> None:
    """Check that workers without work report often enough for the registry's bound.

    Raises:
        ConfigError: they do not, so that policies would refuse every user whenever nothing happens.
    """
    bound = registry.max_staleness
    if bound is None:
        return
    if settings.fresh_seconds is None or settings.fresh_seconds > bound / 3:
        now = "is not set" if settings.fresh_seconds is None else f"is {settings.fresh_seconds:g}"
        raise ConfigError(
            f"MIRROR_FRESH_SECONDS {now}, and registry {registry.name!r} has max_staleness="
            f"{bound:g}; set it to {bound / 3:g} or less, on workers and on beat."
        )


def build_relay(settings: Settings) -> Relay:
    """Return a relay that rings the doorbell in Redis.

    Raises:
        ConfigError: a required setting is missing or malformed.
    """
    doorbell = replace(
        DoorbellSettings.from_environment(), redis_url=settings.need("redis_url"), mode="inline"
    )
    database = listening_database(settings)
    return Relay(
        primary_database(settings),
        Doorbell(doorbell),
        seconds=settings.relay_seconds,
        listener=None if database is None else Listener(database),
    )


def build_local_relay(settings: Settings, bell: Rings) -> Relay:
    """Return a relay that rings a bell within this process.

    Without PRIMARY_LISTEN_URL it tries to listen over PRIMARY_DATABASE_URL.

    Raises:
        ConfigError: a required setting is missing.
    """
    listener = listening_database(settings)
    name = "PRIMARY_DATABASE_URL" if listener is None else "PRIMARY_LISTEN_URL"
    return Relay(
        primary_database(settings),
        bell,
        seconds=settings.relay_seconds,
        listener=Listener(listener or primary_database(settings), name=name),
    )


def _database(settings: Settings, name: str, role: str) -> Database:
    return Database(
        settings.need(name),
        role=role,
        connect_seconds=settings.connect_seconds,
        statement_seconds=settings.statement_seconds,
    )
