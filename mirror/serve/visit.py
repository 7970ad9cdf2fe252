"""Visit: one request to the page, with what its view needs.

An action is a POST. Its form has the token of a cookie, which a form of another site cannot have.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import structlog
from starlette.requests import Request

from mirror.errors import UsageError
from mirror.model.registry import Registry
from mirror.serve.admission import Level
from mirror.serve.background import BackgroundReconcile
from mirror.serve.watch import Watch
from mirror.settings import Settings

CSRF_COOKIE: Final = "mirror_csrf"
MOST_BYTES: Final = 64_000
"""How long the body of a form may be."""

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Visit:
    """One request that was admitted."""

    request: Request
    watch: Watch
    background: BackgroundReconcile
    level: Level
    csrf: str
    """The token that each form of the answer carries."""
    form: Mapping[str, str] = field(default_factory=dict)
    """The fields of the form; empty for GET."""

    @property
    def settings(self) -> Settings:
        """The settings of this process."""
        return self.watch.settings

    @property
    def registry(self) -> Registry:
        """The declarations of this process."""
        return self.watch.registry

    @property
    def operator(self) -> str:
        """The id of the person, as the mounting app knows it; `unnamed` if it names none."""
        return str(getattr(self.request.state, "operator", None) or "unnamed")

    @property
    def base(self) -> str:
        """The path at which the app is mounted, without a slash at the end."""
        return str(self.request.scope.get("root_path", "")).rstrip("/")

    def query(self, name: str) -> str:
        """Return a parameter of the URL without white space around it; empty: it is missing."""
        return self.request.query_params.get(name, "").strip()

    def check_word(self, word: str) -> None:
        """Check that the operator has typed the word of the action.

        Raises:
            UsageError: another word was typed.
        """
        if self.form.get("word", "").strip() != word:
            raise UsageError(f"nothing was done: type {word} into the field to confirm.")

    def record(self, action: str, **facts: object) -> None:
        """Log an action, with the operator and the facts, which are ids and counts."""
        log.info("operated", action=action, operator=self.operator, **facts)


async def read_form(request: Request) -> dict[str, str] | None:
    """Return the fields of a form; None: the body is too long."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            return None
    return dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))


def csrf_token(request: Request) -> str:
    """Return the token of the request's cookie; a new one if it has none."""
    return request.cookies.get(CSRF_COOKIE) or secrets.token_urlsafe(32)


def comes_from_here(request: Request, form: Mapping[str, str]) -> bool:
    """Return whether a form was sent by a page of this app, and not by another site's."""
    cookie = request.cookies.get(CSRF_COOKIE, "")
    if not cookie or not secrets.compare_digest(cookie.encode(), form.get("csrf", "").encode()):
        return False
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return False
    # With our referrer policy, browsers send `null` for a page's own forms.
    origin = request.headers.get("origin", "null")
    return origin == "null" or urlsplit(origin).netloc == request.headers.get("host")
