"""Urls: checks the addresses of the databases, of Redis and of the API.

A message says which form is expected and what to do. It never repeats a part of the address,
because a part that is misread may be a password.
"""

import re
from difflib import get_close_matches
from typing import Final
from urllib.parse import urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from mirror.capture.doorbell import is_redis_url

_ENCODE: Final = "percent-encode special characters in its parts (@ is %40, / is %2F)"

_EXPECTED_PROJECT: Final = "expected https://<project>.supabase.co"

_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

# Parameters that other clients understand and libpq does not.
_FOREIGN: Final = {
    "ssl": "write sslmode=require instead of ssl=…",
    "schema": "remove schema=…; the queries of mappings name the schemas of tables",
} | {
    name: f"remove {name}=…, which only other clients understand"
    for name in (
        "pgbouncer",
        "connection_limit",
        "pool_timeout",
        "socket_timeout",
        "sslaccept",
        "statement_cache_size",
        "prepared_statement_cache_size",
        "supa",
        "uselibpqcompat",
    )
}


def postgres_url(text: str) -> str:
    """Return a database's URL in the form that libpq understands.

    Forms that only SQLAlchemy understands are accepted.

    Raises:
        ValueError: it is no PostgreSQL URL; the message does not repeat it.
    """
    scheme, _, rest = text.partition("://")
    if scheme.partition("+")[0] not in {"postgresql", "postgres"} or not rest:
        raise ValueError("expected postgresql://user:password@host:port/database")
    # libpq looks for the credentials in front of the first slash, and ends them at the first @.
    credentials, at, address = rest.partition("@")
    if "/" in credentials or not at:
        credentials, address = "", rest
    if re.search(r"[\[\]]", credentials):
        raise ValueError(
            "square brackets around the password belong to a template; remove them, or write %5B "
            "and %5D if they are part of it"
        )
    place, _, query = address.partition("?")
    if "@" in place or (at and not credentials):
        raise ValueError(f"a malformed URL; {_ENCODE}")
    # SQLAlchemy's `postgresql+psycopg://` names a driver, which libpq does not know.
    url = f"postgresql://{rest}"
    try:
        parts = conninfo_to_dict(url)
    except ProgrammingError:
        # The original message repeats parts of the URL.
        raise ValueError(_explain_parameters(query) or f"a malformed URL; {_ENCODE}") from None
    if not all(re.fullmatch(r"\d*", port) for port in str(parts.get("port", "")).split(",")):
        raise ValueError(f"the port is no number; {_ENCODE}")
    if parts.get("sslmode", "prefer") not in _SSL_MODES:
        raise ValueError(f"sslmode must be one of {', '.join(_SSL_MODES)}")
    return url


def _explain_parameters(query: str) -> str | None:
    """Return what to do about the first parameter that libpq does not know; None: it knows all.

    The only names in it are those of our own lists.
    """
    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    for name in (part.partition("=")[0] for part in query.split("&")):
        if name in _FOREIGN:
            return _FOREIGN[name]
        if name not in known:
            meant = get_close_matches(name, known, n=1)
            hint = f"; is {meant[0]} meant?" if meant else ""
            return f"PostgreSQL does not know a parameter behind the question mark{hint}"
    return None


def redis_url(text: str) -> str:
    """Return the URL of a Redis as it is.

    Raises:
        ValueError: redis-py or Celery could not use it; the message does not repeat it.
    """
    if not is_redis_url(text):
        raise ValueError(f"expected redis://:password@host:port/number or rediss://…; {_ENCODE}")
    return text


def project_url(text: str) -> str:
    """Return the URL of a project's API without a slash at the end.

    Raises:
        ValueError: it is another URL, for example that of the dashboard or of the database.
    """
    try:
        parts = urlsplit(text)
        host, usable = parts.hostname or "", parts.port != 0
    except ValueError:
        # The original message repeats parts of the URL.
        raise ValueError(_EXPECTED_PROJECT) from None
    usable = usable and text.startswith(("https://", "http://")) and text.isprintable()
    if not usable or "@" in text or not re.fullmatch(r"[\w.:-]+", host):
        raise ValueError(_EXPECTED_PROJECT)
    if host in {"supabase.com", "app.supabase.com"}:
        raise ValueError(f"that is the dashboard; {_EXPECTED_PROJECT}")
    if host.startswith("db.") or host.endswith(".pooler.supabase.com"):
        raise ValueError(f"that is the database; {_EXPECTED_PROJECT}")
    path = parts.path.rstrip("/")
    if parts.query or parts.fragment or re.search(r"/(rest|auth)/v1\b", path):
        raise ValueError("expected the project's URL alone, without /rest/v1")
    return f"{parts.scheme}://{parts.netloc}{path}"
