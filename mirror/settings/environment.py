"""Settings: read from the environment once, validated once, then passed around.

Used by the worker and the `mirror` command. Hooks need four of them only and read those
themselves (`mirror.capture.doorbell`), so that a backend does not load pydantic.
"""

import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from mirror.capture.doorbell import is_redis_url
from mirror.errors import ConfigError


def _postgres_url(value: Any) -> Any:
    """Accept what SQLAlchemy and libpq accept; keep the form that libpq understands."""
    if value is None or isinstance(value, SecretStr):
        return value
    scheme, rest = str(value).partition("://")[::2]
    if scheme.partition("+")[0] not in {"postgresql", "postgres"} or not rest:
        raise ValueError("expected postgresql://user:password@host:port/database")
    # SQLAlchemy's `postgresql+psycopg://` names a driver, which libpq does not know.
    url = f"postgresql://{rest}"
    try:
        conninfo_to_dict(url)
    except ProgrammingError:
        # Its message repeats parts of the URL.
        raise ValueError("a malformed URL; percent-encode what its parts hold") from None
    return url


def _redis_url(value: Any) -> Any:
    if value is None or isinstance(value, SecretStr):
        return value
    if not is_redis_url(str(value)):
        raise ValueError("expected redis://host:port/number or rediss://…")
    return value


def _project_url(value: Any) -> Any:
    """Accept the address that a project's API is under, not one of those beside it."""
    if value is None:
        return value
    parts = urlsplit(str(value).strip())
    if parts.scheme not in {"https", "http"} or not parts.hostname or "@" in parts.netloc:
        raise ValueError("expected https://<project>.supabase.co")
    if parts.hostname in {"supabase.com", "app.supabase.com"}:
        raise ValueError("that is the dashboard; expected https://<project>.supabase.co")
    if parts.hostname.startswith("db.") or parts.hostname.endswith(".pooler.supabase.com"):
        raise ValueError("that is the database; expected https://<project>.supabase.co")
    path = parts.path.rstrip("/")
    if parts.query or parts.fragment or re.search(r"/(rest|auth)/v1\b", path):
        raise ValueError("expected the project's URL alone, without /rest/v1")
    return f"{parts.scheme}://{parts.netloc}{path}"


PostgresUrl = Annotated[SecretStr, BeforeValidator(_postgres_url)]
RedisUrl = Annotated[SecretStr, BeforeValidator(_redis_url)]
ProjectUrl = Annotated[str, BeforeValidator(_project_url)]


