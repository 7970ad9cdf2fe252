"""Scale: one run with many memberships, a user for each ten; no ratios, only figures.

Twenty million take about 65 minutes, and more than 12 GB of disk.
"""

import json
from contextlib import closing

import psycopg
from psycopg import sql

from benchmarks.measuring import Report
from benchmarks.own_process import compare, measure_process
from benchmarks.servers import Servers, milliseconds, start_servers, timed

_SIZES = """
select pg_total_relation_size('public.trip_memberships')::float8,
  pg_total_relation_size('mirror.ledger_trip_memberships')::float8
"""
# The primary key first, foreign keys last.
_CONSTRAINTS = """
select conname, pg_get_constraintdef(oid) from pg_constraint
where conrelid = 'trip_memberships'::regclass order by contype = 'p' desc, contype = 'f'
"""
_DROP = "alter table trip_memberships drop constraint {}"
_ADD = "alter table trip_memberships add constraint {} {}"
_KEYS = """
select trip_id::text, user_id::text from trip_memberships order by random() limit %s
"""
_EVENT = "insert into mirror.outbox (lane, mapping, key) values (1, 'trip_memberships', %s)"
_MEMBERS = "select * from public.trip_memberships where trip_id = %s"


def main(report: Report, *, quick: bool, rows: int = 20_000_000) -> None:
    """Measure a first load, reconciles, single events and a client's query."""
    rows = 20_000 if quick else rows
    name = f"{rows:,} memberships"
    with start_servers() as servers:
        report.add(
            f"the backend's own rows are made, {name}", "s", timed(lambda: _fill(servers, rows))
        )
        seconds, megabytes = measure_process(servers, compare)
        report.add(f"first load, {name}", "s", seconds)
        report.add(f"first load, {name}, memory", "MB", megabytes)
        table, ledger = servers.target.execute(_SIZES.encode()).fetchone() or (0, 0)
        report.add(f"table and its indexes, {name}", "bytes", float(str(table)) / rows)
        report.add(f"ledger and its indexes, {name}", "bytes", float(str(ledger)) / rows)
        report.add(f"vacuum analyze of the target, {name}", "s", timed(lambda: _vacuum(servers)))
        for what, drifted in (("equal", 0), ("a thousandth drifted", rows // 1000)):
            servers.drift(drifted)
            seconds, megabytes = measure_process(servers, compare)
            report.add(f"reconcile, {what}, {name}", "s", seconds)
            report.add(f"reconcile, {what}, {name}, memory", "MB", megabytes)
        _measure_events(report, servers, name, 20 if quick else 300)
        _measure_query(report, servers, name, 20 if quick else 300)


def _fill(servers: Servers, rows: int) -> None:
    """Fill the primary; its largest table gets keys and indexes afterwards, which is faster."""
    found = servers.primary.execute(_CONSTRAINTS).fetchall()
    for name, _ in found:
        servers.primary.execute(sql.SQL(_DROP).format(sql.Identifier(str(name))))
    servers.fill(rows, trips_per_user=10)
    for name, definition in found:
        servers.primary.execute(
            sql.SQL(_ADD).format(sql.Identifier(str(name)), sql.SQL(str(definition)))
        )
    servers.primary.execute("vacuum analyze trip_memberships")


def _vacuum(servers: Servers) -> None:
    servers.target.execute("vacuum analyze")


def _measure_events(report: Report, servers: Servers, name: str, times: int) -> None:
    """Measure drains of one event each, for rows anywhere in the table."""
    keys = servers.primary.execute(_KEYS, [times]).fetchall()
    with closing(servers.drain()) as drain:
        drain.run()
        values = []
        for key in keys:
            servers.primary.execute(_EVENT, [list(key)])
            values += milliseconds(drain.run, 1)
        report.add(f"a drain of one event, {name}", "ms", *values)


def _measure_query(report: Report, servers: Servers, name: str, times: int) -> None:
    """Measure how a member reads the hundred members of a trip, and how the owner does."""
    trip, user = servers.primary.execute(_KEYS, [1]).fetchone() or ("", "")
    with psycopg.connect(servers.stack.supabase_db_url) as client:

        def ask() -> None:
            rows = client.execute(_MEMBERS, [trip]).fetchall()
            if not rows:
                raise AssertionError

        for who in ("without", "with"):
            if who == "with":
                claims = json.dumps({"sub": user})
                client.execute("select set_config('request.jwt.claims', %s, false)", [claims])
                client.execute("set role authenticated")
            values = milliseconds(ask, times + 3)[3:]
            report.add(f"the 100 members of a trip, {who} RLS, {name}", "ms", *values)
