"""`python -m benchmarks [--quick] [--json FILE] [--rows N] [part ...]`.

Parts: capture, policies, shares, throughput, distance, latency, outbox, growth, reconcile, memory.
All of them if none is named. `--rows` is how many memberships `reconcile` compares.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import (
    capture,
    distance,
    growth,
    latency,
    memory,
    outbox,
    policies,
    reconcile,
    shares,
    throughput,
)
from benchmarks.measuring import Report


def main() -> None:
    """Run the parts, one after the other; print all figures."""
    parser = argparse.ArgumentParser(prog="benchmarks")
    parser.add_argument("parts", nargs="*")
    parser.add_argument("--quick", action="store_true", help="Small; says only that it runs.")
    parser.add_argument("--json", type=Path, help="Where to write every value, too.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    parts: dict[str, Callable[..., None]] = {
        "capture": capture.main,
        "policies": policies.main,
        "shares": shares.main,
        "throughput": throughput.main,
        "distance": distance.main,
        "latency": latency.main,
        "outbox": outbox.main,
        "growth": growth.main,
        "reconcile": partial(reconcile.main, rows=options.rows),
        "memory": memory.main,
    }
    if unknown := set(options.parts) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    report = Report()
    for name in options.parts or parts:
        parts[name](report, quick=options.quick)
    print(report.markdown())
    if options.json:
        report.save(options.json)


# Processes that measure apart import this module, too.
if __name__ == "__main__":
    main()
