"""Forking: runs the `mirror` command without the time that Python takes to import its modules.

A process imports them once. For each run it forks a child, which is a process of its own with its
own arguments, environment, output and exit code. tests/acceptance/test_wheel.py and test_demo.py
run the installed script instead.
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
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn, Self

HOME = Path(__file__).parent.parent.parent
_SECONDS = 60
"""A run that takes longer is killed."""


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
    """A process that runs `mirror` in children; leaving the context manager ends it."""

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
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with tempfile.TemporaryDirectory() as output:
            out, err = Path(output, "out"), Path(output, "err")
            order = [list(arguments), dict(environment), str(directory), module, str(out), str(err)]
            self._server.stdin.write(json.dumps(order) + "\n")
            self._server.stdin.flush()
            code = int(self._server.stdout.readline())
            return Ran(code, out.read_text(), err.read_text())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()


def _serve() -> None:
    """Fork a child for each order on standard input, and answer with its exit code."""
    import mirror.cli  # noqa: PLC0415 - in the server only

    # Some modules are imported when a command needs them.
    for name in ("mirror.sync", "mirror.diagnostics", "mirror.reconcile", "mirror.schema"):
        for module in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}."):
            importlib.import_module(module.name)
    # Children that collect garbage would copy the pages of all modules.
    gc.freeze()
    for line in sys.stdin:
        arguments, environment, directory, module, out, err = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(environment, out, err)
            os.chdir(directory)
            sys.argv = [module or "mirror", *arguments]
            _end(_code_of(partial(_run_module, module) if module else mirror.cli.main))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201 - the answer


def _run_module(name: str) -> None:
    """Run a module of the current directory as a program."""
    sys.path.insert(0, str(Path.cwd()))
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _become(environment: Mapping[str, str], out: str, err: str) -> None:
    """Take an environment, and files for output, in place of the server's."""
    for number, path in enumerate((os.devnull, out, err)):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    signal.alarm(_SECONDS)
    os.environ.clear()
    os.environ.update(environment)


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