class Settings(BaseSettings):
    """Everything a worker or a command may be told, with its default."""

    model_config = SettingsConfigDict(
        env_prefix="MIRROR_",
        # `REDIS_URL=` in a compose file means that it is not set.
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    primary_database_url: PostgresUrl | None = Field(None, alias="PRIMARY_DATABASE_URL")
    """The primary. Never a replica: a fence orders reads of one server."""
    primary_listen_url: PostgresUrl | None = Field(None, alias="PRIMARY_LISTEN_URL")
    """The primary again, for a relay that listens: direct, because no notification comes through a
    transaction pooler. None: the relay polls."""
    supabase_db_url: PostgresUrl | None = Field(None, alias="SUPABASE_DB_URL")
    """The target, as role `postgres`; direct or through the pooler."""
    supabase_url: ProjectUrl | None = Field(None, alias="SUPABASE_URL")
    """The target, over its project's API."""
    supabase_secret_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY"),
    )
    """A secret key of the project; the older service_role JWT works too."""
    supabase_publishable_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("SUPABASE_PUBLISHABLE_KEY", "SUPABASE_ANON_KEY"),
    )
    """What the API asks for beside `writer_token`; grants nothing."""
    writer_token: SecretStr | None = None
    """A JWT of the role mirror_writer: enough for the mirror, and for nothing else. Comes before
    a secret key."""
    target: Literal["rest", "postgres"] | None = None
    """How to reach the target. Default: `postgres` if SUPABASE_DB_URL is set, else `rest`."""
    rest_bytes: int = Field(1_000_000, ge=10_000, le=100_000_000)
    """How large the body of one REST call may be; a batch that exceeds it is split."""
    redis_url: RedisUrl | None = Field(None, alias="REDIS_URL")
    """The Celery broker, which also holds the doorbell's key."""

    mappings: str = "mappings"
    """The module that holds the `registry`."""
    source_name: str | None = None
    """What stands for the primary's address in its identity; set it where one primary is reached
    under several host names. Default: the host in PRIMARY_DATABASE_URL."""
    batch_size: int = Field(500, ge=1, le=10_000)
    """Events claimed, and keys written, at once."""
    max_attempts: int = Field(5, ge=1, le=100)
    """Attempts at an event of its own before it is buried."""
    retry_seconds: float = Field(1.0, gt=0, le=3600)
    """Wait after the first failed attempt; doubles with each further one."""
    statement_seconds: float = Field(8.0, gt=0, le=600)
    """Bound on each statement, on both databases."""
    idle_seconds: float = Field(60.0, ge=5, le=3600)
    """How long a claim's transaction may sit idle before the primary ends it."""
    connect_seconds: int = Field(5, ge=2, le=60)
    """Bound on connecting."""
    sweep_seconds: float = Field(30.0, ge=1, le=86_400)
    """How often beat rings the doorbell, whoever else does."""
    relay_seconds: float = Field(0.2, ge=0.02, le=86_400)
    """The longest pause between two looks of a relay that polls."""
    drain_seconds: float = Field(20.0, ge=1, le=3600)
    """How long one Celery task goes on draining before it hands over to the next."""
    tombstone_days: int = Field(7, ge=1, le=3650)
    """How long deleted keys are remembered; a write hung for longer is refused by its age."""
    reconcile_cron: str = Field("40 3 * * *", pattern=r"^(off|[\d*/,-]+( [\d*/,a-zA-Z-]+){4})$")
    """When beat reconciles, in UTC: minute, hour, day, month, weekday. `off`: never; for platforms
    that start `mirror reconcile --scheduled` themselves."""
    reconcile_grace_seconds: float = Field(5.0, ge=0, le=60)
    """Wait before what seems to differ is read again."""
    reconcile_backlog: int = Field(10_000, ge=1)
    """Events waiting from which on a reconcile pauses."""
    reconcile_latency_seconds: float = Field(2.0, gt=0, le=60)
    """How long an answer of the target may take before a reconcile pauses for as long."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """`auto`: readable on a terminal, JSON elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _claims_outlast_statements(self) -> Self:
        if self.idle_seconds < 2 * self.statement_seconds:
            raise ValueError(
                "MIRROR_IDLE_SECONDS must be at least twice MIRROR_STATEMENT_SECONDS: a claim "
                "waits for statements elsewhere"
            )
        return self

    @property
    def transport(self) -> Literal["rest", "postgres"]:
        """How to reach the target: as told, else by what is configured."""
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
                f"{variable(name)} is not set; it is needed here.{_WAYS.get(name, '')}"
            )
        return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


_WAYS = {
    "supabase_db_url": " (To mirror over REST instead, set SUPABASE_URL and SUPABASE_SECRET_KEY.)",
    "supabase_publishable_key": " It goes with MIRROR_WRITER_TOKEN.",
}


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment; `overrides` (by field name) come first.

    Raises:
        ConfigError: names each malformed variable and what was expected; never its value.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        faults = "; ".join(
            # A fault of several settings together names them itself.
            "".join(f"{variable(str(name))}: " for name in fault["loc"][:1])
            + fault["msg"].removeprefix("Value error, ")
            for fault in error.errors(include_input=False, include_context=False)
        )
        raise ConfigError(f"malformed settings: {faults}.") from None


def variable(name: str) -> str:
    """Return the environment variable that sets a field."""
    field = Settings.model_fields.get(name)
    if field is None:
        return name
    if isinstance(field.validation_alias, AliasChoices):
        return str(field.validation_alias.choices[0])
    return field.alias or f"MIRROR_{name.upper()}"
