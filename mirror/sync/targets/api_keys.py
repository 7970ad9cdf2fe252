"""What an API key or a token says of itself, without asking the project.

A wrong one is refused by name before anything is sent: what the project itself says to it is
"permission denied", whatever the reason.
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
    """Refuse what cannot be a secret key of the project at `url`.

    Raises:
        ConfigError: says which kind of key it is, and which is needed; never the key.
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
    """Refuse what cannot be a token of the role mirror_writer.

    Raises:
        ConfigError: says what it is instead.
    """
    claims = _check(token, url, "MIRROR_WRITER_TOKEN")
    if claims.get("role") != "mirror_writer":
        raise ConfigError(
            "MIRROR_WRITER_TOKEN is no JWT of the role mirror_writer; sign one as the README says."
        )


def check_publishable_key(key: str) -> None:
    """Refuse what may do more than a publishable key has to.

    Raises:
        ConfigError: says what it is instead.
    """
    if key.startswith("sb_secret_") or _claims(key).get("role") == "service_role":
        raise ConfigError(
            "SUPABASE_PUBLISHABLE_KEY holds a secret key, which may do anything; take the "
            "publishable (anon) key."
        )


def expires_at(key: str) -> float | None:
    """Return when a key expires, in seconds since 1970; None: it does not say."""
    expires = _claims(key).get("exp")
    return float(expires) if isinstance(expires, int | float) else None


def _check(key: str, url: str, variable: str) -> dict[str, Any]:
    """Return the claims of a key that is a JWT, and none for one that is not."""
    if not _SENDABLE.fullmatch(key):
        raise ConfigError(f"{variable} holds characters that no key has; was it copied whole?")
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
