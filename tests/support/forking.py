"""Forking: runs Python programs without the time that Python takes to import their modules.

A process imports them once. For each run it forks a child, which is a process of its own with its
own arguments, environment, output and exit code. test_wheel.py, test_demo.py, test_serve.py and
test_command_start.py in tests/acceptance run the installed script instead.
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn, Self

import pytest

import mirror.cli

HOME = Path(__file__).parent.parent.parent
_SECONDS = 60
"""A run that takes longer is killed."""

_PACKAGES = ("mirror.cli", "mirror.diagnostics", "mirror.reconcile", "mirror.schema", "mirror.sync")
_MODULES = ("rich.markdown", "celery.bin.celery", "celery.apps.worker", "celery.apps.beat")


@dataclass
class Ran:
    """The result of a finished command."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Standard output and standard error together."""
        return self.out + self.err


class ForkingCommand:
    """A process that runs `mirror`, or another program, in children.

    Leaving the context manager ends it, but not its children.
    """

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forking"],
            cwd=HOME,
            # Without the caller's settings; each run has its own.
            env={"PATH": os.environ["PATH"], "PYTHONWARNINGS": "error", "PYTHONPATH": str(HOME)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lock = threading.Lock()

    def run(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        directory: Path = HOME,
        module: str = "",
    ) -> Ran:
        """Run `mirror` with these arguments, in exactly this environment and this directory.

        `module` is run instead of it if it is not empty, as `python -m` does.
        """
        with tempfile.TemporaryDirectory() as output:
            out, err = Path(output, "out"), Path(output, "err")
            files = [str(out), str(err)]
            pid = self._ask(
                _fork, list(arguments), dict(environment), str(directory), module, files, _SECONDS
            )
            code = self._ask(_exit_code, pid, 0)
            assert code is not None
            return Ran(code, out.read_text(), err.read_text())

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        module: str = "",
    ) -> "ForkedProcess":
        """Start what `run` runs, in a session of its own; its output is appended to `log`."""
        files = [str(log), str(log)]
        pid = self._ask(_fork, list(arguments), dict(environment), str(HOME), module, files, 0)
        assert pid is not None
        return ForkedProcess(pid, lambda: self._ask(_exit_code, pid, os.WNOHANG))

    def _ask(self, function: Callable[..., int | None], *arguments: object) -> int | None:
        """Call a function in the process."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with self._lock:
            self._server.stdin.write(json.dumps([function.__name__, *arguments]) + "\n")
            self._server.stdin.flush()
            answer: int | None = json.loads(self._server.stdout.readline())
            return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()


class ForkedProcess:
    """A running child, with the methods of `subprocess.Popen` that tests need."""

    def __init__(self, pid: int, ask: Callable[[], int | None]) -> None:
        self.pid = pid
        self._ask = ask
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, or the negative number of the signal; None if the child runs."""
        if self._code is None:
            self._code = self._ask()
        return self._code

    def wait(self, seconds: float) -> int:
        """Return the exit code as soon as the child has ended.

        Raises:
            subprocess.TimeoutExpired: the child runs longer than that.
        """
        end = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), seconds)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the child has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the child and its own children at once, in the middle of their work."""
        # A child that has just begun leads no group yet.
        self.send_signal(signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait(30)


@pytest.fixture(scope="session")
def forking_command() -> Iterator[ForkingCommand]:
    """The process of which each run is a child."""
    with ForkingCommand() as command:
        yield command


def _serve() -> None:
    """Import what children need, and answer the orders on standard input."""
    for name in _PACKAGES:
        package = importlib.import_module(name)
        # Some modules are imported when a command needs them.
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            importlib.import_module(module.name)
    for name in _MODULES:
        importlib.import_module(name)
    # Children that collect garbage would copy the pages of all modules.
    gc.freeze()
    functions = {function.__name__: function for function in (_fork, _exit_code)}
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(functions[name](*arguments)), flush=True)  # noqa: T201 - the answer


def _fork(
    arguments: list[str],
    environment: dict[str, str],
    directory: str,
    module: str,
    files: list[str],
    seconds: int,
) -> int:
    """Start a child, which is killed after some seconds (0: never); return its process id."""
    child = os.fork()
    if child == 0:
        signal.alarm(seconds)
        _become(environment, *files)
        os.chdir(directory)
        sys.argv = [module or "mirror", *arguments]
        _end(_code_of(partial(_run_module, module) if module else mirror.cli.main))
    return child


def _exit_code(child: int, options: int) -> int | None:
    """Return a child's exit code; with WNOHANG, None if it runs."""
    ended, status = os.waitpid(child, options)
    return os.waitstatus_to_exitcode(status) if ended else None


def _run_module(name: str) -> None:
    """Run a module of the current directory as a program."""
    sys.path.insert(0, str(Path.cwd()))
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _become(environment: Mapping[str, str], out: str, err: str) -> None:
    """Take an environment, a session, and files for output, in place of the server's."""
    os.setsid()
    for number, path in enumerate((os.devnull, out, err)):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    if "PYTHONWARNINGS" in environment:
        warnings._processoptions(environment["PYTHONWARNINGS"].split(","))  # type: ignore[attr-defined]


def _code_of(main: Callable[[], None]) -> int:
    """Run a program; return its exit code as the interpreter would."""
    try:
        main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
        return 1
    except BaseException:  # noqa: BLE001 - the interpreter's last resort
        traceback.print_exc()
        return 1
    return 0


def _end(code: int) -> NoReturn:
    """End this process as the interpreter does, but do not take all modules apart before."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
