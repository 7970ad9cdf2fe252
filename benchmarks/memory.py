"""What memory a load, a reconcile and a worker take beyond that of an idle process."""

from benchmarks.apart import apart, compare, resync
from benchmarks.measuring import Report
from benchmarks.stage import stage


def main(report: Report, *, quick: bool) -> None:
    """Measure among a million rows, and among five."""
    sizes = (10_000, 20_000) if quick else (1_000_000, 5_000_000)
    for rows in sizes:
        with stage() as here:
            here.fill(rows)
            _, memory = apart(here, compare)
            report.add(f"memory of a first load, {rows:,} memberships", "MB", memory)
            here.target.execute("vacuum analyze")
            seconds, memory = apart(here, compare)
            report.add(f"memory of a reconcile, {rows:,} memberships", "MB", memory)
            report.add(f"reconcile, equal, of {rows:,}", "s", seconds)
            here.drift(rows // 100)
            seconds, memory = apart(here, compare)
            report.add(f"memory of a repair of {rows // 100:,}", "MB", memory)
            report.add(f"reconcile, {rows // 100:,} drifted, of {rows:,}", "s", seconds)
            if rows == sizes[0]:
                _, memory = apart(here, resync)
                report.add(f"memory of a worker, {rows:,} memberships", "MB", memory)
