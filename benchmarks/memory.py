"""Memory: measures how much more memory than an idle process some work takes.

The work is a load, a reconcile, a repair, and that of a worker.
"""

from benchmarks.measuring import Report
from benchmarks.own_process import compare, measure_process, resync
from benchmarks.servers import start_servers


def main(report: Report, *, quick: bool) -> None:
    """Measure with one million rows, and with five."""
    sizes = (10_000, 20_000) if quick else (1_000_000, 5_000_000)
    for rows in sizes:
        with start_servers() as servers:
            servers.fill(rows)
            _, memory = measure_process(servers, compare)
            report.add(f"memory of a first load, {rows:,} memberships", "MB", memory)
            servers.target.execute("vacuum analyze")
            seconds, memory = measure_process(servers, compare)
            report.add(f"memory of a reconcile, {rows:,} memberships", "MB", memory)
            report.add(f"reconcile, equal, of {rows:,}", "s", seconds)
            servers.drift(rows // 100)
            seconds, memory = measure_process(servers, compare)
            report.add(f"memory of a repair of {rows // 100:,}", "MB", memory)
            report.add(f"reconcile, {rows // 100:,} drifted, of {rows:,}", "s", seconds)
            if rows == sizes[0]:
                _, memory = measure_process(servers, resync)
                report.add(f"memory of a worker, {rows:,} memberships", "MB", memory)
