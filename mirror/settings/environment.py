"""Environment: reads the settings from environment variables and validates them, once.

After that, code gets them as an argument and no module reads the environment again.
"""

import os
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from mirror.capture.variables import BACKEND, unknown
from mirror.errors import ConfigError
from mirror.settings.urls import postgres_url, project_url, redis_url

_CRON_FIELDS = 5


def _checked(check: Callable[[str], str]) -> BeforeValidator:
    """Return a validator that leaves None, and a SecretStr, which was checked before, unchanged."""
    return BeforeValidator(
        lambda value: value if value is None or isinstance(value, SecretStr) else check(str(value))
    )


def _cron(value: str) -> str:
    """Return a cron expression; the scheduler checks its fields.

    Raises:
        ValueError: it has not five fields.
    """
    if value != "off" and len(value.split()) != _CRON_FIELDS:
        raise ValueError(
            "expected minute, hour, day, month and weekday, such as `40 3 * * *`, or `off`"
        )
    return value


PostgresUrl = Annotated[SecretStr, _checked(postgres_url)]
RedisUrl = Annotated[SecretStr, _checked(redis_url)]
ProjectUrl = Annotated[str, _checked(project_url)]


class Settings(BaseSettings):
    """All settings of a worker or a command, with their defaults."""

    model_config = SettingsConfigDict(
        env_prefix="MIRROR_",
        # `REDIS_URL=` in a compose file means: not set.
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    primary_database_url: PostgresUrl | None = Field(None, alias="PRIMARY_DATABASE_URL")
    """The primary's URL. Never a replica's: fences can only order reads of one server."""
    primary_listen_url: PostgresUrl | None = Field(None, alias="PRIMARY_LISTEN_URL")
    """A direct connection to the primary, for a relay that listens: notifications do not pass
    through a transaction pooler. None: the relay polls."""
    supabase_db_url: PostgresUrl | None = Field(None, alias="SUPABASE_DB_URL")
    """The URL of the target's database, as role `postgres`; direct or through the pooler."""
    supabase_url: ProjectUrl | None = Field(None, alias="SUPABASE_URL")
    """The URL of the target's API."""
    supabase_secret_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY"),
    )
    """A secret key of the project; the older service_role JWT works too."""
    supabase_publishable_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("SUPABASE_PUBLISHABLE_KEY", "SUPABASE_ANON_KEY"),
    )
    """The project's publishable key. The API requires it together with `writer_token`; by itself it
    grants nothing."""
    writer_token: SecretStr | None = None
    """A JWT of the role mirror_writer, whose only privileges are those that the mirror needs. It is
    used instead of a secret key if both are set."""
    target: Literal["rest", "postgres"] | None = None
    """How to reach the target: over REST, or with a connection to its database. None: `rest` if
    SUPABASE_URL is set and SUPABASE_DB_URL is not, else `postgres`."""
    rest_bytes: int = Field(1_000_000, ge=10_000, le=100_000_000)
    """Maximum bytes in the body of one REST call; a batch that exceeds it is split."""
    redis_url: RedisUrl | None = Field(None, alias="REDIS_URL")
    """The URL of Redis: the Celery broker, which also wakes workers."""

    mappings: str = "mappings"
    """The name of the module that holds the `registry`."""
    batch_size: int = Field(500, ge=1, le=10_000)
    """The most events that a worker claims at once, and keys that it writes at once."""
    max_attempts: int = Field(5, ge=1, le=100)
    """How often an event that fails is tried alone, before the workers give it up (bury it)."""
    retry_seconds: float = Field(1.0, gt=0, le=3600)
    """Wait after the first failed attempt; it doubles with each further one."""
    statement_seconds: float = Field(8.0, gt=0, le=600)
    """Timeout of each statement, in both databases."""
    idle_seconds: float = Field(60.0, ge=5, le=3600)
    """Time that a claim's transaction may be idle before the primary ends it."""
    connect_seconds: int = Field(5, ge=2, le=60)
    """Timeout of each attempt to connect to a database."""
    sweep_seconds: float = Field(30.0, ge=1, le=86_400)
    """Interval at which beat wakes a worker, even if there is no event. Also the shortest time
    between two searches of a worker for expired rows."""
    fresh_seconds: float | None = Field(None, ge=1, le=3600)
    """Interval at which a worker without work asks the primary what waits, and tells the target how
    fresh it is; beat wakes it. At most a third of a registry's `max_staleness`. None: only workers
    with work do. It keeps both databases awake."""
    relay_seconds: float = Field(0.2, ge=0.02, le=86_400)
    """The longest pause between two queries of a relay that polls."""
    drain_seconds: float = Field(20.0, ge=1, le=3600)
    """Time after which a Celery task stops draining and leaves the rest to the next task."""
    tombstone_days: int = Field(7, ge=1, le=3650)
    """Days for which the target remembers deleted keys. When it forgets them, it refuses all writes
    that are as old."""
    reconcile_cron: Annotated[str, AfterValidator(_cron)] = "40 3 * * *"
    """When beat starts a reconcile, in UTC: minute, hour, day, month, weekday. `off`: never; use it
    if your platform's scheduler starts `mirror reconcile --scheduled`."""
    reconcile_grace_seconds: float = Field(5.0, ge=0, le=60)
    """Wait before a reconcile reads again the rows that seem to differ."""
    reconcile_backlog: int = Field(10_000, ge=1)
    """A reconcile pauses while at least this many events wait."""
    reconcile_latency_seconds: float = Field(2.0, gt=0, le=60)
    """A reconcile pauses after an answer of the target that took longer than this, for as long as
    that answer took."""
    history: int = Field(100, ge=0, le=10_000)
    """How many of the last revocations the primary keeps, with their delay. 0: no history at all,
    so the delays of all events are not counted either."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """`auto`: readable on a terminal, JSON elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="before")
    @classmethod
    def _stripped(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Remove white space around each value: files and secret stores end one with a newline.

        A value of nothing else counts as not set.
        """
        stripped = {
            name: value.strip() if isinstance(value, str) else value
            for name, value in values.items()
        }
        return {name: value for name, value in stripped.items() if value != ""}

    @model_validator(mode="after")
    def _claims_outlast_statements(self) -> Self:
        """Refuse an idle timeout that a slow statement on the other side could exceed."""
        if self.idle_seconds < 2 * self.statement_seconds:
            raise ValueError(
                "MIRROR_IDLE_SECONDS must be at least twice MIRROR_STATEMENT_SECONDS: a claim "
                "waits for statements elsewhere"
            )
        return self

    @property
    def transport(self) -> Literal["rest", "postgres"]:
        """How to reach the target: the setting `target`, or its default if it is not set."""
        if self.target is not None:
            return self.target
        return "rest" if self.supabase_url and not self.supabase_db_url else "postgres"

    def need(self, name: str) -> str:
        """Return the setting called `name` (its field's name) as plain text.

        Raises:
            ConfigError: it is not set; the message names the environment variable.
        """
        value = getattr(self, name)
        if value is None:
            raise ConfigError(
                f"{variable(name)} is not set; it is needed here.{_REMEDIES.get(name, '')}"
            )
        return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


_REMEDIES = {
    "supabase_db_url": " (To mirror over REST instead, set SUPABASE_URL and SUPABASE_SECRET_KEY.)",
    "supabase_publishable_key": " It goes with MIRROR_WRITER_TOKEN.",
}


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment; `overrides` (by field name) come first.

    Raises:
        ConfigError: names each malformed variable and the expected form; never its value.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        faults = "; ".join(
            # The message of a fault between several settings names them itself.
            "".join(f"{variable(str(name))}: " for name in fault["loc"][:1])
            + fault["msg"].removeprefix("Value error, ")
            for fault in error.errors(include_input=False, include_context=False)
        )
        raise ConfigError(f"malformed settings: {faults}.") from None


def variable(name: str) -> str:
    """Return the environment variable that sets a field; `name` itself if no field has it."""
    field = Settings.model_fields.get(name)
    if field is None:
        return name
    if isinstance(field.validation_alias, AliasChoices):
        return str(field.validation_alias.choices[0])
    return field.alias or f"MIRROR_{name.upper()}"


def unknown_variables() -> list[str]:
    """Return a sentence about each MIRROR_* variable of the environment that nothing reads."""
    return list(unknown(os.environ, BACKEND | {variable(name) for name in Settings.model_fields}))
