"""API keys: checks a key or token for its kind, project and expiry, without a request.

A wrong one is refused with its kind named, before anything is sent. The project itself would
answer "permission denied" to each of them.
"""

import base64
import binascii
import json
import re
import time
from typing import Any
from urllib.parse import urlsplit

from mirror.errors import ConfigError

_SENDABLE = re.compile(r"[\x21-\x7e]+")
_HOSTED = re.compile(r"([a-z0-9]{20})\.supabase\.(?:co|in|red)")


def check_secret_key(key: str, url: str) -> None:
    """Refuse a value that cannot be a secret key of the project at `url`.

    Raises:
        ConfigError: names the kind of key that it is and the kind that is needed; never the key.
    """
    claims = _check(key, url, "SUPABASE_SECRET_KEY")
    role = claims.get("role")
    if key.startswith("sb_publishable_") or role == "anon":
        raise ConfigError(
            "SUPABASE_SECRET_KEY holds the publishable (anon) key, which may not write; take a "
            "secret key from the project's settings, API keys."
        )
    if role == "mirror_writer":
        raise ConfigError(
            "SUPABASE_SECRET_KEY holds a token of mirror_writer; it goes into "
            "MIRROR_WRITER_TOKEN, beside SUPABASE_PUBLISHABLE_KEY."
        )
    if claims and role != "service_role":
        raise ConfigError(
            "SUPABASE_SECRET_KEY holds a user's token, which is bound by row-level security; take "
            "a secret key from the project's settings, API keys."
        )


def check_writer_token(token: str, url: str) -> None:
    """Refuse a value that cannot be a token of the role mirror_writer.

    Raises:
        ConfigError: names the kind of token that it is; never the token.
    """
    claims = _check(token, url, "MIRROR_WRITER_TOKEN")
    if claims.get("role") != "mirror_writer":
        raise ConfigError(
            "MIRROR_WRITER_TOKEN is not a JWT of the role mirror_writer; docs/target.md says how "
            "to sign one."
        )


def check_publishable_key(key: str) -> None:
    """Refuse a secret key, which has more rights than a publishable key.

    Raises:
        ConfigError: names the kind of key that it is.
    """
    if key.startswith("sb_secret_") or _claims(key).get("role") == "service_role":
        raise ConfigError(
            "SUPABASE_PUBLISHABLE_KEY holds a secret key, which may do anything; take the "
            "publishable (anon) key."
        )


def expires_at(key: str) -> float | None:
    """Return when a key expires, in seconds since 1970; None: it has no expiry."""
    expires = _claims(key).get("exp")
    return float(expires) if isinstance(expires, int | float) else None


def _check(key: str, url: str, variable: str) -> dict[str, Any]:
    """Return the claims of a JWT; for a key of another kind, an empty dict."""
    if not _SENDABLE.fullmatch(key):
        raise ConfigError(f"{variable} holds characters that keys never have; was it copied whole?")
    if key.startswith("sbp_"):
        raise ConfigError(
            f"{variable} holds an access token of a Supabase account, not a key of a project."
        )
    claims = _claims(key)
    host = _HOSTED.fullmatch(urlsplit(url).hostname or "")
    if host and claims.get("ref", host[1]) != host[1]:
        raise ConfigError(
            f"{variable} belongs to project {claims['ref']}, SUPABASE_URL to project {host[1]}."
        )
    expires = claims.get("exp")
    if isinstance(expires, int | float) and expires < time.time():
        raise ConfigError(f"{variable} holds a token that has expired.")
    return claims


def _claims(key: str) -> dict[str, Any]:
    parts = key.split(".")
    if len(parts) != 3:  # noqa: PLR2004 - header, claims, signature
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=="))
    except (binascii.Error, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}
