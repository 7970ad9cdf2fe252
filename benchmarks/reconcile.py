"""How long a reconcile of many memberships takes, how much it moves, how much memory it needs.

`python -m benchmarks.reconcile [memberships]`: two real servers on this machine, PostgreSQL 16 and
18, with fsync. First the load of an empty target, against a bare batched INSERT of the same rows;
then runs over an equal target with a number of rows that were edited by hand.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy import NullPool, create_engine

from examples.trip_chat import models
from mappings.trips import registry
from mirror.assembly import build_drain
from mirror.config import load_settings
from mirror.devstack import PostgresCluster, prepare_cluster, prepare_database
from mirror.drain import Drain
from mirror.migrations import upgrade
from mirror.reconcile import Options, Report, Throttle, reconcile

_FILL = """
insert into users (id, email, username)
select gen_random_uuid(), 'user' || n || '@example.com', 'user' || n
from generate_series(1, %(users)s) as n;
create table numbered as select id, row_number() over (order by id) as n from users;
insert into trips (id, name, created_by)
select gen_random_uuid(), 'Trip ' || n, (select id from numbered where n = 1)
from generate_series(1, %(trips)s) as n;
insert into trip_memberships (trip_id, user_id, role, status)
select t.id, u.id, 'MEMBER', 'ACTIVE'
from (select id, row_number() over () as n from trips) as t
cross join generate_series(1, %(each)s) as m
join numbered as u on u.n = 1 + (t.n * 7919 + m * 104729) %% %(users)s;
drop table numbered;
analyze
"""

_BARE = """
insert into bare (trip_id, user_id, role, status)
select * from unnest(%s::uuid[], %s::uuid[], %s::text[], %s::text[])
on conflict (trip_id, user_id) do update set role = excluded.role, status = excluded.status
"""

_DRIFT = """
update trip_memberships set role = 'OWNER' where (trip_id, user_id) in (
  select trip_id, user_id from trip_memberships order by random() limit %s
)
"""


def main() -> None:
    """Print a line for each case."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as directory, _databases(Path(directory)) as (one, two):
        with psycopg.connect(one, autocommit=True) as primary:
            sizes = {"users": rows // 20, "trips": rows // 100, "each": 100}
            for statement in _FILL.split(";"):
                primary.execute(statement, sizes)
        print(f"bare INSERT ... ON CONFLICT   {_bare(one, two):>9,.0f} rows/s")
        drain = build_drain(load_settings(primary_database_url=one, supabase_db_url=two), registry)
        _tell("first load", _run(drain), rows)
        with psycopg.connect(two, autocommit=True) as target:
            target.execute("vacuum analyze")
            for count in (0, 10, 10_000):
                target.execute(_DRIFT, [count])
                _tell(f"{count} drifted", _run(drain), rows)
        drain.close()


def _run(drain: Drain) -> Report:
    throttle = Throttle(drain.queue.notes, backlog=1_000_000, latency_seconds=60)
    return reconcile(drain, Options(grace_seconds=0), throttle)


def _tell(what: str, report: Report, rows: int) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{what:<16} {report.seconds:>7.2f} s {rows / report.seconds:>10,.0f} rows/s"
        f" {report.bytes_moved / 1e6:>8.2f} MB moved, peak {peak:.0f} MB, {report.outcome},"
        f" {sum(part.repaired for part in report.mappings)} repaired"
    )


def _bare(one: str, two: str) -> float:
    """Return how fast rows can be written with nothing of ours, through one connection."""
    with psycopg.connect(one) as primary, psycopg.connect(two, autocommit=True) as target:
        target.execute(
            "create table public.bare (trip_id uuid, user_id uuid, role text, status text,"
            " primary key (trip_id, user_id), unique (user_id, trip_id))"
        )
        cursor = primary.cursor(name="all")
        cursor.execute(
            "select trip_id::text, user_id::text, role::text, status::text from trip_memberships"
            " order by trip_id, user_id"
        )
        began = time.monotonic()
        count = 0
        while batch := cursor.fetchmany(2000):
            target.execute(_BARE, [list(column) for column in zip(*batch, strict=True)])
            count += len(batch)
        seconds = time.monotonic() - began
        target.execute("drop table public.bare")
        return count / seconds


@contextmanager
def _databases(directory: Path) -> Iterator[tuple[str, str]]:
    with (
        PostgresCluster.start(directory / "primary", version=16) as primary,
        PostgresCluster.start(
            directory / "target", version=18, superuser="supabase_admin"
        ) as target,
    ):
        prepare_cluster(target)
        primary.create_database("app")
        target.create_database("project", owner="postgres")
        prepare_database(target, "project")
        one, two = primary.url("app"), target.url("project", user="postgres")
        for url, side in ((one, "primary"), (two, "supabase")):
            engine = create_engine(
                url.replace("postgresql://", "postgresql+psycopg://"), poolclass=NullPool
            )
            with engine.begin() as connection:
                if side == "primary":
                    models.Base.metadata.create_all(connection)
                    upgrade(connection)
                else:
                    upgrade(connection, "supabase", registry)
        yield one, two


if __name__ == "__main__":
    main()
