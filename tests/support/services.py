"""Services: commands of `mirror` that run until they are stopped."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path

from tests.support.forking import HOME, ForkingCommand
from tests.support.waiting import until


class Service:
    """A running command, and its log, to which later starts append."""

    def __init__(
        self, command: ForkingCommand, name: str, log: Path, variables: Mapping[str, str]
    ) -> None:
        self.log = log
        self._command = command
        self._name = name
        self._variables = variables
        self.restart()

    def restart(self) -> None:
        """Start the command again, after it has ended."""
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(HOME),
            "MIRROR_LOG_FORMAT": "json",
        }
        self.process = self._command.start([self._name], environment | self._variables, self.log)

    @property
    def runs(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def logged(self, text: str) -> int:
        """Return how often the log contains this text as the name of a record."""
        return self.log.read_text().count(f'"event": "{text}"') if self.log.exists() else 0

    def wait_until_logged(self, text: str) -> None:
        """Return when the log contains this text; fail if the process has ended before."""
        until(lambda: self.logged(text) or not self.runs)
        assert self.runs, self.log.read_text()

    def end(self, stop_signal: signal.Signals) -> int:
        """Send a signal to the process; return its exit code."""
        self.process.send_signal(stop_signal)
        return self.process.wait(30)

    def kill(self) -> None:
        """End it at once, in the middle of its work."""
        self.process.kill()
