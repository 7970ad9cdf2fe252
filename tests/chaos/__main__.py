"""`python -m tests.chaos`: one run; exits with 1 if an invariant was violated.

The seed decides which changes and which faults follow each other. How they meet depends on the
machine, so another run with the same seed need not find the same fault.
"""

# ruff: noqa: T201 - it prints the report.

import argparse
import logging
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import Plan, run

_MEMORY = Path("/dev/shm")  # noqa: S108 - each run has its own directory in it


def main() -> int:
    """Parse the arguments, run, and print the report."""
    parser = argparse.ArgumentParser(prog="make chaos")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--transport", choices=["postgres", "rest"])
    chosen = parser.parse_args()
    again = f"make chaos SEED={chosen.seed} SECONDS={chosen.seconds:g}"
    if chosen.transport:
        again += f" TRANSPORT={chosen.transport}"
    print(again, flush=True)
    # Doorbells and reconciles log each fault that they survive.
    logging.disable(logging.ERROR)
    place = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="permission-mirror-chaos-", dir=place) as home:
        # If root runs it, the servers' account must be able to enter the directory.
        Path(home).chmod(0o711)
        report = run(Plan(chosen.seed, chosen.seconds, chosen.transport), Path(home))
    print(report)
    if report.violations:
        print(f"An invariant was violated. Repeat it with: {again}", file=sys.stderr)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
