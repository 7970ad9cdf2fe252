"""Run `make test-fast`, and how programs start, on each Python of pyproject.toml.

The script looks for interpreters in PATH, among pyenv's and among uv's; it downloads none. Each one
gets its own environment under `.venvs/`. Versions given as arguments replace the promised ones.

Exit codes: 0 if every version that was found passed; 1 if one failed; 2 if none was found.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Which modules a start imports depends on the version, too.
_STARTS = ("tests/acceptance/test_command_start.py", "tests/acceptance/test_imports.py")


def promised() -> list[str]:
    """Return the versions that the classifiers of pyproject.toml name, as `3.12`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = (re.search(r"Python :: (3\.\d+)$", line) for line in project["classifiers"])
    return [match[1] for match in found if match]


def candidates(version: str) -> Iterator[Path]:
    """Yield paths where an interpreter of this version may be; some do not exist or do not run."""
    for directory in os.get_exec_path():
        yield Path(directory) / f"python{version}"
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT", home / ".pyenv")) / "versions"
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", home / ".local/share/uv/python"))
    for installed in (pyenv, uv):
        yield from sorted(installed.glob(f"*/bin/python{version}"))


def interpreter(version: str) -> Path | None:
    """Return a CPython of this version that can create virtual environments, or None."""
    ask = "import ensurepip, sys; print(sys.implementation.name, *sys.version_info[:2])"
    for program in candidates(version):
        if shutil.which(program) is None:
            continue
        # pyenv's shim exists for every version, but fails for a version that is not selected.
        done = subprocess.run([program, "-c", ask], capture_output=True, text=True, check=False)
        if done.stdout.split() == ["cpython", *version.split(".")]:
            return program
    return None


def passes(version: str, program: Path) -> bool:
    """Run the tests on this interpreter in its own environment; return whether they passed."""
    print(f"\n== Python {version}: {program}", flush=True)
    environment = f".venvs/{version}"
    command = ["make", "--no-print-directory", f"VENV={environment}", f"PYTHON={program}"]
    command += ["test-fast", f"TESTS={' '.join(_STARTS)}"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def main(versions: list[str]) -> int:
    """Run the tests on each version that was found, print the results, and return the exit code."""
    found = {version: interpreter(version) for version in versions}
    outcomes = {
        version: "is not on this machine: NOT TESTED"
        if program is None
        else "passed"
        if passes(version, program)
        else "FAILED"
        for version, program in found.items()
    }
    print()
    for version, outcome in outcomes.items():
        print(f"Python {version} {outcome}")
    if not any(found.values()):
        return 2
    return 1 if "FAILED" in outcomes.values() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or promised()))
