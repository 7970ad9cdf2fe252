"""Keys and tokens of the wrong kind are refused by name, before any request."""

import base64
import json
import pickle
import time
from typing import Any

import pytest

from mirror.errors import ConfigError, StaleCache, TooLarge, WrongKey
from mirror.settings import Settings, load_settings
from mirror.sync.targets.rest import RestTarget
from mirror.sync.wiring import build_target

URL = "https://abcdefghijklmnopqrst.supabase.co"
SECRET = "sb_secret_0123456789abcdefghijkl_01234567"


def jwt(**claims: Any) -> str:
    """Return a string in the form of a JWT."""
    parts = [json.dumps(part).encode() for part in ({"alg": "HS256"}, claims)]
    return ".".join(base64.urlsafe_b64encode(p).rstrip(b"=").decode() for p in [*parts, b"signed"])


def settings(**changes: Any) -> Settings:
    """Return the settings of a worker that mirrors over REST."""
    given = {"supabase_url": URL, "supabase_secret_key": SECRET} | changes
    return load_settings(**{name: value for name, value in given.items() if value is not None})


@pytest.mark.parametrize(
    "key", [SECRET, jwt(role="service_role"), jwt(role="service_role", ref="abcdefghijklmnopqrst")]
)
def test_secret_keys_and_legacy_service_role_keys_are_taken(key: str) -> None:
    """The check sends no request to the project."""
    assert isinstance(build_target(settings(supabase_secret_key=key)), RestTarget)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("sb_publishable_0123456789abcdefghijkl_01234567", "publishable"),
        (jwt(role="anon", iss="supabase"), "publishable"),
        (jwt(role="authenticated", sub="0b0e7c1a"), "a user's token"),
        (jwt(role="mirror_writer"), "MIRROR_WRITER_TOKEN"),
        (jwt(role="service_role", ref="zzzzzzzzzzzzzzzzzzzz"), "project zzzzzzzzzzzzzzzzzzzz"),
        (jwt(role="service_role", exp=1), "expired"),
        ("sbp_0123456789abcdef0123456789abcdef01234567", "access token of a Supabase account"),
        ("sb_secret_with a space", "copied whole"),
        ("sb_secret_…", "copied whole"),
    ],
)
def test_any_other_key_is_refused_by_name(key: str, expected: str) -> None:
    """The message names the kind of key, and never repeats the key."""
    with pytest.raises(ConfigError, match=expected) as refused:
        build_target(settings(supabase_secret_key=key))
    assert key not in str(refused.value)


def test_a_writer_token_needs_the_publishable_key_and_no_other() -> None:
    """The token is used even if a secret key is set."""
    token = jwt(role="mirror_writer", exp=time.time() + 60)
    with pytest.raises(ConfigError, match="SUPABASE_PUBLISHABLE_KEY is not set"):
        build_target(settings(writer_token=token))
    built = build_target(settings(writer_token=token, supabase_publishable_key="sb_publishable_x"))
    assert isinstance(built, RestTarget)
    assert built.client.options.headers["apiKey"] == "sb_publishable_x"
    assert built.client.options.headers["Authorization"] == f"Bearer {token}"
    built.close()


@pytest.mark.parametrize(
    "token", [SECRET, jwt(role="service_role"), jwt(role="mirror_writer", exp=1)]
)
def test_a_writer_token_of_another_kind_is_refused(token: str) -> None:
    """Its purpose is to have no more rights than mirror_writer."""
    with pytest.raises(ConfigError, match="MIRROR_WRITER_TOKEN"):
        build_target(settings(writer_token=token, supabase_publishable_key="sb_publishable_x"))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://supabase.com/dashboard/project/abcdefghijklmnopqrst", "the dashboard"),
        (f"{URL}/rest/v1", "without /rest/v1"),
        ("https://db.abcdefghijklmnopqrst.supabase.co:5432", "the database"),
        ("https://aws-0-eu-central-1.pooler.supabase.com", "the database"),
        ("postgresql://postgres@db.example/postgres", "expected https"),
        ("abcdefghijklmnopqrst", "expected https"),
    ],
)
def test_an_address_that_is_not_the_projects_is_refused(url: str, expected: str) -> None:
    """A project has several other addresses, which are easy to copy by mistake."""
    with pytest.raises(ConfigError, match=f"SUPABASE_URL: .*{expected}"):
        settings(supabase_url=url)


@pytest.mark.parametrize(
    ("url", "kept"),
    [(f"{URL}/", URL), ("http://127.0.0.1:54321", "http://127.0.0.1:54321")],
)
def test_a_projects_url_is_taken(url: str, kept: str) -> None:
    """A slash at the end is removed; a local address is accepted."""
    assert settings(supabase_url=url).supabase_url == kept


@pytest.mark.parametrize(
    ("changes", "transport"),
    [
        ({}, "rest"),
        ({"supabase_db_url": "postgresql://a@b/c"}, "postgres"),
        ({"supabase_db_url": "postgresql://a@b/c", "target": "rest"}, "rest"),
        ({"target": "postgres"}, "postgres"),
        ({"supabase_url": None, "supabase_secret_key": None}, "postgres"),
    ],
)
def test_the_transport_is_the_chosen_one_or_else_the_configured_one(
    changes: dict[str, Any], transport: str
) -> None:
    """REST is used if only its settings are present."""
    assert settings(**changes).transport == transport


def test_a_missing_setting_is_named() -> None:
    """The message names the setting of the chosen transport, and mentions the other transport."""
    with pytest.raises(ConfigError, match=r"SUPABASE_DB_URL is not set.*SUPABASE_SECRET_KEY"):
        build_target(settings(supabase_url=None, supabase_secret_key=None))
    with pytest.raises(ConfigError, match="SUPABASE_SECRET_KEY is not set"):
        build_target(settings(supabase_secret_key=None))
    with pytest.raises(ConfigError, match="SUPABASE_URL is not set"):
        build_target(settings(supabase_url=None, target="rest"))


def test_keys_are_in_no_representation() -> None:
    """Tracebacks and debuggers print settings, targets, clients and connections."""
    configured = settings(writer_token=jwt(role="mirror_writer"), supabase_publishable_key="sb_x")
    target = build_target(settings())
    assert isinstance(target, RestTarget)
    printed = f"{configured!r} {configured} {target!r} {target.client!r} {target.http!r}"
    target.close()
    for key in (SECRET, jwt(role="mirror_writer"), "sb_x"):
        assert key not in printed


@pytest.mark.parametrize("kind", [WrongKey, StaleCache, TooLarge])
def test_the_errors_survive_pickling(kind: type[Exception]) -> None:
    """Celery pickles errors."""
    again = pickle.loads(pickle.dumps(kind("target: x")))  # noqa: S301 - our own
    assert type(again) is kind
    assert str(again) == "target: x"
