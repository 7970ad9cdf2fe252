"""Services: commands of `mirror`, and Celery workers, that run until they are stopped."""

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from mirror.devstack.process import ServerProcess
from mirror.devstack.worker import WorkerProcess
from tests.support.forking import HOME, ForkingCommand
from tests.support.waiting import until


class Service:
    """A running command, and its log, to which later starts append."""

    def __init__(
        self, command: ForkingCommand, name: str, log: Path, variables: dict[str, str]
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
        self.log.touch()
        self.process = self._command.start([self._name], environment | self._variables, self.log)

    @property
    def runs(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def logged(self, text: str) -> int:
        """Return how often the log contains this text as the name of a record."""
        return self.log.read_text().count(f'"event": "{text}"')

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


def forked_workers(forking: ForkingCommand) -> type[WorkerProcess]:
    """Return a class of Celery workers that are children of the forking process."""

    class ForkedServer(ServerProcess):
        def _launch(
            self, command: list[str], output: BinaryIO, options: Mapping[str, Any]
        ) -> subprocess.Popen[bytes]:
            # It is `python -m celery …`. Celery warns of root.
            module, arguments = command[2], command[3:]
            environment = {**options["env"], "PYTHONWARNINGS": "default"}
            child = forking.start(arguments, environment, Path(output.name), module)
            return cast("subprocess.Popen[bytes]", child)

    class ForkedWorker(WorkerProcess):
        _process_class = ForkedServer

    return ForkedWorker
