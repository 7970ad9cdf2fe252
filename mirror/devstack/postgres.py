"""Postgres: a temporary PostgreSQL cluster."""

import secrets
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from mirror.devstack.account import Account, remove_tree
from mirror.devstack.binaries import postgres_programs, usable_programs
from mirror.devstack.process import ServerProcess, launch_on_free_port
from mirror.errors import Unreachable

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    # The path of a socket may have about 100 bytes; temporary directories can be longer.
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_connections": "200",
    "timezone": "UTC",
}
# Many iterations protect weak passwords only. This one is long and random, and each costs time at
# every connection.
_SINCE_16 = {"scram_iterations": "1"}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgresCluster:
    """A running PostgreSQL server and its data; create it with `start`.

    Leaving the context manager stops the server and deletes its data.
    """

    def __init__(
        self,
        directory: Path,
        *,
        programs: Path,
        account: Account,
        version: int,
        superuser: str,
        durable: bool = True,
    ) -> None:
        self.directory = directory
        self.version = version
        self.superuser = superuser
        self.password = secrets.token_urlsafe(24)
        self.port = 0
        self._durable = durable
        self._programs = programs
        self._account = account
        self._process: ServerProcess | None = None

    @classmethod
    def start(
        cls,
        directory: Path,
        *,
        version: int,
        programs: Path | None = None,
        superuser: str = "postgres",
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> Self:
        """Initialise a cluster and start it on a free port of 127.0.0.1.

        Args:
            directory: the directory for its data, empty or new. If the server's account has no
                access to it, the server uses a temporary directory: see `.directory`.
            version: the major version; 16 and 18 are installed.
            programs: the `bin` directory of a PostgreSQL of that version; None: the installed one.
            superuser: the name of the bootstrap superuser.
            durable: `False` trades crash safety for speed: after `kill`, the last commits
                may be missing.
            settings: further server settings; these win over the defaults.

        Raises:
            ConfigError: the embedded servers are not installed, there is no such version,
                or the directory holds files.
            Unreachable: the server does not start; the message has the end of its log.
        """
        account = Account.for_servers()
        programs = usable_programs(programs or postgres_programs(version), account)
        place = account.server_directory(directory)
        cluster = cls(
            place,
            programs=programs,
            account=account,
            version=version,
            superuser=superuser,
            durable=durable,
        )
        wanted = _SETTINGS | cluster._own_settings | ({} if durable else _NOT_DURABLE)
        wanted |= dict(settings or {})
        try:
            cluster._initialise(wanted)
            cluster.port, cluster._process = launch_on_free_port(cluster._launch)
        except BaseException:
            remove_tree(place)
            raise
        return cluster

    def url(
        self, database: str = "postgres", user: str | None = None, password: str | None = None
    ) -> str:
        """Return a libpq URL.

        Args:
            database: the database's name; it need not exist yet.
            user: the role; None: the superuser.
            password: the role's password; None: the superuser's, which the login roles of the
                stand-in for Supabase have, too.
        """
        name = quote(user or self.superuser, safe="")
        secret = quote(password or self.password, safe="")
        return f"postgresql://{name}:{secret}@127.0.0.1:{self.port}/{quote(database, safe='')}"

    def stop(self) -> None:
        """Stop the server after it has closed open connections; keep the data. Idempotent."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Stop at once, as in a crash: no checkpoint, and recovery at the next start."""
        # An immediate shutdown instead of SIGKILL, which would leave backends and shared memory
        # behind, so that a restart would fail until they are gone.
        self._end(signal.SIGQUIT)

    def restart(self) -> None:
        """Start again with the same port and data; stop first if the server runs.

        Raises:
            Unreachable: the server does not start; the message has the end of its log.
        """
        self.stop()
        self._process = self._launch(self.port)

    def discard(self) -> None:
        """Stop at once and delete the data; idempotent."""
        self.kill()
        remove_tree(self.directory)

    def create_database(
        self, name: str, *, template: str | None = None, owner: str | None = None
    ) -> None:
        """Create a database.

        Args:
            name: its name.
            template: the database to copy, which must have no connections; None: template1.
            owner: the role that owns it; None: the superuser.
        """
        statement = sql.SQL("create database {}").format(sql.Identifier(name))
        if template is not None:
            # Faster than through the log, where nothing waits for a disk; 14 has no other way.
            files = not self._durable and self.version >= 15  # noqa: PLR2004
            strategy = sql.SQL(" strategy file_copy" if files else "")
            statement += sql.SQL(" template {}").format(sql.Identifier(template)) + strategy
        if owner is not None:
            statement += sql.SQL(" owner {}").format(sql.Identifier(owner))
        self._execute(statement)

    def drop_database(self, name: str) -> None:
        """Drop a database and close its connections; do nothing if it does not exist."""
        self._execute(
            sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def _initialise(self, settings: Mapping[str, str]) -> None:
        """Create the data directory and append the settings to its postgresql.conf."""
        password_file = self.directory / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        self._account.give(password_file)
        # C.UTF-8 sorts like C and classifies letters; not every system has it.
        done = self._initdb(password_file, locale="C.UTF-8")
        if done.returncode != 0 and "invalid locale name" in done.stderr:
            done = self._initdb(password_file, locale="C")
        password_file.unlink()
        if done.returncode != 0:
            raise Unreachable(f"initdb failed: {done.stderr[-2000:]}")
        quoted = {name: value.replace("'", "''") for name, value in settings.items()}
        lines = [f"{name} = '{value}'\n" for name, value in quoted.items()]
        with (self._data / "postgresql.conf").open("a", encoding="utf-8") as configuration:
            configuration.writelines(["\n# Set by mirror.devstack\n", *lines])

    def _initdb(self, password_file: Path, *, locale: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                self._programs / "initdb",
                f"--pgdata={self._data}",
                f"--username={self.superuser}",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                # The superuser's password is stored before the configuration is written.
                *(f"--set={name}={value}" for name, value in self._own_settings.items()),
                f"--locale={locale}",
                # Only a crash of the whole machine loses unsynced files, and that ends the cluster.
                "--no-sync",
            ],
            check=False,
            capture_output=True,
            text=True,
            **self._account.popen_options(),
        )

    def _launch(self, port: int) -> ServerProcess:
        self.port = port
        process = ServerProcess(
            [str(self._programs / "postgres"), "-D", str(self._data), "-p", str(port)],
            log=self.directory / "server.log",
            options=self._account.popen_options(),
            orphaned=signal.SIGQUIT,
        )
        process.wait_until(self._accepts)
        return process

    def _accepts(self) -> bool:
        # The random password also distinguishes this server from another one on the same port.
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.end(how)
            self._process = None

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)

    @property
    def _own_settings(self) -> dict[str, str]:
        """The settings that only this version's server has."""
        return _SINCE_16 if self.version >= 16 else {}  # noqa: PLR2004

    @property
    def _data(self) -> Path:
        return self.directory / "data"
