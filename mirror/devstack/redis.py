"""Redis: a temporary server that speaks the protocol of Redis."""

import signal
import socket
from pathlib import Path
from typing import Self

from mirror.devstack.account import Account, remove_tree
from mirror.devstack.binaries import valkey_program
from mirror.devstack.process import ServerProcess, launch_on_free_port


class RedisServer:
    """A running Valkey server and its append-only file; create it with `start`.

    Leaving the context manager stops the server and deletes its data.
    """

    def __init__(self, directory: Path, *, program: Path, account: Account) -> None:
        self.directory = directory
        self.port = 0
        self._program = program
        self._account = account
        self._process: ServerProcess | None = None

    @classmethod
    def start(cls, directory: Path) -> Self:
        """Start a server on a free port of 127.0.0.1.

        Args:
            directory: the directory for its data, empty or new. If the server's account has no
                access to it, the server uses a temporary directory: see `.directory`.

        Raises:
            ConfigError: the embedded servers are not installed, or the directory is not empty.
            Unreachable: the server does not start; the message has the end of its log.
        """
        account = Account.for_servers()
        program = valkey_program(account)
        place = account.server_directory(directory)
        server = cls(place, program=program, account=account)
        try:
            server.port, server._process = launch_on_free_port(server._launch)
        except BaseException:
            remove_tree(place)
            raise
        return server

    @property
    def url(self) -> str:
        """The URL of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def stop(self) -> None:
        """Stop the server; keep the data. Idempotent."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Stop at once, as in a crash; the append-only file has all acknowledged commands."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start again with the same port and data; stop first if the server runs.

        Raises:
            Unreachable: the server does not start; the message has the end of its log.
        """
        self.stop()
        self._process = self._launch(self.port)

    def pause(self) -> None:
        """Pause the process: connections are still accepted, but the server does not answer."""
        if self._process is not None:
            self._process.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue after `pause`, with the commands that arrived in the meantime."""
        if self._process is not None:
            self._process.send(signal.SIGCONT)

    def discard(self) -> None:
        """Stop at once and delete the data; idempotent."""
        self.kill()
        remove_tree(self.directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def _launch(self, port: int) -> ServerProcess:
        self.port = port
        settings = {
            "bind": "127.0.0.1",
            "port": str(port),
            "dir": str(self.directory),
            # Every command is written to the file before it is acknowledged, and the file is
            # synced each second: a killed server loses nothing, a crashed machine up to a second.
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
        }
        options = [part for name, value in settings.items() for part in (f"--{name}", value)]
        process = ServerProcess(
            [str(self._program), *options],
            log=self.directory / "server.log",
            options=self._account.popen_options(),
            orphaned=signal.SIGKILL,
        )
        process.wait_until(self._answers)
        return process

    def _answers(self) -> bool:
        # Any answer except PONG means that the server is still loading its file.
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.end(how)
            self._process = None
