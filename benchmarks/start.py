"""Start: measures the CPU time of the `mirror` command before it does anything."""

import resource
import subprocess
import sys
from pathlib import Path

from benchmarks.measuring import Report

_HOME = Path(__file__).parent.parent
_COMMAND = "from mirror.cli import main; main()"
_PROGRAMS = {
    "a bare interpreter": ("pass",),
    "mirror --version": (_COMMAND, "--version"),
    "mirror --help": (_COMMAND, "--help"),
    "mirror status --help": (_COMMAND, "status", "--help"),
    "import mirror.hooks": ("import mirror.hooks",),
}


def main(report: Report, *, quick: bool) -> None:
    """Measure each program in turns, in new processes."""
    for _ in range(1 if quick else 20):
        for what, arguments in _PROGRAMS.items():
            report.add(what, "ms", _cpu_milliseconds(*arguments))
    bare = "a bare interpreter"
    for what, goal in (("mirror --version", 15), ("mirror --help", 25)):
        report.ratio(f"{what}, CPU to a bare interpreter", what, bare, at_most=goal)


def _cpu_milliseconds(*arguments: str) -> float:
    """Run a program of Python, and return the time for which it kept a core busy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", *arguments], cwd=_HOME, stdout=subprocess.DEVNULL, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000
