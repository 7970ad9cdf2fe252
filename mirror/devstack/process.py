"""Process: starts a server, waits until it is ready, and ends it with this Python process."""

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import SystemRandom
from typing import Any, BinaryIO, Final

from mirror.errors import Unreachable

_START_TIMEOUT: Final = 60.0  # seconds; a loaded machine needs several
_STOP_TIMEOUT: Final = 30.0  # seconds until a server that does not stop is killed
_POLL_INTERVAL: Final = 0.01  # seconds between two checks of a starting server
_PORT_ATTEMPTS: Final = 20

# Each server has a watchdog process, whose standard input is a pipe from this process. A line means
# that the server was ended and the watchdog can exit. The end of the pipe without a line means that
# this process is gone, even by SIGKILL; the watchdog then ends the server. `atexit` does not run
# after SIGKILL or a default SIGTERM. PR_SET_PDEATHSIG exists only on Linux, and fires when the
# *thread* that started the server ends. Two limits: a fork of this process that stays alive keeps
# the pipe open, and the server is not watched in the milliseconds until the watchdog runs.
_WATCHDOG: Final = 'read -r _ || kill -s "$1" "$2"'


class PortTaken(Unreachable):
    """Raised when another program uses the port that a server was given."""


class ServerProcess:
    """A running server, with its output appended to a log file.

    Args:
        command: the program, which must stay in the foreground, and its arguments.
        log: the file that receives standard output and error.
        options: keyword arguments for `subprocess.Popen`: user, directory, environment.
        orphaned: the signal that the server gets if this Python process ends unexpectedly.
    """

    def __init__(
        self,
        command: list[str],
        *,
        log: Path,
        options: Mapping[str, Any],
        orphaned: signal.Signals,
    ) -> None:
        self._name = Path(command[0]).name
        self._log = log
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._server = self._launch(command, output, options)
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "sh", orphaned.name[3:], str(self._server.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _launch(
        self, command: list[str], output: BinaryIO, options: Mapping[str, Any]
    ) -> subprocess.Popen[bytes]:
        # A new session, so that Ctrl-C reaches only this process, which then stops its servers in
        # order.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            **options,
        )

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._server.pid

    @property
    def alive(self) -> bool:
        """Whether the server runs; a paused server counts as running."""
        if self._server.poll() is None:
            return True
        # The system may reuse the process id, so the watchdog must not send a signal to it.
        self._dismiss_watchdog()
        return False

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Return when `ready` returns True; kill the server if that takes longer than a minute.

        Raises:
            PortTaken: the server ended because its port was in use.
            Unreachable: the server ended for another reason, or was not ready within a minute.
        """
        deadline = time.monotonic() + _START_TIMEOUT
        while self.alive:
            if ready():
                return
            if time.monotonic() > deadline:
                self.end(signal.SIGKILL)
                raise Unreachable(
                    f"{self._name} was not ready within {_START_TIMEOUT:.0f} s; "
                    f"its log ends: {self._output()[-2000:]}"
                )
            time.sleep(_POLL_INTERVAL)
        output = self._output()
        if "address already in use" in output.lower():
            raise PortTaken(f"{self._name} did not start: its port is in use.")
        raise Unreachable(f"{self._name} did not start; its log ends: {output[-2000:]}")

    def send(self, signal_: signal.Signals) -> None:
        """Send a signal, unless the server has ended."""
        if self.alive:
            self._server.send_signal(signal_)

    def end(self, signal_: signal.Signals) -> None:
        """Send the server this signal and wait until it has ended; kill it after 30 s."""
        self.send(signal_)
        # A paused process handles no signal except SIGKILL, so resume it.
        self.send(signal.SIGCONT)
        try:
            self._server.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._dismiss_watchdog()

    def _dismiss_watchdog(self) -> None:
        if self._watchdog.returncode is None:
            self._watchdog.communicate(b"\n")

    def _output(self) -> str:
        """Return the output of this start of the server; the log may have that of earlier ones."""
        return self._log.read_bytes()[self._log_start :].decode(errors="replace")


def launch_on_free_port(launch: Callable[[int], ServerProcess]) -> tuple[int, ServerProcess]:
    """Call `launch` with free ports until a server starts; return its port and process.

    Raises:
        Unreachable: the server does not start, or every port was taken by another program.
    """
    for _ in range(_PORT_ATTEMPTS):
        port = _free_port()
        try:
            return port, launch(port)
        except PortTaken:
            continue
    raise Unreachable(f"Other programs took {_PORT_ATTEMPTS} ports, one after the other.")


def _free_port() -> int:
    """Return a TCP port on 127.0.0.1 that is not in use at this moment."""
    # Operating systems take ports for outgoing connections from a range above these. Otherwise a
    # connection could occupy a server's port while the server is down, and prevent its restart.
    random = SystemRandom()
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
