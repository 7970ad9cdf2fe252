"""`python -m benchmarks [part ...]`: measures, or compares with an older commit by `--against REV`.

Without parts it measures all of them. `--help` lists the parts and the options.
"""

import argparse
import signal
import sys
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
    scale,
    shares,
    soak,
    start,
    throughput,
    workers,
)
from benchmarks.against import HOME, commit_of, compare
from benchmarks.measuring import Report

PARTS: dict[str, Callable[..., None]] = {
    "capture": capture.main,
    "policies": policies.main,
    "shares": shares.main,
    "throughput": throughput.main,
    "distance": distance.main,
    "latency": latency.main,
    "outbox": outbox.main,
    "growth": growth.main,
    "reconcile": reconcile.main,
    "memory": memory.main,
    "workers": workers.main,
    "start": start.main,
}
NAMED_ONLY: dict[str, Callable[..., None]] = {"scale": scale.main, "soak": soak.main}
"""These run only if they are named: `soak` takes an hour, `scale` long and much disk."""
# The options that only some parts have.
TAKEN_BY = {
    "rows": ("reconcile", "scale", "soak"),
    "target": ("policies",),
    "minutes": ("soak",),
    "picture": ("soak",),
    "samples": ("soak",),
}


def main() -> None:
    """Run the parts one after the other; print each figure at once, and tables at the end."""
    parser = argparse.ArgumentParser(prog="benchmarks")
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS | NAMED_ONLY))
    parser.add_argument("--quick", action="store_true", help="small sizes: shows only that it runs")
    parser.add_argument("--rows", type=int, help="memberships of `reconcile`, `scale`, `soak`")
    parser.add_argument("--target", type=int, help="the PostgreSQL of the target of `policies`; 18")
    parser.add_argument("--minutes", type=float, help="how long `soak` writes; an hour")
    parser.add_argument("--picture", type=Path, help="`soak` draws its curves here, as an SVG")
    parser.add_argument("--samples", type=Path, help="`soak` writes its samples here, as JSON")
    parser.add_argument("--json", type=Path, help="write all values here at the end")
    parser.add_argument("--keep", type=Path, help="append each figure here as it is measured")
    parser.add_argument("--against", metavar="REV", help="a commit to compare the parts with")
    parser.add_argument("--runs", type=int, default=5, help="how often each commit runs a part")
    options = parser.parse_args()
    # `kill` stops the servers, removes the worktree and prints the tables, like Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if unknown := set(options.parts) - set(PARTS | NAMED_ONLY):
        parser.error(
            f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS | NAMED_ONLY)}"
        )
    if options.against is None:
        _measure(options)
    elif not options.parts:
        parser.error("--against needs the parts to compare: all of them take hours")
    elif options.json is not None:
        parser.error("--against writes no --json; it appends every figure to the file of --keep")
    else:
        sizes = ["--quick"] if options.quick else []
        for name in ("rows", "target", "minutes"):
            value = getattr(options, name)
            sizes += [f"--{name}", str(value)] if value is not None else []
        compare(options.against, options.parts, sizes, runs=options.runs, keep=options.keep)


def _measure(options: argparse.Namespace) -> None:
    parts = PARTS | NAMED_ONLY
    for option, takers in TAKEN_BY.items():
        if (value := getattr(options, option)) is not None:
            for name in takers:
                parts[name] = partial(parts[name], **{option: value})
    report = Report(options.keep, {"commit": commit_of(HOME)} if options.keep else {})
    try:
        for name in options.parts or PARTS:
            report.part = name
            parts[name](report, quick=options.quick)
    finally:
        # Also when the run is cut off.
        print(report.markdown())
        if options.json:
            report.save(options.json)


# Processes that measure on their own import this module, too.
if __name__ == "__main__":
    main()
