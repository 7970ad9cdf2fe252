"""A server that speaks Redis's protocol, of one's own, gone when it is no longer needed."""

import signal
import socket
from pathlib import Path
from typing import Self

from mirror.devstack.account import Account, remove_tree
from mirror.devstack.binaries import valkey_program
from mirror.devstack.process import ServerProcess, launch_on_free_port


class RedisServer:
    """A running Valkey server and its append-only file; `start` makes one.

    As a context manager it stops and deletes the data on leaving.
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
            directory: where its data goes; empty or new. If the account that the server runs
                under cannot get there, it is a temporary directory: see `.directory`.

        Raises:
            ConfigError: the embedded servers are not installed, or the directory holds files.
            Unreachable: the server does not start; with the end of its log.
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
        """Shut down in order; idempotent."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Go down at once, as in a crash; what was acknowledged is in the append-only file."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start again, same port, same data; stops first if it runs.

        Raises:
            Unreachable: the server does not start; with the end of its log.
        """
        self.stop()
        self._process = self._launch(self.port)

    def pause(self) -> None:
        """Hang: connections are still accepted by the kernel, and nothing answers."""
        if self._process is not None:
            self._process.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`, with what has piled up in the meantime."""
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
            # Every command is written to the file before it is acknowledged, and synced each
            # second: a killed server loses nothing, only a crashed machine would.
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
        # Any complete answer but PONG means that it is still loading its file.
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
