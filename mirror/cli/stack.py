"""`mirror demo` and `mirror dev`: run the trip chat example, with all servers, on this machine.

The example is a separate application: the one in the checkout, or its copy in the wheel.
`mirror dev --empty` runs the servers without it.
"""

import os
import shlex
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn
from uuid import uuid4

import psycopg
import typer

from mirror.cli.signals import interrupt_once
from mirror.devstack import DevStack
from mirror.errors import ConfigError

# Nothing has to be cleaned up before the example itself handles Ctrl-C.
_PROGRAM = """
from mirror.cli.signals import leave_at_interrupt
leave_at_interrupt()
import runpy
runpy.run_module("examples.trip_chat", run_name="__main__", alter_sys=True)
"""

_Rest = Annotated[
    bool,
    typer.Option(
        "--rest", help="Use only the target's REST API (needs a checkout, and Node with npm)."
    ),
]


def demo(rest: _Rest = False) -> None:
    """Run the trip chat example on real servers, check every expectation, and clean up."""
    _run_example("demo", rest=rest)


def dev(
    rest: _Rest = False,
    empty: Annotated[
        bool,
        typer.Option(
            "--empty", help="Only the servers, with two users and no other row; no worker."
        ),
    ] = False,
) -> None:
    """Run the demo's servers and a worker until Ctrl-C, and print their URLs."""
    if empty and rest:
        raise ConfigError("--empty starts no REST API: leave out --rest.")
    if empty:
        _run_empty_servers()
    else:
        _run_example("dev", rest=rest)


def _run_empty_servers() -> None:
    """Run an empty primary, an empty project and Redis until Ctrl-C; print text for a shell."""
    interrupt_once()
    # Once the servers run, Ctrl-C is the orderly end, also while their URLs are printed.
    with DevStack.start() as stack, suppress(KeyboardInterrupt):
        users = {name: str(uuid4()) for name in ("ADA", "EVE")}
        with psycopg.connect(stack.supabase_db_url) as project:
            for name, user in users.items():
                project.execute(
                    "insert into auth.users (id, email) values (%s, %s)",
                    [user, f"{name.lower()}@example.com"],
                )
        for name, value in (stack.environment() | users).items():
            print(f"export {name}={shlex.quote(value)}")
        print("# The servers run. Ctrl-C stops them and deletes the data.", flush=True)
        signal.pause()


def _run_example(command: str, *, rest: bool) -> NoReturn:
    """Replace this process by one that runs the example; it handles signals and the exit code.

    Raises:
        ConfigError: `rest` is set, and the example is not that of a checkout.
    """
    package = Path(__file__).parent.parent
    home = package.parent
    if not (home / "examples" / "trip_chat" / "story.py").is_file():
        home = package / "_demo"
        if rest:
            raise ConfigError("--rest needs an npm package of a checkout; run the command there.")
    paths = [str(home), *filter(None, [os.environ.get("PYTHONPATH")])]
    # -P keeps Python from importing a module `examples` from the user's working directory.
    arguments = ["-P", "-c", _PROGRAM, command, *(["--rest"] if rest else [])]
    os.execve(  # noqa: S606 - this interpreter
        sys.executable,
        [sys.executable, *arguments],
        os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
