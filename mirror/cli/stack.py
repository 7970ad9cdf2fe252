"""`mirror demo` and `mirror dev`: the whole mirror on this machine.

Both hand over to the trip chat example, an application of its own: in a checkout the one there,
else the copy that the wheel carries.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from mirror.errors import ConfigError

_Rest = Annotated[
    bool,
    typer.Option("--rest", help="Reach the target by its REST API alone (a checkout, npm)."),
]


def demo(rest: _Rest = False) -> None:
    """Play the trip chat example on real servers, check every expectation, clean up."""
    _become("demo", rest=rest)


def dev(rest: _Rest = False) -> None:
    """Run the same stack until Ctrl-C, and print how to reach it."""
    _become("dev", rest=rest)


def _become(command: str, *, rest: bool) -> NoReturn:
    """Replace this process by the example's, so that signals and exit codes are its own."""
    package = Path(__file__).parent.parent
    home = package.parent
    if not (home / "examples" / "trip_chat" / "story.py").is_file():
        home = package / "_demo"
        if rest:
            raise ConfigError("--rest takes the npm package of a checkout; run it there.")
    paths = [str(home), *filter(None, [os.environ.get("PYTHONPATH")])]
    # -P: a module of the user's that is called `examples` is not this one.
    arguments = ["-P", "-m", "examples.trip_chat", command, *(["--rest"] if rest else [])]
    os.execve(  # noqa: S606 - our own interpreter
        sys.executable,
        [sys.executable, *arguments],
        os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
