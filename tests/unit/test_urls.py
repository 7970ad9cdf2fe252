"""A malformed address or key leads to the right advice, and no message shows a part of it."""

import io
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import quote

import pytest
import structlog
from celery import Celery
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis import Redis, RedisError

from mirror.capture.doorbell import DoorbellSettings
from mirror.errors import ConfigError, MirrorError
from mirror.settings import load_settings
from mirror.settings.logs import configure_logging
from mirror.sync.connections import Database
from mirror.sync.snapshot import Source
from mirror.sync.targets.http import HttpClient
from mirror.sync.targets.rest import RestTarget

HEAD, TAIL = "Xq7Zk", "Wv9Jp"
"""Both ends of each password below; neither may be seen."""

passwords = st.text(st.sampled_from("[]@/#?%: &=+'\"<>\\é漢\n\t1a"), max_size=12).map(
    lambda middle: f"{HEAD}{middle}{TAIL}"
)
odd = [
    example(f"[{HEAD}{TAIL}]"),
    example(f"{HEAD}@{TAIL}"),
    example(f"{HEAD}/{TAIL}"),
    example(f"12/{HEAD}?user={TAIL}"),
    example(f"{HEAD}%zz{TAIL}"),
    example(f"{HEAD}{'é' * 200}{TAIL}"),
]


def with_examples(function: Callable[..., None]) -> Callable[..., None]:
    """Let a property also hold for the forms that dashboards and generators really produce.

    A twentieth of the profile's examples: each takes long. `make test-long` has more.
    """
    for one in odd:
        function = one(function)
    return settings(max_examples=settings().max_examples // 20, deadline=None)(function)


def assert_hidden(text: str) -> None:
    """Fail if a text shows either end of a password."""
    assert HEAD not in text
    assert TAIL not in text


def all_texts(error: BaseException) -> str:
    """Return what is ever shown of an error: the message, its repr, the traceback and the log."""
    stream = io.StringIO()
    with logging_to(stream):
        structlog.stdlib.get_logger("mirror").error("failed", reason=str(error), exc_info=error)
    return "\n".join(
        (str(error), repr(error), *traceback.format_exception(error), stream.getvalue())
    )


@contextmanager
def logging_to(stream: io.StringIO) -> Iterator[None]:
    """Log to a stream inside the block, as workers do."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure_logging(style="json", stream=stream)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()


def check_database(url: str) -> None:
    """Load a database's URL, and connect to it if it is accepted; nothing listens there."""
    try:
        accepted = load_settings(primary_database_url=url)
        assert_hidden(repr(accepted) + accepted.model_dump_json())
        database = Database(accepted.need("primary_database_url"), role="primary")
        assert_hidden(repr(database) + Source(database).name)
        database.execute("select 1")
    except MirrorError as error:
        assert_hidden(all_texts(error))


@with_examples
@given(passwords)
def test_no_message_shows_a_databases_password(password: str) -> None:
    """However it was written: as it is, with some of its characters encoded, or with all."""
    for written in (password, quote(password, safe="/"), quote(password, safe="")):
        check_database(f"postgresql://app:{written}@127.0.0.1:1/app")
        check_database(f"postgresql://app:{written}@127.0.0.1:1/app?pgbouncer=true")
    encoded = quote(password, safe="")
    assert load_settings(primary_database_url=f"postgresql://app:{encoded}@127.0.0.1/app")


@with_examples
@given(passwords)
def test_no_message_shows_a_password_of_redis(password: str) -> None:
    """Neither the worker's settings nor the backend's, nor those who connect with them."""
    for written in (password, quote(password, safe="/"), quote(password, safe="")):
        url = f"redis://:{written}@127.0.0.1:1/0"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("REDIS_URL", url)
            for load in (load_settings, DoorbellSettings.from_environment):
                try:
                    assert_hidden(repr(load()))
                except ConfigError as error:
                    assert_hidden(all_texts(error))
                    continue
                # Celery prints the address when a worker starts.
                assert_hidden(str(Celery(broker=url).connection_for_write().as_uri()))
                with pytest.raises(RedisError) as caught:
                    Redis.from_url(url).ping()
                assert_hidden(all_texts(caught.value))


@with_examples
@given(passwords)
def test_a_secret_in_the_wrong_variable_is_not_shown(password: str) -> None:
    """The URL of the database, or a password, is set where the project's URL belongs."""
    for url in (
        f"postgresql://postgres:{password}@db.example:5432/postgres",
        f"https://postgres:{password}@db.example",
        f"https://{password}@x.example",
        password,
    ):
        with pytest.raises(ConfigError) as caught:
            load_settings(supabase_url=url)
        assert_hidden(all_texts(caught.value))


@pytest.fixture(scope="module")
def http() -> HttpClient:
    """One client for all examples: each new one reads the machine's certificates."""
    client = HttpClient(connect_seconds=1)
    client.pause = lambda _: None
    return client


@with_examples
@given(key=passwords)
def test_no_message_shows_a_key_of_the_api(http: HttpClient, key: str) -> None:
    """A key may have lost characters, or gained some, while it was copied."""
    for one in (key, f"sb_secret_{key}", f"eyJhbGciOiJIUzI1NiJ9.{key}.{key}", f"Bearer {key}"):
        try:
            accepted = load_settings(supabase_url="http://127.0.0.1:1", supabase_secret_key=one)
            assert_hidden(repr(accepted) + accepted.model_dump_json())
            target = RestTarget(
                "http://127.0.0.1:1", accepted.need("supabase_secret_key"), http=http
            )
            assert_hidden(repr(target))
            target.describe()
        except MirrorError as error:
            assert_hidden(all_texts(error))


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("postgres:[{}]@h:5432/d", "remove them, or write %5B and %5D"),
        ("postgres:{}@h@host/d", "@ is %40"),
        ("postgres:{}/h@host/d", "/ is %2F"),
        ("postgres:{}", "the port is no number"),
        ("u:{}@h/d?pgbouncer=true", "remove pgbouncer=…"),
        ("u:{}@h/d?sslmode=require&pgbouncer=true&connection_limit=1", "remove pgbouncer=…"),
        ("u:{}@h/d?schema=public", "the queries of mappings name the schemas"),
        ("u:{}@h/d?ssl=require", "write sslmode=require instead"),
        ("u:{}@h/d?sslmod=require", "is sslmode meant?"),
        ("u:{}@h/d?sslmode=required", "sslmode must be one of disable, allow, prefer, require"),
        ("u:{}@h/d?{}=1", "does not know a parameter"),
    ],
)
def test_a_malformed_database_url_leads_to_advice(url: str, advice: str) -> None:
    """The schemes of SQLAlchemy's drivers are no reason to refuse it."""
    for scheme in ("postgresql", "postgres", "postgresql+asyncpg"):
        with pytest.raises(ConfigError) as caught:
            load_settings(primary_database_url=f"{scheme}://{url.format(HEAD, TAIL)}")
        assert advice in str(caught.value)
        assert_hidden(str(caught.value))


