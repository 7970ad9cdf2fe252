"""Settings are read and validated once; an error names the variable and never shows its value."""

import pytest

from mirror.capture.doorbell import DoorbellSettings
from mirror.errors import ConfigError
from mirror.settings import Settings, load_settings

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PRIMARY_DATABASE_URL", f"mysql://u:{SECRET}@h/d"),
        ("PRIMARY_DATABASE_URL", SECRET),
        ("PRIMARY_DATABASE_URL", "postgresql://"),
        ("SUPABASE_DB_URL", f"https://u:{SECRET}@h"),
        ("REDIS_URL", f"amqp://u:{SECRET}@h"),
        ("REDIS_URL", f"redis://:{SECRET}#x@h:6379"),
        ("REDIS_URL", f"redis://:{SECRET}@[::1"),
        ("MIRROR_BATCH_SIZE", "many"),
        ("MIRROR_BATCH_SIZE", "0"),
        ("MIRROR_MAX_ATTEMPTS", "-1"),
        ("MIRROR_STATEMENT_SECONDS", "nan"),
        ("MIRROR_LOG_FORMAT", "xml"),
        ("MIRROR_LOG_LEVEL", "loud"),
        ("MIRROR_RECONCILE_CRON", "daily"),
    ],
)
def test_a_malformed_variable_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """The message may reach a log or a ticket."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert str(caught.value).startswith(f"malformed settings: {variable}: ")
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_every_malformed_variable_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user can correct all of them after one message."""
    monkeypatch.setenv("REDIS_URL", "x")
    monkeypatch.setenv("MIRROR_BATCH_SIZE", "x")
    monkeypatch.setenv("PRIMARY_DATABASE_URL", "x")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    for variable in ("REDIS_URL", "MIRROR_BATCH_SIZE", "PRIMARY_DATABASE_URL"):
        assert f"{variable}: " in str(caught.value)


def test_an_override_is_named_by_its_variable() -> None:
    """Commands pass options by field name; the message uses the name that users know."""
    with pytest.raises(ConfigError, match="MIRROR_BATCH_SIZE: "):
        load_settings(batch_size=0)
    with pytest.raises(ConfigError, match="PRIMARY_DATABASE_URL: expected postgresql://"):
        load_settings(primary_database_url="x")


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgres+x"])
def test_a_database_url_may_name_a_sqlalchemy_driver(scheme: str) -> None:
    """The backend and the worker share one variable; libpq gets a URL that it knows."""
    settings = load_settings(primary_database_url=f"{scheme}://u:p@h:5432/d?sslmode=require")
    assert settings.need("primary_database_url") == "postgresql://u:p@h:5432/d?sslmode=require"


@pytest.mark.parametrize("variable", ["SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY"])
def test_the_secret_key_has_an_older_name(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """Older and newer projects both work."""
    monkeypatch.setenv(variable, SECRET)
    assert load_settings().need("supabase_secret_key") == SECRET


def test_the_newer_name_of_the_secret_key_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both variables are set while a project changes from one to the other."""
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", "old")
    monkeypatch.setenv("SUPABASE_SECRET_KEY", "new")
    assert load_settings().need("supabase_secret_key") == "new"


def test_settings_show_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds for the worker's settings and for the few of the backend."""
    url = f"redis://:{SECRET}@h:6379/0"
    monkeypatch.setenv("REDIS_URL", url)
    settings = load_settings(
        primary_database_url=f"postgresql://u:{SECRET}@h/d",
        supabase_db_url=f"postgresql://u:{SECRET}@h/d",
        supabase_secret_key=SECRET,
    )
    bell = DoorbellSettings.from_environment()
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(bell)):
        assert SECRET not in shown
    assert bell.redis_url == url == settings.need("redis_url")


def test_a_needed_setting_that_is_not_set_is_named_by_its_variable() -> None:
    """Users do not know the name of the field."""
    settings = load_settings()
    for name, variable in (
        ("primary_database_url", "PRIMARY_DATABASE_URL"),
        ("supabase_secret_key", "SUPABASE_SECRET_KEY"),
        ("fresh_seconds", "MIRROR_FRESH_SECONDS"),
    ):
        with pytest.raises(ConfigError, match=f"{variable} is not set"):
            settings.need(name)


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compose file passes `REDIS_URL=` for a variable without a value."""
    for variable in ("REDIS_URL", "PRIMARY_DATABASE_URL", "MIRROR_BATCH_SIZE", "MIRROR_DOORBELL"):
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv("MIRROR_DOORBELL_SECONDS", "")
    settings = load_settings()
    assert settings.redis_url is None
    assert settings.batch_size == Settings.model_fields["batch_size"].default
    assert DoorbellSettings.from_environment() == DoorbellSettings()


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("MIRROR_DOORBELL", "loud", "expected thread, inline or off"),
        ("MIRROR_DOORBELL_SECONDS", "soon", "expected seconds"),
        ("MIRROR_DOORBELL_SECONDS", "0", "expected seconds"),
        ("MIRROR_DOORBELL_SECONDS", "nan", "expected seconds"),
        ("MIRROR_DOORBELL_QUIET_SECONDS", "inf", "expected seconds"),
        ("REDIS_URL", f"http://:{SECRET}@h", "expected redis://host:port/number"),
        ("REDIS_URL", f"redis://:{SECRET}#@h", "expected redis://host:port/number"),
    ],
)
def test_the_backend_is_told_which_of_its_variables_is_malformed(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str
) -> None:
    """Its few settings are read without pydantic, but as strictly."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as caught:
        DoorbellSettings.from_environment()
    assert str(caught.value).startswith(f"{variable}: {expected}")
    assert SECRET not in str(caught.value)


def test_a_redis_of_another_kind_does_not_matter_if_the_doorbell_is_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A backend on Sentinel turns the doorbell off; then beat wakes the workers."""
    monkeypatch.setenv("REDIS_URL", "sentinel://h:26379")
    monkeypatch.setenv("MIRROR_DOORBELL", "off")
    assert DoorbellSettings.from_environment().mode == "off"
