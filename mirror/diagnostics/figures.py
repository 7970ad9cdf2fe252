"""Figures: the state of the mirror, read from both databases and from Redis.

`status` and `doctor` know this state from here alone. A figure that could not be read is Unknown,
and then the mirror is not well.

A figure of the primary is a part of the statement `read_figures` and a field of `PrimaryFigures`; a
figure of the target is a part of the engine's `mirror.describe()` and a field of `Description`.
`find_faults` (`mirror.diagnostics.status`) decides which of them are faults.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from mirror.capture.doorbell import QUEUE
from mirror.capture.statements import statement
from mirror.diagnostics.primary_figures import PrimaryFigures
from mirror.errors import ConfigError, MirrorError, Transient, Unreachable
from mirror.errors.redaction import redact
from mirror.model.registry import Registry
from mirror.reconcile.lease import MARK
from mirror.settings import Settings
from mirror.sync.freshness import is_stale
from mirror.sync.pairing import Parting
from mirror.sync.snapshot import Source
from mirror.sync.stepping import find_parting
from mirror.sync.targets.base import Target
from mirror.sync.targets.catalog import Description

# At least; and three rings of beat.
_LATE_SECONDS = 300.0

_Side = TypeVar("_Side")
_Part = TypeVar("_Part")


@dataclass(frozen=True)
class Unknown:
    """Stands for figures that could not be read."""

    error: MirrorError
    """Why not."""


@dataclass(frozen=True)
class Broker:
    """Redis, through which workers are woken."""

    messages: int
    """How many messages no worker has taken yet."""


@dataclass(frozen=True)
class Figures:
    """The state of the mirror. Each part comes from one read: it is known as a whole or not."""

    declared: dict[str, str]
    """By mapping: the digest of the declaration that this process has."""
    max_staleness: float | None
    """How old the target may be, in seconds; None: the registry has no bound."""
    primary: PrimaryFigures | Unknown
    primary_migrations: dict[str, str] | Unknown
    """By name: the checksums of the migrations that ran in the primary. Read apart, because an old
    primary lacks tables that the other figures need."""
    target: Description | Unknown
    """The target's primary, epoch, horizon, digests and migrations."""
    parting: Parting | Unknown | None
    """Why primary and target do not belong together; None if they do."""
    broker: Broker | Unknown | None
    """None: REDIS_URL is not set, so there is no broker to look at."""
    late_seconds: float
    """An event that waits longer than this is late."""

    @property
    def unknown(self) -> dict[str, MirrorError]:
        """By the name of each part that is Unknown: the reason."""
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: part.error for name, part in parts.items() if isinstance(part, Unknown)}

    @property
    def stale(self) -> list[str]:
        """The mappings that are older than the bound, so that policies refuse; sorted."""
        if isinstance(self.target, Unknown) or self.max_staleness is None:
            return []
        ages, bound = self.target.stale_seconds, self.max_staleness
        return sorted(name for name in self.declared if is_stale(ages.get(name), bound))

    @property
    def digests(self) -> dict[str, str]:
        """By mapping: whether the target was migrated to the present declaration (`current`).

        It may have been migrated to another one (`different`) or to none (`missing`). Empty while
        the target is Unknown.
        """
        if isinstance(self.target, Unknown):
            return {}
        found = self.target.digests
        return {
            name: "missing"
            if name not in found
            else "current"
            if found[name] == digest
            else "different"
            for name, digest in self.declared.items()
        }

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values; a part that is Unknown is `{"unknown": REASON}`."""
        unknown = {name: {"unknown": redact(str(error))} for name, error in self.unknown.items()}
        return asdict(self) | unknown | {"digests": self.digests, "stale": self.stale}


def read_figures(
    settings: Settings, registry: Registry, source: Source | None, target: Target | None
) -> Figures:
    """Read both sides and Redis; raises nothing, because a part that cannot be read is Unknown.

    A side that is not configured is None, and Unknown too.
    """
    migrations = _read("primary", source, _read_migrations)
    primary: PrimaryFigures | Unknown
    if isinstance(migrations, Unknown) and isinstance(migrations.error, Transient):
        # A server that does not answer costs its timeout only once.
        primary = migrations
    else:
        primary = _read("primary", source, _read_primary)
    described = _read("target", target, lambda side: side.describe())
    return Figures(
        declared={mapping.name: mapping.digest for mapping in registry},
        max_staleness=registry.max_staleness,
        primary=primary,
        primary_migrations=migrations,
        target=described,
        parting=_find_parting(source, target, primary, described),
        broker=None if settings.redis_url is None else _read("Redis", settings, _read_broker),
        late_seconds=max(_LATE_SECONDS, 3 * settings.sweep_seconds),
    )


def known(part: _Part | Unknown) -> _Part | None:
    """Return a part; None if it is Unknown."""
    return None if isinstance(part, Unknown) else part


def _read(name: str, side: _Side | None, read: Callable[[_Side], _Part]) -> _Part | Unknown:
    if side is None:
        return Unknown(ConfigError(f"{name}: it is not configured"))
    try:
        return read(side)
    except MirrorError as error:
        return Unknown(error)


def _read_primary(source: Source) -> PrimaryFigures:
    with source.snapshot() as snapshot:
        ((answer,),) = source.database.execute(statement("read_figures"), {"loading": MARK})
        return PrimaryFigures.from_json(snapshot.stamp, answer)


def _find_parting(
    source: Source | None,
    target: Target | None,
    primary: PrimaryFigures | Unknown,
    described: Description | Unknown,
) -> Parting | Unknown | None:
    """Return why the sides do not belong together; None if they do, or if one is Unknown anyway."""
    if source is None or target is None:
        return None
    if isinstance(primary, Unknown) or isinstance(described, Unknown):
        return None
    return _read("pair", source, lambda side: find_parting(side, target))


def _read_migrations(source: Source) -> dict[str, str]:
    return dict(source.database.execute(statement("read_migrations")))


def _read_broker(settings: Settings) -> Broker:
    seconds = settings.connect_seconds
    client = redis.Redis.from_url(
        settings.need("redis_url"),
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        # By default the client retries for several seconds.
        retry=Retry(NoBackoff(), 0),
    )
    try:
        return Broker(messages=client.llen(QUEUE))
    except redis.RedisError as error:
        reason = redact(f"{type(error).__name__}: {error}")
        raise Unreachable(f"Redis does not answer ({reason})") from None
    finally:
        client.close()