@pytest.mark.parametrize("space", ["\n", "\r\n", " ", "\t"])
def test_white_space_around_a_variable_is_not_part_of_it(
    monkeypatch: pytest.MonkeyPatch, space: str
) -> None:
    """Files and secret stores add a newline, which was taken for a part of the database's name."""
    for name, value in {
        "PRIMARY_DATABASE_URL": "postgresql://u:a b@h/d",
        "SUPABASE_DB_URL": "postgresql://u:p@h/d",
        "SUPABASE_URL": "https://x.example",
        "SUPABASE_SECRET_KEY": "sb_secret_x",
        "REDIS_URL": "redis://:a b@h:6379/0",
        "MIRROR_MAPPINGS": "some.mappings",
        "MIRROR_TARGET": "rest",
        "MIRROR_BATCH_SIZE": "7",
        "MIRROR_LOG_LEVEL": "error",
        "MIRROR_RECONCILE_CRON": "off",
        "MIRROR_DOORBELL": "inline",
        "MIRROR_DOORBELL_SECONDS": "2",
        "MIRROR_WRITER_TOKEN": "",
    }.items():
        monkeypatch.setenv(name, f"{space}{value}{space}".replace("a b", "a%20b"))
    loaded = load_settings()
    assert loaded.need("primary_database_url") == "postgresql://u:a%20b@h/d"
    assert loaded.need("supabase_db_url") == "postgresql://u:p@h/d"
    assert loaded.need("supabase_secret_key") == "sb_secret_x"
    assert loaded.need("redis_url") == "redis://:a%20b@h:6379/0"
    assert (loaded.mappings, loaded.target, loaded.batch_size) == ("some.mappings", "rest", 7)
    assert (loaded.log_level, loaded.reconcile_cron) == ("error", "off")
    assert loaded.writer_token is None
    bell = DoorbellSettings.from_environment()
    assert (bell.redis_url, bell.mode, bell.seconds) == (loaded.need("redis_url"), "inline", 2.0)


def test_a_host_that_cannot_be_resolved_shows_no_part_of_a_password() -> None:
    """Libpq takes what follows the first @ for a part of the host; only settings refuse that."""
    database = Database(f"postgresql://u:{HEAD}@{TAIL}@127.0.0.1:1/d", role="primary")
    with pytest.raises(MirrorError) as caught:
        database.execute("select 1")
    assert_hidden(all_texts(caught.value))
