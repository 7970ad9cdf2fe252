"""The program of docs/serve.md: the page, mounted behind the reader's own sign-in."""

import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.support.databases import TestDatabase
from tests.support.serving import Visitor, serving

PAGE = Path(__file__).parent.parent.parent / "docs" / "serve.md"


@dataclass
class SignIn:
    """The reader's middleware: a header names the user, `ops` is on call."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Set the user of the request."""
        scope["user"] = User(dict(scope["headers"]).get(b"x-user", b"").decode())
        await self.app(scope, receive, send)


@dataclass
class User:
    """A user of the reader's application."""

    id: str

    @property
    def is_authenticated(self) -> bool:
        """Whether a user is signed in."""
        return self.id != ""

    @property
    def is_on_call(self) -> bool:
        """Whether the user may act."""
        return self.id == "ops"


def test_the_program_of_the_page_admits_whom_the_sign_in_knows(
    primary: TestDatabase, target: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only users on call get the forms of actions."""
    monkeypatch.setenv("PRIMARY_DATABASE_URL", primary.url)
    monkeypatch.setenv("SUPABASE_DB_URL", target.url)
    monkeypatch.setenv("MIRROR_MAPPINGS", "mappings.trips")
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102 - our own page
    with serving(SignIn(names["application"])) as url:
        visitor = Visitor(url)
        with closing(visitor.http):
            assert visitor.get("/mirror/").status_code == 403
            visitor.http.headers["x-user"] = "guest"
            assert visitor.get("/mirror/").status_code == 200
            assert 'name="csrf"' not in visitor.get("/mirror/drift").text
            visitor.http.headers["x-user"] = "ops"
            assert 'name="csrf"' in visitor.get("/mirror/drift").text
