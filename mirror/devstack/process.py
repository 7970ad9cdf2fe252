"""One server process: started, awaited, signalled, and never left behind."""

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import SystemRandom
from typing import Any, Final

from mirror.errors import Unreachable

_START_TIMEOUT: Final = 60.0  # seconds; a loaded machine needs several
_STOP_TIMEOUT: Final = 30.0  # seconds until a server that does not stop is killed
_POLL_INTERVAL: Final = 0.01  # seconds between two looks at a starting server
_PORT_ATTEMPTS: Final = 20

# A process per server whose standard input is a pipe from this one. A line means "all is
# well, go"; the pipe's end without a line means that this process is gone, however it went,
# SIGKILL included, and takes the server along. Not `atexit`, which SIGKILL and a default
# SIGTERM skip; not PR_SET_PDEATHSIG, which only Linux has and which fires when the *thread*
# that started the server ends. Two limits: a fork of this process which lives on keeps the
# pipe open, and for the few milliseconds between the two starts nobody watches.
_WATCHDOG: Final = 'read -r _ || kill -s "$1" "$2"'


class PortTaken(Unreachable):
    """Raised when another program holds the port that a server was to listen on."""


class ServerProcess:
    """A running server, with its output appended to a log file.

    Args:
        command: the program and its arguments; it must stay in the foreground.
        log: the file that receives standard output and error.
        options: how `subprocess` runs it: whom under, where, in which environment.
        orphaned: the signal it gets should this Python process vanish.
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
            # Sessions of their own, so that Ctrl-C reaches this process alone, which then
            # stops its servers in order.
            self._server = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **options,
            )
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "sh", orphaned.name[3:], str(self._server.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._server.pid

    @property
    def alive(self) -> bool:
        """Whether the server runs; a paused one does."""
        if self._server.poll() is None:
            return True
        # Its number may now be given to another process, which the watchdog must not hit.
        self._dismiss_watchdog()
        return False

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Return once `ready` says so; the server is killed if it does not come to that.

        Raises:
            PortTaken: the server ended because its port was in use.
            Unreachable: it ended for another reason, or was not ready within a minute.
        """
        deadline = time.monotonic() + _START_TIMEOUT
        while self.alive:
            if ready():
                return
            if time.monotonic() > deadline:
                self.end(signal.SIGKILL)
                raise Unreachable(
                    f"{self._name} did not get ready within {_START_TIMEOUT:.0f} s; "
                    f"its log ends: {self._output()[-2000:]}"
                )
            time.sleep(_POLL_INTERVAL)
        output = self._output()
        if "address already in use" in output.lower():
            raise PortTaken(f"{self._name} found its port in use.")
        raise Unreachable(f"{self._name} did not start; its log ends: {output[-2000:]}")

    def send(self, how: signal.Signals) -> None:
        """Send a signal, unless the server has ended."""
        if self.alive:
            self._server.send_signal(how)

    def end(self, how: signal.Signals) -> None:
        """End the server with this signal and wait until it is gone; killed after 30 s."""
        self.send(how)
        # A stopped process acts on nothing but SIGKILL.
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
        """What the server has logged since this start."""
        return self._log.read_bytes()[self._log_start :].decode(errors="replace")


def launch_on_free_port(launch: Callable[[int], ServerProcess]) -> tuple[int, ServerProcess]:
    """Call `launch` with free ports until the server it starts gets hold of one.

    Raises:
        Unreachable: the server does not start, for this or another reason.
    """
    for _ in range(_PORT_ATTEMPTS):
        port = _free_port()
        try:
            return port, launch(port)
        except PortTaken:
            continue
    raise Unreachable(f"Other programs took {_PORT_ATTEMPTS} ports, one after the other.")


def _free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on at this moment."""
    # Below the range from which systems take ports for outgoing connections, or such a
    # connection could sit on a server's port while it is down, and forbid its restart.
    random = SystemRandom()
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
