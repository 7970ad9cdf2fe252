"""Reconcile: measures a first load, and reconciles of many memberships.

Each runs in a process of its own that already has its connections. For comparison: a bare query
that hashes the same rows, a bare batched INSERT, and reladiff if it is installed.
"""

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.measuring import Report
from benchmarks.own_process import compare, measure_process
from benchmarks.servers import Servers, start_servers, timed
from mappings.trips import registry

_BARE = """
insert into public.bare (trip_id, user_id, role, status)
select * from unnest(%s::uuid[], %s::uuid[], %s::text[], %s::text[])
on conflict (trip_id, user_id) do update set role = excluded.role, status = excluded.status
"""


def main(report: Report, *, quick: bool, rows: int = 1_000_000) -> None:
    """Measure a load, then reconciles of equal sides and of sides that differ."""
    rows = 20_000 if quick else rows
    times = 1 if quick else 3
    name = f"{rows:,} memberships"
    with start_servers() as servers:
        servers.fill(rows)
        report.add(f"bare batched insert, {name}", "rows/s", rows / _insert_bare(servers))
        seconds, _ = measure_process(servers, compare)
        report.add(f"first load, {name}", "rows/s", (rows + rows // 20 + rows // 100) / seconds)
        servers.target.execute("vacuum analyze")
        for _ in range(times):
            report.add(f"bare digest, {name}", "s", _digest_bare(servers))
            seconds, _ = measure_process(servers, compare)
            report.add(f"reconcile, equal, {name}", "s", seconds)
            _compare_commands(report, servers, name)
            for count in (10, 10_000):
                servers.drift(count)
                seconds, _ = measure_process(servers, compare)
                report.add(f"reconcile, {count:,} drifted, {name}", "s", seconds)
    digest = f"bare digest, {name}"
    report.ratio(
        "first load to a bare insert",
        f"first load, {name}",
        f"bare batched insert, {name}",
        at_least=0.65,
    )
    report.ratio(
        "reconcile, equal, to a bare digest", f"reconcile, equal, {name}", digest, at_most=1.4
    )
    report.ratio(
        "reconcile, 10,000 drifted, to a bare digest",
        f"reconcile, 10,000 drifted, {name}",
        digest,
        at_most=5,
    )
    report.ratio(
        "mirror reconcile to reladiff, whole commands",
        f"command: mirror reconcile --dry-run, {name}",
        f"command: reladiff, {name}",
        at_most=1,
    )


def _compare_commands(report: Report, servers: Servers, name: str) -> None:
    report.add(
        f"command: mirror reconcile --dry-run, {name}", "s", timed(lambda: _command(servers))
    )
    program = os.environ.get("RELADIFF") or shutil.which("reladiff")
    if program is None:
        return
    options = ["-k", "trip_id", "-k", "user_id", "-c", "status", "--json"]
    table = "trip_memberships"
    sides = [servers.stack.primary_url, table, servers.stack.supabase_db_url, table]

    def run() -> None:
        done = subprocess.run(
            [program, *sides, *options], capture_output=True, text=True, check=False
        )
        if done.returncode or done.stdout.strip():
            raise AssertionError(done.stderr[-1000:] + done.stdout[-1000:])

    report.add(f"command: reladiff, {name}", "s", timed(run))


def _command(servers: Servers) -> None:
    environment = servers.environment | {"MIRROR_RECONCILE_GRACE_SECONDS": "0"}
    program = Path(sys.executable).parent / "mirror"
    subprocess.run(
        [program, "reconcile", "--dry-run"], env=environment, capture_output=True, check=True
    )


# Without the mirror


def _digest_bare(servers: Servers) -> float:
    """Return the seconds that the slower side takes to hash the rows of all mappings."""
    hashed = "select count(*), sum(hash_record_extended(row({}), 7)) from {}"
    sides: dict[str, float] = {}
    for mapping in registry:
        texts = ", ".join(f'q."{column.name}"::text collate "C"' for column in mapping.columns)
        tables = {"primary": f"({mapping.sql}) as q", "target": f"public.{mapping.table} as q"}
        for side, connection in (("primary", servers.primary), ("target", servers.target)):
            query = hashed.format(texts, tables[side]).encode()
            connection.execute("set max_parallel_workers_per_gather = 0")
            sides[side] = sides.get(side, 0) + timed(partial(connection.execute, query))
            connection.execute("reset max_parallel_workers_per_gather")
    return max(sides.values())


def _insert_bare(servers: Servers) -> float:
    """Return the seconds of plain INSERTs of all memberships."""
    servers.target.execute(
        "create table public.bare (trip_id uuid, user_id uuid, role text, status text,"
        " primary key (trip_id, user_id), unique (user_id, trip_id))"
    )

    def write() -> None:
        with servers.primary.transaction(), servers.primary.cursor("all") as cursor:
            cursor.execute(
                "select trip_id::text, user_id::text, role::text, status::text"
                " from trip_memberships order by trip_id, user_id"
            )
            while batch := cursor.fetchmany(2000):
                columns = zip(*batch, strict=True)
                servers.target.execute(_BARE, [list(column) for column in columns])

    seconds = timed(write)
    servers.target.execute("drop table public.bare")
    return seconds
