"""Lite: a stand-in for a Supabase project's API, @supabase/lite on an embedded PostgreSQL."""

import base64
import hashlib
import hmac
import json
import secrets
import signal
import socket
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote
from urllib.request import Request, urlopen

from mirror.devstack.node import find_program, install
from mirror.devstack.postgres import PostgresCluster
from mirror.devstack.process import ServerProcess, launch_on_free_port
from mirror.errors import Unreachable


class SupabaseLite:
    """The REST and Auth API for one database of a prepared cluster; create it with `start`.

    Leaving the context manager stops it.
    """

    def __init__(self, cluster: PostgresCluster, *, package: Path, log: Path) -> None:
        self.publishable_key = f"sb_publishable_{secrets.token_urlsafe(16)}"
        self.secret_key = f"sb_secret_{secrets.token_urlsafe(16)}"
        self.port = 0
        self.jwt_secret = secrets.token_urlsafe(48)
        self._cluster = cluster
        self._package = package
        self._log = log
        self._process: ServerProcess | None = None

    @classmethod
    def start(cls, cluster: PostgresCluster, *, package: Path, log: Path) -> Self:
        """Start the API on a free port of 127.0.0.1. It serves no database until `serve` is called.

        Args:
            cluster: a PostgreSQL with the roles of a project.
            package: the npm package that pins @supabase/lite (`tests/supabase` of the repository);
                it is installed if necessary.
            log: the file for the program's output.

        Raises:
            ConfigError: Node or npm is missing, or the package cannot be installed.
            Unreachable: the program does not start; the message has the end of its log.
        """
        install(package)
        lite = cls(cluster, package=package, log=log)
        lite.port, lite._process = launch_on_free_port(lite._launch)
        return lite

    @property
    def url(self) -> str:
        """The project's URL, for SUPABASE_URL."""
        return f"http://127.0.0.1:{self.port}"

    def token(self, **claims: Any) -> str:
        """Return a JWT signed with the project's secret: a legacy key, or a user's token."""
        head, body = (_base64(json.dumps(part)) for part in ({"alg": "HS256"}, claims))
        signed = hmac.digest(self.jwt_secret.encode(), f"{head}.{body}".encode(), hashlib.sha256)
        return f"{head}.{body}.{_base64(signed)}"

    def serve(self, database: str | None) -> None:
        """Serve this database from now on; None: no database.

        The API reads the database's schema in this call only, so call it again after a migration.

        Raises:
            Unreachable: the API cannot serve the database; its log has the reason.
        """
        address = f"{self.url}/serve/{quote(database or '', safe='')}"
        request = Request(address, method="PUT", headers={"apikey": self.secret_key})  # noqa: S310 - this server
        try:
            urlopen(request, timeout=30).close()  # noqa: S310 - this server
        except OSError as error:
            raise Unreachable(f"the API does not serve {database}; see {self._log}") from error

    def stop(self) -> None:
        """Stop the API; idempotent."""
        if self._process is not None:
            self._process.end(signal.SIGTERM)
            self._process = None

    def restart(self) -> None:
        """Start again on the same port; stop first if it runs. Call `serve` again after it.

        Raises:
            Unreachable: the program does not start; the message has the end of its log.
        """
        self.stop()
        self._process = self._launch(self.port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _launch(self, port: int) -> ServerProcess:
        self.port = port
        settings = {
            "LITE_PORT": str(port),
            "LITE_URL": self._cluster.url("", user="authenticator"),
            "LITE_ADMIN_URL": self._cluster.url(""),
            "LITE_JWT_SECRET": self.jwt_secret,
            "LITE_PUBLISHABLE_KEY": self.publishable_key,
            "LITE_SECRET_KEY": self.secret_key,
            "DO_NOT_TRACK": "1",
        }
        process = ServerProcess(
            [find_program("node"), str(self._package / "lite.mjs")],
            log=self._log,
            options={"env": settings, "cwd": self._package},
            orphaned=signal.SIGTERM,
        )
        process.wait_until(self._answers)
        return process

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=2).close()
        except OSError:
            return False
        return True


def _base64(part: str | bytes) -> str:
    raw = part.encode() if isinstance(part, str) else part
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
